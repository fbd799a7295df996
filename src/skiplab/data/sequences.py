"""Sequence tasks with long-range dependencies, without a download."""

from collections.abc import Callable

import torch

from skiplab.data.digits import digits
from skiplab.data.split import IGNORED, DataSet, Split
from skiplab.errors import DataError


def adding(length: int = 64, count: int = 2000, tests: int = 500, seed: int = 0) -> DataSet:
    """The adding problem: x (N, length, 2) float32, y (N, 1) float32.

    Each step has a value, uniform in [0, 1), and a mark, 0 or 1. Two steps are marked, one in each half of the
    sequence. The target is the sum of their values. Baseline: the constant output 1 has a mean squared error of 1/6 ≈
    0.167, the variance of the sum. Source: Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", §5.4, in the form
    of Arjovsky et al. 2016, arXiv:1511.06464, §4.2.

    Args:
        length: number of steps, at least 2.
        count, tests: number of training and of test sequences.
        seed: seed of all values and marks.

    Raises:
        DataError: an argument is out of range.
    """
    _require_at_least("length", length, 2)
    generator = torch.Generator().manual_seed(seed)

    def split(size: int) -> Split:
        values = torch.rand(size, length, generator=generator)
        half = length // 2
        first = torch.randint(0, half, (size,), generator=generator)
        second = torch.randint(half, length, (size,), generator=generator)
        marks = torch.zeros(size, length)
        marks[torch.arange(size), first] = 1
        marks[torch.arange(size), second] = 1
        return Split(torch.stack((values, marks), -1), (values * marks).sum(1, keepdim=True))

    return DataSet("adding", *_parts(split, count, tests), classes=None)


def copying(
    lag: int = 32, symbols: int = 5, alphabet: int = 8, count: int = 2000, tests: int = 500, seed: int = 0
) -> DataSet:
    """The copy memory problem: x (N, T, alphabet + 2) float32, y (N, T) int64, with T = 2 · symbols + lag.

    The input is one-hot at each step: `symbols` symbols (0 … alphabet − 1), then `lag` blanks, the last one replaced by
    a delimiter, then `symbols` more blanks, where the network outputs the symbols in their order. Targets are −100
    (ignored) before these steps. Chance: accuracy 1 / alphabet, cross-entropy ln(alphabet) nats.
    Source: Arjovsky et al. 2016, arXiv:1511.06464, §4.1, whose targets also include the blanks.

    Args:
        lag: steps between the symbols and the output.
        symbols: number of symbols to copy.
        alphabet: number of classes.
        count, tests: number of training and of test sequences.
        seed: seed of the symbols.

    Raises:
        DataError: an argument is out of range.
    """
    for name, value in (("lag", lag), ("symbols", symbols)):
        _require_at_least(name, value, 1)
    _require_at_least("alphabet", alphabet, 2)
    generator = torch.Generator().manual_seed(seed)
    blank, delimiter = alphabet, alphabet + 1

    def split(size: int) -> Split:
        copied = torch.randint(0, alphabet, (size, symbols), generator=generator)
        tokens = torch.full((size, 2 * symbols + lag), blank)
        tokens[:, :symbols] = copied
        tokens[:, symbols + lag - 1] = delimiter
        target = torch.full_like(tokens, IGNORED)
        target[:, symbols + lag :] = copied
        return Split(torch.nn.functional.one_hot(tokens, alphabet + 2).float(), target)

    return DataSet("copying", *_parts(split, count, tests), classes=alphabet)


def pixels(test_fraction: float = 0.2, seed: int = 0) -> DataSet:
    """Sequential digits, one pixel per step, row by row: x (N, 64, 1) float32, y (N,) int64, ten classes.

    Arguments and errors are those of `digits`. Source: Le, Jaitly and Hinton 2015, arXiv:1504.00941, §4.2, with the 784
    pixels of MNIST.
    """
    images = digits(test_fraction, seed)
    train, test = (Split(part.x.flatten(1).unsqueeze(-1), part.y) for part in (images.train, images.test))
    return DataSet("pixels", train, test, classes=10)


def _parts(split: Callable[[int], Split], count: int, tests: int) -> tuple[Split, Split]:
    _require_at_least("count", count, 1)
    _require_at_least("tests", tests, 1)
    return split(count), split(tests)


def _require_at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise DataError(f"{name}={value}: give a number of at least {least}")
