"""Trains CIFAR-form residual and plain networks on real images, and provides these images as batches.

    python benchmarks/cifar.py --out weights [--depth 20] [--epochs 6] [--seeds 1] [--data ../shared/data/cifar10]

writes `resnet20-0.safetensors` and `plain20-0.safetensors`, for seed 0 and so on, and prints their errors. Then

    skiplab measure resnet20 --weights weights/resnet20-0.safetensors --data benchmarks/cifar.py:held_out --what lesion

deletes each block of the trained network (Veit et al. 2016, §4.1; docs/lesion.md has the result). A training that is
killed resumes.
"""

import argparse
import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as parquet
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from skiplab import Recipe, fit, models
from skiplab.data import DataSet, Split

FOLDER = Path(__file__).parents[2] / "shared" / "data" / "cifar10"
MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images, by channel


def read(part: str, folder: Path = FOLDER, limit: int | None = None) -> Split:
    """One part, `train` or `test`, as x (N, 3, 32, 32), standardised by channel, and y (N,)."""
    table = parquet.read_table(folder / f"{part}.parquet")[:limit]
    images = [np.asarray(Image.open(io.BytesIO(cell["bytes"]))) for cell in table["image"].to_pylist()]
    x = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(each).reshape(3, 1, 1) for each in (MEAN, DEVIATION))
    return Split((x - mean) / deviation, torch.tensor(table["label"].to_pylist()))


def held_out(size: int = 250, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """The test images as batches (x, y); `limit` cuts their number."""
    split = read("test", limit=limit)
    yield from zip(split.x.split(size), split.y.split(size), strict=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, default=FOLDER)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--only", choices=("resnet", "plain"))
    arguments = parser.parse_args()
    data = DataSet("cifar10", read("train", arguments.data), read("test", arguments.data), classes=10)
    for seed in range(arguments.seeds):
        for kind in [arguments.only] if arguments.only else ["resnet", "plain"]:
            name = f"{kind}{arguments.depth}-{seed}"
            torch.manual_seed(seed)
            model = models.resnet(arguments.depth, skip="A" if kind == "resnet" else None)
            recipe = Recipe(epochs=arguments.epochs, learning_rate=0.1, warmup_epochs=0.5, seed=seed)
            run = fit(model, data, recipe, arguments.out / name, on_epoch=lambda row: print(row, flush=True))
            path = arguments.out / f"{name}.safetensors"
            save_file(run.model.state_dict(), path)
            print(f"{name}: test error {run.history['test_error'].iloc[-1]:.4f}; wrote {os.path.relpath(path)}")


if __name__ == "__main__":
    main()
