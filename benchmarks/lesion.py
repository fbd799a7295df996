"""Time of lesions of all blocks of a residual network, exact, fast and estimated, compared with a naive loop.

    pip install captum nnsight
    python benchmarks/lesion.py [--repeats 5] [--depth 110] [--batch-size 256] [--weights W] [--parts ...]

- blocks: a CIFAR ResNet of `--depth` layers and batches of `--batch-size`. "naive" is one pass of the original module
  per block, with a forward hook that returns zeros for its branch; the losses of `measure.lesion` are bit-identical.
- resnet50: the same for the ImageNet form, batch 4.
- tools: ResNet-56, batch 16, compared with nnsight (one trace per block) and Captum (LayerFeatureAblation on the last
  layer of each block), whose results agree with those of `measure.lesion`.

Prints minimum and median over the repeats: seconds of each side, and its ratios to one forward pass and to the naive
loop (to `measure.lesion` for the tools). With `--weights` the images are CIFAR-10's (see benchmarks/cifar.py), else
random; then batch norm's statistics are those of the images, and ranks say little about a trained network.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

import skiplab
from skiplab.io.weights import load_weights
from skiplab.measure import lesion
from skiplab.measure.accelerate import faster
from skiplab.measure.estimate import estimate
from skiplab.measure.lesion import deviation
from skiplab.models import resnet

Sides = dict[str, Callable[[], Any]]
PARTS = ("blocks", "resnet50", "tools")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--depth", type=int, default=110)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    arguments = parser.parse_args()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}")
    torch.manual_seed(0)
    if "blocks" in arguments.parts:
        model = resnet(arguments.depth)
        if arguments.weights:
            load_weights(model, arguments.weights)
        x, y = _images(arguments.batch) if arguments.weights else _noise(model, arguments.batch, 10)
        _blocks(f"ResNet-{arguments.depth}, CIFAR form", model.eval(), x, y, arguments.repeats)
    if "resnet50" in arguments.parts:
        model = resnet(50, "imagenet")
        _blocks("ResNet-50", model, *_noise(model, 4, 1000), arguments.repeats)
    if "tools" in arguments.parts:
        model = resnet(56)
        _tools(model, *_noise(model, 16, 10), arguments.repeats)


def _images(batch: int) -> tuple[Tensor, Tensor]:
    from cifar import held_out  # reads the data

    return next(held_out(batch, limit=batch))


def _noise(model: nn.Module, batch: int, classes: int) -> tuple[Tensor, Tensor]:
    shape = model.example_input_shape
    x, y = torch.randn(batch, *shape), torch.randint(classes, (batch,))  # type: ignore[misc]
    update_bn([x], model)
    model.eval()
    return x, y


def _blocks(name: str, model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> None:
    program = skiplab.capture(model, (x,))
    skips, batches = skiplab.find(program), [(x, y)]
    start = time.perf_counter()
    fast = faster(program)
    seconds = time.perf_counter() - start
    layers = [program.by_name[skip.branch[0]].module for skip in skips]
    sides: Sides = {
        "one forward": lambda: _loss(model, x, y),
        "naive loop": lambda: [_without(model, layer, x, y) for layer in layers],
        "lesion": lambda: lesion(program, skips, batches, F.cross_entropy),
        "lesion, fast": lambda: lesion(fast, skips, batches, F.cross_entropy),
        "estimate": lambda: estimate(program, skips, batches, F.cross_entropy, exact=0),
    }
    print(f"\n{name}: {len(skips)} blocks, batch {len(x)}; `faster` took {seconds:.2f} s, once")
    results = _compare(sides, ("one forward", "naive loop"), repeats)
    exact, estimated = results["lesion"], results["estimate"]
    assert results["naive loop"] == exact["loss"].to_list(), "the two must agree bit for bit"
    gap = (results["lesion, fast"]["loss_change"] - exact["loss_change"]).abs().max()
    types = sorted({str(tensor.dtype) for tensor in fast.tensors.values() if tensor.is_floating_point()})
    print("naive loop and lesion agree bit for bit")
    print(
        f"fast ({', '.join(types)}): largest deviation of loss_change {gap:.1e} (`deviation` of three skips says "
        f"{deviation(program, fast, skips, batches, F.cross_entropy):.1e}); loss_change is from "
        f"{exact['loss_change'].min():.1e} to {exact['loss_change'].max():.1e}"
    )
    ranks = {
        name: spearmanr(exact["loss_change"], estimated[name]).statistic  # type: ignore[attr-defined]
        for name in ("loss_change", "first_order")
    }
    print(f"estimate: Spearman {ranks['loss_change']:.3f}; of its first order alone {ranks['first_order']:.3f}")


def _loss(model: nn.Module, x: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(F.cross_entropy(model(x), y))


def _without(model: nn.Module, layer: str, x: Tensor, y: Tensor) -> float:
    def zeros(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return torch.zeros_like(output)

    handle = model.get_submodule(layer).register_forward_hook(zeros)
    try:
        return _loss(model, x, y)
    finally:
        handle.remove()


def _tools(model: nn.Module, x: Tensor, y: Tensor, repeats: int) -> None:
    try:
        from captum.attr import LayerFeatureAblation  # pyright: ignore[reportMissingImports]
        from nnsight import NNsight  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise SystemExit(f"{error}: pip install captum nnsight, or leave out --parts tools") from None
    program = skiplab.capture(model, (x,))
    skips = skiplab.find(program)
    layers = [program.by_name[skip.branch[0]].module for skip in skips]
    wrapped = NNsight(model)

    def nnsight() -> list[float]:
        losses = []
        with torch.no_grad():
            for layer in layers:
                with wrapped.trace(x):
                    place = wrapped.get(layer)
                    place.output = torch.zeros_like(place.output)
                    output = wrapped.output.save()
                losses.append(float(F.cross_entropy(output, y)))  # type: ignore[possibly-unbound]
        return losses

    def captum() -> list[float]:
        changes = []
        whole_layer = torch.zeros(1, 1, 1, 1, dtype=torch.long)  # as one feature
        for layer in layers:
            ablation = LayerFeatureAblation(_loss_of(model, y), model.get_submodule(layer))
            with torch.no_grad():
                change = ablation.attribute(x, layer_baselines=0, layer_mask=whole_layer)
            changes.append(-float(change.flatten()[0]))  # type: ignore[union-attr]
        return changes

    sides: Sides = {
        "one forward": lambda: _loss(model, x, y),
        "lesion": lambda: lesion(program, skips, [(x, y)], F.cross_entropy),
        "nnsight": nnsight,
        "captum": captum,
    }
    print(f"\nResNet-56, CIFAR form: {len(skips)} blocks, batch {len(x)}, compared with other tools")
    results = _compare(sides, ("one forward", "lesion"), repeats)
    exact = results["lesion"]
    torch.testing.assert_close(results["nnsight"], exact["loss"].to_list(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(results["captum"], exact["loss_change"].to_list(), rtol=1e-5, atol=1e-5)
    print("all three agree")


def _loss_of(model: nn.Module, y: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda images: F.cross_entropy(model(images), y)


def _compare(sides: Sides, bases: tuple[str, ...], repeats: int) -> dict[str, Any]:
    """Interleaves the sides, so that whatever slows the machine slows them all. Returns their last results."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    for _ in range(repeats):
        for name, work in sides.items():
            start = time.perf_counter()
            results[name] = work()
            seconds[name].append(time.perf_counter() - start)
    print(f"{'':14}{'seconds':>20}" + "".join(f"{f'/ {base}':>20}" for base in bases))
    print(f"{'':14}" + f"{'min':>10}{'median':>10}" * (1 + len(bases)))
    for name, times in seconds.items():
        ratios = [[a / b for a, b in zip(times, seconds[base], strict=True)] for base in bases]
        cells = [f"{min(each):10.3f}{statistics.median(each):10.3f}" for each in (times, *ratios)]
        print(f"{name:14}" + "".join(cells), flush=True)
    return results


if __name__ == "__main__":
    main()
