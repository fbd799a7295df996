"""Time and memory of finding skip connections, compared with torch.export and with tools that draw or list networks.

    python benchmarks/find.py [--only speed] [--only memory] [--only scaling] [--repeats 3]

Needs torchview, torchinfo, torchlens (`pip install torchview torchinfo torchlens`).

Seconds are CPU time of one thread, so that other work on the machine hardly changes them.

- speed: capture, find, census, and each of the tools, on ResNet-50 and on a pre-activation ResNet of 1,004 layers
  (6n + 2; 501 blocks), as ratios to `torch.export` alone on the same network; sides interleaved, minimum and median.
  Also how many of the network's additions around a branch each tool reports.
- memory: peak resident memory of a fresh process that captures, over one that also finds and counts paths.
- scaling: seconds of capture, find and census for 100 to 10,000 residual blocks (Linear, ReLU, Linear, + x), their
  slopes on a log-log plot, and the plot itself (docs/figures/find-scaling.png and .svg).
"""

import argparse
import contextlib
import functools
import gc
import io
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import skiplab
from skiplab.models import resnet

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "find-scaling"
BLOCKS = (100, 200, 500, 1000, 2000, 5000, 10000)
CENSUS_BLOCKS = 2000  # its exact histogram has a number of n bits for each of n lengths: quadratic at the least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", choices=["speed", "memory", "scaling"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--blocks", type=int, nargs="+", default=BLOCKS)
    parser.add_argument("--stage", choices=["capture", "find", "census"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.stage:
        print(_peak(arguments.stage))
        return
    print(f"torch {torch.__version__}, {os.cpu_count()} cores, {platform.machine()}, 1 thread")
    parts = arguments.only or ["speed", "memory", "scaling"]
    if "speed" in parts:
        with contextlib.redirect_stdout(io.StringIO()):  # imports and caches are filled before the clock runs
            speed("", resnet(8), torch.randn(2, 3, 32, 32), 3, 1)
        speed("ResNet-50", resnet(50, "imagenet"), torch.randn(2, 3, 224, 224), 16, arguments.repeats)
        speed("pre-activation ResNet-1004", deep(), torch.randn(2, 3, 32, 32), 501, arguments.repeats)
    if "memory" in parts:
        memory(arguments.repeats)
    if "scaling" in parts:
        scaling(arguments.blocks, arguments.repeats)


def deep() -> nn.Module:
    """1,004 weight layers in 501 blocks: the depth of the CIFAR form (6n + 2) next to 1,001."""
    return resnet(1004, placement="pre")


def speed(name: str, model: nn.Module, x: Tensor, additions: int, repeats: int) -> None:
    model = model.eval()
    program = skiplab.capture(model, (x,))
    shapes = ({0: torch.export.Dim.AUTO},)
    sides: dict[str, Callable[[], object]] = {
        "torch.export": lambda: torch.export.export(model, (x,), strict=False, dynamic_shapes=shapes),
        "capture": lambda: skiplab.capture(model, (x,)),
        "find": lambda: skiplab.find(program),
        "census": lambda: skiplab.census(program),
        **{tool: functools.partial(work, model, x) for tool, work in TOOLS.items()},
    }
    print(f"\n{name}: {len(program.ops)} operators, {additions} additions around a branch")
    results = compare(sides, "torch.export", repeats)
    print(f"find / capture: {_ratio(results['find'], results['capture'])}")
    shown = {"find": len(results["find"][1]), **{tool: COUNTED[tool](results[tool][1]) for tool in TOOLS}}
    for tool, count in shown.items():
        print(f"{tool:14} {count:5} of {additions} {'skips' if tool == 'find' else 'additions in what it shows'}")


def _torchview(model: nn.Module, x: Tensor) -> Any:
    from torchview import draw_graph  # pyright: ignore[reportMissingImports]

    return draw_graph(model, input_data=x, expand_nested=True, depth=9, device="cpu")


def _torchinfo(model: nn.Module, x: Tensor) -> Any:
    from torchinfo import summary  # pyright: ignore[reportMissingImports]

    return summary(model, input_data=x, depth=9, verbose=0)


def _torchlens(model: nn.Module, x: Tensor) -> Any:
    import torchlens  # pyright: ignore[reportMissingImports]

    return torchlens.trace(model, x)


TOOLS: dict[str, Callable[[nn.Module, Tensor], Any]] = {
    "torchview": _torchview,
    "torchinfo": _torchinfo,
    "TorchLens": _torchlens,
}
# How many additions are in what each tool returns. None of them says which of these are skip connections.
COUNTED: dict[str, Callable[[Any], int]] = {
    "torchview": lambda graph: sum(">add<" in line for line in graph.visual_graph.body),
    "torchinfo": lambda summary: sum(info.class_name.lower().startswith("add") for info in summary.summary_list),
    "TorchLens": lambda log: sum(label.startswith(("add_", "iadd_")) for label in log.layer_labels),
}


def compare(sides: dict[str, Callable[[], object]], base: str, repeats: int) -> dict[str, tuple[list[float], Any]]:
    """Interleaves the sides, so that whatever slows the machine slows them all; the seconds and results of each."""
    results: dict[str, tuple[list[float], Any]] = {name: ([], None) for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            gc.collect()
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                start = time.process_time()
                result = work()
                seconds = time.process_time() - start
            results[name] = ([*results[name][0], seconds], result)
    print(f"{'':14} {'min s':>9} {'median s':>9}   ratio to {base}: min, median")
    for name, result in results.items():
        print(f"{name:14} {min(result[0]):9.3f} {statistics.median(result[0]):9.3f}   {_ratio(result, results[base])}")
    return results


def _ratio(result: tuple[list[float], Any], base: tuple[list[float], Any]) -> str:
    ratios = [a / b for a, b in zip(result[0], base[0], strict=True)]
    return f"{min(ratios):.4f}, {statistics.median(ratios):.4f}"


def memory(repeats: int) -> None:
    print("\nPeak resident memory of a fresh process, ResNet-1004 pre-activation")
    peaks = {stage: [_fresh(stage) for _ in range(repeats)] for stage in ("capture", "find", "census")}
    for stage, values in peaks.items():
        ratio = statistics.median(values) / statistics.median(peaks["capture"])
        print(f"{stage:14} {statistics.median(values):8.1f} MiB   {ratio:.4f} of the capture's")


def _fresh(stage: str) -> float:
    command = [sys.executable, __file__, "--stage", stage]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def _peak(stage: str) -> float:
    """MiB at the most, of a process that goes as far as `stage`."""
    program = skiplab.capture(deep().eval(), (torch.randn(2, 3, 32, 32),))
    if stage != "capture":
        skiplab.find(program)
    if stage == "census":
        skiplab.census(program)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1024 if sys.platform != "darwin" else 1024**2)


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(torch.relu(self.first(x)))


def scaling(sizes: list[int], repeats: int) -> None:
    rows = []
    print(f"\n{'blocks':>7} {'ops':>7} {'capture s':>10} {'find s':>9} {'census s':>9}   find / capture")
    for blocks in sizes:
        model = nn.Sequential(*(Block(8) for _ in range(blocks))).eval()
        start = time.process_time()
        program = skiplab.capture(model, (torch.randn(2, 8),))
        seconds = {"capture": time.process_time() - start}
        skips = skiplab.find(program)
        assert len(skips) == blocks, len(skips)
        for name, work in (("find", skiplab.find), ("census", skiplab.census)):
            if name == "census" and blocks > CENSUS_BLOCKS:
                continue
            seconds[name] = min(_timed(work, program) for _ in range(repeats))
        rows += [{"blocks": blocks, "step": step, "seconds": value} for step, value in seconds.items()]
        print(
            f"{blocks:7} {len(program.ops):7} {seconds['capture']:10.2f} {seconds['find']:9.3f} "
            f"{seconds.get('census', math.nan):9.3f}   {seconds['find'] / seconds['capture']:.4f}"
        )
    for step in ("capture", "find", "census"):
        print(f"slope of log {step} over log blocks: {_slope([row for row in rows if row['step'] == step]):.2f}")
    _plot(rows)


def _timed(work: Callable[[Any], object], program: Any) -> float:
    gc.collect()
    start = time.process_time()
    work(program)
    return time.process_time() - start


def _slope(rows: list[dict[str, Any]]) -> float:
    """Least squares on logarithms: 1 is linear."""
    xs, ys = [math.log(row["blocks"]) for row in rows], [math.log(row["seconds"]) for row in rows]
    return statistics.linear_regression(xs, ys).slope


def _plot(rows: list[dict[str, Any]]) -> None:
    import altair
    import pandas

    slopes = {step: _slope([row for row in rows if row["step"] == step]) for step in ("capture", "find", "census")}
    table = pandas.DataFrame([{**row, "step": f"{row['step']} (slope {slopes[row['step']]:.2f})"} for row in rows])
    order = [f"{step} (slope {slope:.2f})" for step, slope in slopes.items()]
    base = altair.Chart(table, title="Seconds over residual blocks, both axes logarithmic")
    chart = base.mark_line(point={"size": 60}).encode(
        x=altair.X(
            "blocks:Q",
            scale=altair.Scale(type="log", nice=False),
            axis=altair.Axis(values=sorted(table["blocks"].unique().tolist())),
            title="residual blocks",
        ),
        y=altair.Y("seconds:Q", scale=altair.Scale(type="log"), axis=altair.Axis(tickCount=6), title="seconds"),
        color=altair.Color("step:N", sort=order, title=None),
        shape=altair.Shape("step:N", sort=order, legend=None),
    )
    chart = chart.properties(width=460, height=300)
    FIGURE.parent.mkdir(exist_ok=True)
    chart.save(str(FIGURE.with_suffix(".png")), ppi=144)
    chart.save(str(FIGURE.with_suffix(".svg")))


if __name__ == "__main__":
    main()
