"""The share of an output that the best affine map of the input does not explain."""

import math

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from torch import Tensor

_PENALTIES = np.logspace(-10, 2, 13)  # in units of the features' mean squared singular value
_CHUNK = 2**14  # features converted to double precision at a time


def unexplained(fitted: tuple[Tensor, Tensor], scored: tuple[Tensor, Tensor]) -> float:
    """1 − R² = ‖Y − Ŷ‖² / ‖Y − Ȳ‖² on (X, Y) = `scored`, of ridge regression on `fitted`; NaN where Y is constant.

    X: (rows, features), Y: (rows, targets), R² weighted by each target's variance. The penalty is the one
    with the least leave-one-out error on the fitted rows.
    """
    x, held_x = _coordinates(fitted[0], scored[0])
    y, held_y = (part.double().cpu().numpy() for part in (fitted[1], scored[1]))
    centered = x - x.mean(0)
    unit = np.square(centered).sum() / min(x.shape) or 1.0
    model = RidgeCV(alphas=unit * _PENALTIES).fit(x, y)
    rest = np.square(held_y - model.predict(held_x).reshape(held_y.shape)).sum()
    variance = np.square(held_y - held_y.mean(0)).sum()
    return float(rest / variance) if variance else math.nan


def _coordinates(*parts: Tensor) -> list[np.ndarray]:
    """The features in double precision, rotated into as many dimensions as there are rows if they have more.

    Ridge regression depends only on inner products of features, which the rotation preserves.
    """
    sizes, features = [len(part) for part in parts], parts[0].shape[1]
    if features <= sum(sizes):
        return [part.double().cpu().numpy() for part in parts]
    x = torch.cat(parts)
    middle = x[: sizes[0]].mean(0)
    gram = torch.zeros(len(x), len(x), dtype=torch.double, device=x.device)
    for start in range(0, features, _CHUNK):
        some = (x[:, start : start + _CHUNK] - middle[start : start + _CHUNK]).double()
        gram += some @ some.T
    values, vectors = np.linalg.eigh(gram.cpu().numpy())
    return np.split(vectors * np.sqrt(values.clip(min=0)), [sizes[0]])
