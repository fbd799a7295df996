"""How far values are from an affine map of others: ridge regression with every choice made by trying."""

import numpy as np
from sklearn.linear_model import Ridge


def left_out(x: np.ndarray, y: np.ndarray, strength: float) -> float:
    """Leave-one-out error, by leaving one out."""
    rest = 0.0
    for i in range(len(x)):
        model = Ridge(strength).fit(np.delete(x, i, 0), np.delete(y, i, 0))
        rest += float(np.square(y[i] - model.predict(x[i : i + 1])).sum())
    return rest


def nonlinearity(x: np.ndarray, y: np.ndarray) -> float:
    """1 − R² on every second sample of the best of thirteen strengths on the others."""
    train, test = (x[::2], y[::2]), (x[1::2], y[1::2])
    singular = np.linalg.svd(train[0] - train[0].mean(0), compute_uv=False)
    strengths = [10.0**k * np.square(singular).sum() / min(train[0].shape) for k in range(-10, 3)]
    model = Ridge(min(strengths, key=lambda strength: left_out(*train, strength))).fit(*train)
    return float(np.square(test[1] - model.predict(test[0])).sum() / np.square(test[1] - test[1].mean(0)).sum())
