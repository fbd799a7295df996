"""Handwritten digits: real images without a download."""

import math

import numpy as np
import torch

from skiplab.data.split import DataSet, Split
from skiplab.errors import DataError


def digits(test_fraction: float = 0.2, seed: int = 0) -> DataSet:
    """scikit-learn's 1,797 handwritten digits: x (N, 1, 8, 8) float32, y (N,) int64, ten classes.

    The split is stratified by class. Pixels are standardized with the mean and standard deviation of the training
    split. Source: Alpaydin and Kaynak 1998, "Optical Recognition of Handwritten Digits", UCI Machine Learning
    Repository.

    Args:
        test_fraction: share of the images in the test split, from 0 to 1.
        seed: seed of the split.

    Raises:
        DataError: one of the splits would have fewer than ten images.
    """
    from sklearn.datasets import load_digits  # importing it takes a second
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    test_count = math.ceil(test_fraction * len(labels)) if 0 < test_fraction < 1 else 0
    if not 10 <= test_count <= len(labels) - 10:
        raise DataError(
            f"test_fraction={test_fraction}: both splits need all ten classes: give a share from "
            f"{10 / len(labels):.3f} to {1 - 10 / len(labels):.3f}"
        )
    parts = train_test_split(np.arange(len(labels)), test_size=test_count, random_state=seed, stratify=labels)
    x = torch.from_numpy(images).float().reshape(-1, 1, 8, 8)
    y = torch.from_numpy(labels).long()
    train, test = (torch.from_numpy(np.sort(part)) for part in parts)
    mean, deviation = x[train].mean(), x[train].std()
    x = (x - mean) / deviation
    return DataSet("digits", Split(x[train], y[train]), Split(x[test], y[test]), classes=10)
