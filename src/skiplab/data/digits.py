"""Real images that need no download."""

import math

import numpy as np
import torch

from skiplab.data.split import DataSet, Split
from skiplab.errors import DataError


def digits(test_fraction: float = 0.2, seed: int = 0) -> DataSet:
    """scikit-learn's 1,797 handwritten digits: x (N, 1, 8, 8) float32, ten classes, no download.

    Split at random from `seed` with the same share of every class in both parts, then standardised: one mean
    and one standard deviation, the training part's, for all pixels of both parts.
    Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository.
    """
    from sklearn.datasets import load_digits  # takes a second, which only those who want digits should pay
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    tested = math.ceil(test_fraction * len(labels)) if 0 < test_fraction < 1 else 0
    if not 10 <= tested <= len(labels) - 10:
        raise DataError(
            f"test_fraction={test_fraction}: each part needs its ten classes, so give a share between "
            f"{10 / len(labels):.3f} and {1 - 10 / len(labels):.3f}"
        )
    parts = train_test_split(np.arange(len(labels)), test_size=tested, random_state=seed, stratify=labels)
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    learn, judge = (torch.from_numpy(np.sort(part)) for part in parts)
    mean, deviation = x[learn].mean(), x[learn].std()
    x = (x - mean) / deviation
    return DataSet("digits", Split(x[learn], y[learn]), Split(x[judge], y[judge]), classes=10)
