"""Tasks in which what counts lies many steps back; no download."""

from collections.abc import Callable

import torch

from skiplab.data.digits import digits
from skiplab.data.split import IGNORED, DataSet, Split
from skiplab.errors import DataError


def adding(length: int = 64, count: int = 2000, tests: int = 500, seed: int = 0) -> DataSet:
    """The adding problem: x (N, length, 2) holds a value, uniform in 0 … 1, and a mark, 0 or 1; y (N, 1) a sum.

    Two steps are marked, one in each half of the sequence, and asked for is the sum of their values. Baseline: to
    answer 1 always has a mean squared error of 1/6 ≈ 0.167, the variance of the sum of two such values.
    Hochreiter and Schmidhuber 1997, "Long Short-Term Memory", §5.4, in the form of Arjovsky et al. 2016,
    arXiv:1511.06464, §4.2.
    """
    _at_least("length", length, 2)
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
    """The copy memory problem: symbols to remember, `lag` empty steps, then as many to write them down again.

    x (N, 2 · symbols + lag, alphabet + 2), one of them 1 at each step: a symbol (0 … alphabet − 1), empty, or, at
    the last of the empty steps, the sign to begin. y (N, 2 · symbols + lag) int64: the symbols at the last steps,
    in their order, and nothing asked (−100) before. Chance: 1 / alphabet right, ln(alphabet) nats.
    Arjovsky et al. 2016, arXiv:1511.06464, §4.1, where being silent at the right steps is asked for as well.
    """
    for name, value in (("lag", lag), ("symbols", symbols)):
        _at_least(name, value, 1)
    _at_least("alphabet", alphabet, 2)
    generator = torch.Generator().manual_seed(seed)
    empty, begin = alphabet, alphabet + 1

    def split(size: int) -> Split:
        drawn = torch.randint(0, alphabet, (size, symbols), generator=generator)
        tokens = torch.full((size, 2 * symbols + lag), empty)
        tokens[:, :symbols] = drawn
        tokens[:, symbols + lag - 1] = begin
        asked = torch.full_like(tokens, IGNORED)
        asked[:, symbols + lag :] = drawn
        return Split(torch.nn.functional.one_hot(tokens, alphabet + 2).float(), asked)

    return DataSet("copying", *_parts(split, count, tests), classes=alphabet)


def pixels(test_fraction: float = 0.2, seed: int = 0) -> DataSet:
    """The digits read pixel by pixel, row after row: x (N, 64, 1), ten classes; see `digits`. Chance: 1/10 right.

    After Le, Jaitly and Hinton 2015, arXiv:1504.00941, §4.2, who read the 784 pixels of MNIST.
    """
    whole = digits(test_fraction, seed)
    train, test = (Split(part.x.flatten(1).unsqueeze(-1), part.y) for part in (whole.train, whole.test))
    return DataSet("pixels", train, test, classes=10)


def _parts(split: Callable[[int], Split], count: int, tests: int) -> tuple[Split, Split]:
    _at_least("count", count, 1)
    _at_least("tests", tests, 1)
    return split(count), split(tests)


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise DataError(f"{name}={value}: give a number of at least {least}")
