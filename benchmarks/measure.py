"""Time and memory of contribution, clipping and gradient together, compared with a bare pass and with module hooks.

    python benchmarks/measure.py [--depth 56] [--batch-size 256] [--repeats 5] [--only time|memory|lengths|hooks]

- time: one training pass, forward and backward, of a CIFAR-form ResNet by itself; with `measure.together`; with a
  norm taken in a `register_full_backward_hook` on every leaf module, as tutorials do;
- hooks: on how many of torchvision's and timm's architectures such hooks work at all, and `measure.together`;
- lengths: the gradient by path length, compared with one pass per length, and with one bare pass;
- memory: peak of the process over 2 and over 8 batches, each in a process of its own.

Prints minimum and median over the repeats, for each side and for their ratio.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from core import compare
from torch import Tensor, nn
from torch.nn import functional as F

import skiplab
from skiplab import measure
from skiplab.analysis.edges import branch_edges
from skiplab.graph.interpreter import Execution
from skiplab.models import resnet

NAMES = """torchvision:resnet18 torchvision:mobilenet_v2 torchvision:densenet121 torchvision:googlenet
torchvision:efficientnet_b0 torchvision:regnet_y_400mf torchvision:shufflenet_v2_x1_0 torchvision:vit_b_16 timm:resnet18
timm:mobilenetv3_small_050 timm:convnext_atto timm:ghostnet_050 timm:res2net50_14w_8s timm:deit_tiny_patch16_224
timm:dla34""".split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=56)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=("time", "memory", "lengths", "hooks"))
    arguments = parser.parse_args()
    parts = {"time": _time, "hooks": _hooks, "lengths": _lengths, "memory": _memory}
    for name, part in parts.items():
        if arguments.only in (None, name):
            part(arguments.depth, arguments.batch, arguments.repeats)


def _setting(depth: int, batch: int) -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    return resnet(depth).train(), torch.randn(batch, 3, 32, 32), torch.randint(10, (batch,))


def _bare(model: nn.Module, x: Tensor, y: Tensor) -> None:
    model.zero_grad()
    F.cross_entropy(model(x), y).backward()


def _time(depth: int, batch: int, repeats: int) -> None:
    model, x, y = _setting(depth, batch)
    program = skiplab.capture(model, (x,), train=True)
    skips = skiplab.find(program)
    sides = {
        "bare pass": lambda: _bare(model, x, y),
        "measure.together": lambda: measure.together(program, skips, [(x, y)], F.cross_entropy),
        "measure.gradient": lambda: measure.gradient(program, skips, [(x, y)], F.cross_entropy),
        "module hooks": lambda: _hooked(model, lambda: _bare(model, x, y)),
    }
    print(f"ResNet-{depth}, batch {batch}, training pass; module hooks take one norm a layer")
    compare(sides, "bare pass", repeats)


def _hooked(model: nn.Module, work: Callable[[], None]) -> list[Tensor]:
    norms: list[Tensor] = []
    leaves = [module for module in model.modules() if not list(module.children())]
    handles = [
        leaf.register_full_backward_hook(lambda _m, _i, outputs: norms.append(outputs[0].norm())) for leaf in leaves
    ]
    try:
        work()
    finally:
        for handle in handles:
            handle.remove()
    return norms


def _hooks(_depth: int, _batch: int, _repeats: int) -> None:
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    # torchvision's wheel wants the operators of its CUDA build.
    import torchvision_shim  # noqa: F401  # type: ignore[import-not-found]
    from skiplab.loading.resolve import resolve

    print(f"\nNorms in a backward hook on every leaf module, and measure.together, on {len(NAMES)} architectures")
    worked: dict[str, int] = dict.fromkeys(("module hooks", "measure.together"), 0)
    for name in NAMES:
        model = resolve(name).model.train()
        x = torch.randn(2, 3, 224, 224)

        def loss(output: object, _: object = None) -> Tensor:
            return (output if isinstance(output, Tensor) else output[0]).square().mean()  # type: ignore[index]

        def ours(model: nn.Module = model, x: Tensor = x) -> None:
            program = skiplab.capture(model, (x,), train=True)
            measure.together(program, skiplab.find(program), [(x, None)], loss)

        for side, work in (
            ("module hooks", lambda model=model, x=x: _hooked(model, lambda: loss(model(x)).backward())),
            ("measure.together", ours),
        ):
            try:
                work()
                worked[side] += 1
            except Exception as error:
                print(f"  {name}: {side}: {type(error).__name__}: {str(error).splitlines()[0][:100]}")
    for side, count in worked.items():
        print(f"{side:16} {count} of {len(NAMES)}")


def _lengths(depth: int, _batch: int, repeats: int) -> None:
    torch.manual_seed(0)
    model, x, y = resnet(depth).eval(), torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    program = skiplab.capture(model, (x,))
    skips = skiplab.find(program)
    edges = {edge for skip in skips for edge in branch_edges(program, skip)}
    count = len(skips) + 1

    def shifted(value: Tensor) -> Tensor:
        alias = value.view_as(value)
        alias.register_hook(lambda grad: torch.cat([torch.zeros_like(grad[: len(x)]), grad[: -len(x)]]))
        return alias

    def repeated() -> None:
        copies = x.repeat(count, 1, 1, 1).requires_grad_()
        frozen = {name: tensor.detach() for name, tensor in program.tensors.items()}
        output = Execution(program, (copies,), patches=dict.fromkeys(edges, shifted), tensors=frozen).finish()
        torch.autograd.grad(F.cross_entropy(output[: len(x)], y), copies)

    sides = {
        "bare pass": lambda: _bare(model, x, y),
        "measure.lengths": lambda: measure.lengths(program, skips, [(x, y)], F.cross_entropy),
        "repeated batch": repeated,
    }
    print(f"\nGradient by path length, ResNet-{depth}, {len(skips)} blocks, batch 8")
    compare(sides, "repeated batch", min(repeats, 3))


def _memory(depth: int, batch: int, repeats: int) -> None:
    print(f"\nPeak memory of a process, ResNet-{depth}, batch {batch}, MiB beyond that of loading everything")
    print(f"{'':16} {'batches':>8} {'min':>6} {'median':>7}")
    context = multiprocessing.get_context("spawn")
    for count in (2, 8):
        for side in ("bare pass", "measure.together"):
            peaks = []
            for _ in range(repeats):
                with context.Pool(1) as pool:
                    peaks.append(pool.apply(_peak, (side, depth, batch, count)))
            print(f"{side:16} {count:8} {min(peaks):6.0f} {statistics.median(peaks):7.0f}")


def _peak(side: str, depth: int, batch: int, count: int) -> float:
    model, x, y = _setting(depth, batch)
    program = skiplab.capture(model, (x[:2],), train=True)
    skips = skiplab.find(program)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if side == "bare pass":
        for _ in range(count):
            _bare(model, x, y)
    else:
        measure.together(program, skips, [(x, y)] * count, F.cross_entropy)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    main()
