"""Images per second and error of a ResNet-20, trained by `skiplab.fit`'s loop and by a plain PyTorch loop.

    python benchmarks/throughput.py [--quick] [--json out.json] [--data ../shared/data/cifar10]

The plain loop ("user"): eager float32, a `DataLoader` without workers and one with two, whose transforms crop, mirror
and standardize image by image as torchvision's do on tensors (padding 4). Skiplab's loop: the same on a whole batch, in
float32 and with `precision="fast"`. An epoch has the steps, then loss and error of the test part; Skiplab's loop also
evaluates a twentieth of the training part (`eval_samples`), or all of it, which is the default of `fit`. Images are
decoded before, on both sides; a loader that decodes JPEG files is slower.

Speed: sides take turns, so that other work on the machine slows all of them. Printed are minimum and median over the
repeats, ratios to the better plain loop in the same repeat, and the ratio of the shortest times.
Error: of networks trained by both from the same initial weights, paired by seed, with Student's 95 % interval of the
difference.
"""

import argparse
import json
import platform
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from cifar import DEVIATION, FOLDER, MEAN, read
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from skiplab import Recipe
from skiplab.data import DataSet, Split
from skiplab.models import resnet
from skiplab.stats.intervals import student
from skiplab.training.fit import fabric_on
from skiplab.training.loop import Loop, evaluate
from skiplab.training.precision import resolve_precision
from skiplab.training.recipe import learning_rate_at

Pair = tuple[Tensor, Tensor]
PADDING = 4
BASE = ("user, 0 workers", "user, 2 workers")
SIDES: dict[str, dict[str, Any]] = {  # of Skiplab's loop
    "skiplab, float32": {"precision": "32-true"},
    "skiplab, fast": {"precision": "fast"},
    "skiplab, fast, all evaluated": {"precision": "fast", "eval_samples": 0},
}


class Pictures(Dataset[Pair]):
    """Bytes (N, 3, 32, 32) and labels, transformed one by one as they are asked for."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.labels = images, labels
        self.mean, self.deviation = (torch.tensor(each).reshape(3, 1, 1) for each in (MEAN, DEVIATION))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Pair:
        image = F.pad(self.images[index], (PADDING,) * 4)
        top, left = (int(torch.randint(2 * PADDING + 1, ())) for _ in range(2))
        image = image[:, top : top + 32, left : left + 32]
        if torch.rand(()) < 0.5:
            image = image.flip(-1)
        return (image.float() / 255 - self.mean) / self.deviation, self.labels[index]


class UserLoop:
    """The loop of PyTorch's tutorials."""

    def __init__(self, data: DataSet, recipe: Recipe, workers: int) -> None:
        self.data, self.recipe = data, recipe
        mean, deviation = (torch.tensor(each).reshape(3, 1, 1) for each in (MEAN, DEVIATION))
        images = ((data.train.x * deviation + mean) * 255).round().to(torch.uint8)
        self.loader = DataLoader(
            Pictures(images, data.train.y),
            recipe.batch_size,
            shuffle=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator().manual_seed(recipe.seed),
        )
        self.model = network(recipe.seed)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
        )

    def epoch(self, epoch: int) -> float:
        """The test part's error after it."""
        self.model.train()
        for number, (x, y) in enumerate(self.loader, start=(epoch - 1) * len(self.loader)):
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate_at(self.recipe, number, len(self.loader))
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(x), y).backward()
            self.optimizer.step()
        return evaluate(self.model, self.data.test, self.recipe.batch_size)[1]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return resnet(20)


def ours(data: DataSet, recipe: Recipe, options: dict[str, Any]) -> Callable[[int], float]:
    """`fit`'s own loop: runs one epoch per call, and returns the test error."""
    evaluated = {"eval_samples": len(data.train) // 20}
    recipe = replace(recipe, **{"augment": "crop-flip", "padding": PADDING, **evaluated, **options})
    loop = Loop(fabric_on("cpu", recipe.precision), network(recipe.seed), data, recipe)
    return lambda epoch: loop.epoch(epoch)[-1]["test_error"]


def speed(data: DataSet, repeats: int) -> list[dict[str, object]]:
    """One row per side: training images per second, over whole epochs."""
    recipe = Recipe(epochs=repeats + 2, learning_rate=0.02)  # the last one evaluates all samples, and is not reached
    works = {name: UserLoop(data, recipe, workers).epoch for name, workers in zip(BASE, (0, 2), strict=True)}
    works |= {name: ours(data, recipe, options) for name, options in SIDES.items()}
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for epoch in range(1, repeats + 2):
        for name, work in works.items():
            start = perf_counter()
            work(epoch)
            if epoch > 1:  # the first one warms up
                seconds[name].append(perf_counter() - start)
    best = [min(pair) for pair in zip(*(seconds[name] for name in BASE), strict=True)]
    rows = []
    for name, times in seconds.items():
        rates, ratios = [len(data.train) / t for t in times], [b / t for b, t in zip(best, times, strict=True)]
        row: dict[str, object] = {"side": name}
        for what, values in (("images/s", rates), ("ratio", ratios)):
            row |= {f"{what} min": min(values), f"{what} median": statistics.median(values)}
        rows.append(row | {"ratio of least times": min(best) / min(times)})
    return rows


def accuracy(data: DataSet, seeds: int, epochs: int) -> dict[str, object]:
    """Test error after training by both, and the difference's mean with its interval."""
    errors: dict[str, list[float]] = {"user": [], "skiplab, fast": []}
    for seed in range(seeds):
        recipe = Recipe(epochs=epochs, learning_rate=0.1, warmup_epochs=0.5, seed=seed)
        torch.manual_seed(seed)
        works = {"user": UserLoop(data, recipe, 0).epoch, "skiplab, fast": ours(data, recipe, {"precision": "fast"})}
        for name, work in works.items():
            errors[name].append([work(epoch) for epoch in range(1, epochs + 1)][-1])
            print(f"seed {seed}, {name}: test error {errors[name][-1]:.2%}", flush=True)
    change = student(np.subtract(errors["skiplab, fast"], errors["user"]))
    found = {"difference": change.mean, "low": change.low, "high": change.high}
    return {"errors": errors, **found, "interval includes zero": bool(change.low <= 0 <= change.high)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--images", type=int, default=1920, help="of an epoch whose time is taken")
    parser.add_argument("--seeds", type=int, default=3, help="of the comparison of errors; 0 leaves it out")
    parser.add_argument("--epochs", type=int, default=8, help="of the comparison of errors")
    parser.add_argument("--learn", type=int, default=4000, help="images of the comparison of errors")
    parser.add_argument("--quick", action="store_true", help="about two minutes: shows that it runs, and no more")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.repeats, options.images, options.seeds, options.epochs, options.learn = 2, 1280, 3, 1, 1280
    torch.set_num_threads(options.threads)
    train, test = read("train", options.data, max(options.images, options.learn)), read("test", options.data, 2000)
    rows = speed(part(train, test, options.images, options.images // 5), options.repeats)
    print(f"{'':28}{'images/s min':>13}{'median':>9}{'ratio min':>11}{'median':>9}{'of least':>10}")
    for row in rows:
        print("{:28}{:13.0f}{:9.0f}{:11.2f}{:9.2f}{:10.2f}".format(*row.values()))
    found = {"machine": machine(options.threads), "speed": rows}
    if options.seeds:
        judged = accuracy(part(train, test, options.learn, 2000), options.seeds, options.epochs)
        print(
            "test error, skiplab − user: {difference:+.2%} (95 % interval {low:+.2%} to {high:+.2%})".format(**judged)
        )
        found["accuracy"] = judged
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


def part(train: Split, test: Split, learn: int, judge: int) -> DataSet:
    """The first images of both parts; a fifth as many to judge by as to learn from is CIFAR-10's own share."""
    return DataSet("cifar10", *(Split(s.x[:n], s.y[:n]) for s, n in ((train, learn), (test, judge))), classes=10)


def machine(threads: int) -> dict[str, object]:
    known: dict[str, object] = {
        "torch": torch.__version__,
        "threads": threads,
        "processor": platform.processor() or platform.machine(),
    }
    return known | {"fast": resolve_precision("fast", torch.device("cpu"))}


if __name__ == "__main__":
    main()
