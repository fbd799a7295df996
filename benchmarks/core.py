"""Time of `find`, `census` and exact lesions, as ratios to `torch.export` and a naive loop, measured side by side.

    python benchmarks/core.py [--repeats 5]

- find and census on a 1,202-layer residual network, over the time of `torch.export` on the same network;
- lesions of all blocks, over the naive loop that runs the whole network once for each block.

Prints minimum and median over the repeats, for each side and for their ratio.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

import skiplab
from skiplab.analysis.edges import branch_edges
from skiplab.graph.interpreter import Execution
from skiplab.models import resnet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    _structure(repeats)
    _lesions(repeats)


def _structure(repeats: int) -> None:
    model = resnet(1202).eval()
    x = torch.randn(2, 3, 32, 32)
    shapes = ({0: torch.export.Dim.AUTO},)
    program = skiplab.capture(model, (x,))
    sides = {
        "export": lambda: torch.export.export(model, (x,), strict=False, dynamic_shapes=shapes),
        "capture": lambda: skiplab.capture(model, (x,)),
        "find": lambda: skiplab.find(program),
        "census": lambda: skiplab.census(program),
    }
    print("ResNet-1202, CIFAR form; export is torch.export alone")
    compare(sides, "export", min(repeats, 3))


def _lesions(repeats: int) -> None:
    model = resnet(56, width=16).eval()
    x, y = torch.randn(64, 3, 32, 32), torch.randint(10, (64,))
    program = skiplab.capture(model, (x,))
    skips = skiplab.find(program)

    def naive() -> list[float]:
        losses = []
        with torch.no_grad():
            for skip in skips:
                patches = dict.fromkeys(branch_edges(program, skip), torch.zeros_like)
                losses.append(float(F.cross_entropy(Execution(program, (x,), patches=patches).finish(), y)))
        return losses

    def shared() -> list[float]:
        return list(skiplab.measure.lesion(program, skips, [(x, y)], F.cross_entropy)["loss"])

    assert naive() == shared(), "the two must agree bit for bit"
    print(f"\nLesions of {len(skips)} blocks, ResNet-56, batch 64 (results are bit-identical)")
    compare(
        {"naive loop": naive, "measure.lesion": shared, "one forward": lambda: _forward(model, x)},
        "naive loop",
        repeats,
    )


def _forward(model: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x)


def compare(sides: dict[str, Callable[[], object]], base: str, repeats: int) -> None:
    """Interleaves the sides, so that whatever slows the machine slows them all."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - start)
    print(f"{'':16} {'min s':>9} {'median s':>9} {'ratio min':>10} {'ratio median':>13}")
    for name, times in seconds.items():
        ratios = [a / b for a, b in zip(times, seconds[base], strict=True)]
        print(
            f"{name:16} {min(times):9.3f} {statistics.median(times):9.3f} "
            f"{min(ratios):10.4f} {statistics.median(ratios):13.4f}"
        )


if __name__ == "__main__":
    main()
