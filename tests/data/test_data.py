import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from skiplab.data import DataSet, Split, batches, digits
from skiplab.errors import DataError


def counting(size: int) -> Split:
    return Split(torch.arange(float(size))[:, None], torch.arange(size))


def test_digits_are_all_there_once_and_with_their_own_labels() -> None:
    """Undoing the standardisation gives scikit-learn's pixels back."""
    data = digits()
    x, y = torch.cat([data.train.x, data.test.x]), torch.cat([data.train.y, data.test.y])
    assert (x.shape, x.dtype, y.dtype) == ((1797, 1, 8, 8), torch.float32, torch.int64)
    spacing = (data.train.x.max() - data.train.x.min()) / 16  # pixels are 0 … 16
    pixels = ((x - x.min()) / spacing).round().long().flatten(1)
    images, labels = load_digits(return_X_y=True)
    ours = sorted([*row, label] for row, label in zip(pixels.tolist(), y.tolist(), strict=True))
    theirs = sorted([*row, label] for row, label in zip(np.asarray(images).astype(int).tolist(), labels, strict=True))
    assert ours == theirs


def test_digits_are_standardized_by_the_training_part() -> None:
    train = digits().train.x
    assert train.mean().item() == pytest.approx(0, abs=1e-5)
    assert train.std().item() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("fraction", [0.2, 0.5, 0.02])
def test_the_split_has_its_size_and_every_classs_share(fraction: float) -> None:
    data = digits(fraction)
    assert len(data.test) == int(np.ceil(fraction * 1797))
    classes = np.bincount(load_digits(return_X_y=True)[1])
    assert np.all(np.abs(np.bincount(data.test.y, minlength=10) - fraction * classes) <= 1)


def test_the_split_follows_the_seed() -> None:
    first, again, other = digits(seed=3), digits(seed=3), digits(seed=4)
    assert torch.equal(first.test.x, again.test.x)
    assert first.fingerprint() == again.fingerprint() != other.fingerprint()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.5, 0.001, 0.999, float("nan")])
def test_fractions_that_leave_a_part_without_its_classes(fraction: float) -> None:
    with pytest.raises(DataError, match=r"test_fraction=.*from 0\.006 to 0\.994"):
        digits(fraction)


@given(st.integers(1, 30), st.integers(1, 35), st.booleans())
def test_batches_hold_every_example_once(total: int, size: int, shuffled: bool) -> None:
    generator = torch.Generator().manual_seed(0) if shuffled else None
    drawn = list(batches(counting(total), size, generator))
    assert [len(y) for _, y in drawn] == [size] * (total // size) + [total % size] * (total % size > 0)
    labels = torch.cat([y for _, y in drawn])
    assert torch.equal(torch.cat([x for x, _ in drawn])[:, 0], labels.float())
    assert labels.sort().values.tolist() == list(range(total))
    if not shuffled:
        assert labels.tolist() == list(range(total))


def test_shuffled_batches_are_the_generators_permutation_and_the_next_epoch_differs() -> None:
    generator, same = (torch.Generator().manual_seed(5) for _ in range(2))
    for _ in range(2):
        labels = torch.cat([y for _, y in batches(counting(50), 8, generator)])
        assert torch.equal(labels, torch.randperm(50, generator=same))


def test_a_batch_size_of_none_is_refused_at_the_call() -> None:
    with pytest.raises(DataError, match="batch size 0"):
        batches(counting(3), 0)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(2).long(), r"x \(3, 2\), y \(2,\)"),
        (torch.zeros(3, 2), torch.tensor(3), r"y \(\)"),
        (torch.zeros(0, 2), torch.zeros(0).long(), "no samples"),
        (torch.zeros(3, 2), torch.zeros(3).int(), r"int32: use y\.long\(\)"),
    ],
)
def test_splits_that_are_none(x: torch.Tensor, y: torch.Tensor, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split(x, y)


def test_labels_beyond_the_classes() -> None:
    with pytest.raises(DataError, match="letters: the test labels are 0 … 4; with classes=4"):
        DataSet("letters", counting(4), counting(5), classes=4)


def test_the_fingerprint_sees_one_changed_pixel_or_label() -> None:
    data = DataSet("letters", counting(4), counting(4), classes=4)
    prints = [data.fingerprint()]
    data.test.x[2, 0] += 1e-3
    prints.append(data.fingerprint())
    data.train.y[0] = 1
    prints.append(data.fingerprint())
    assert len({entry["crc32"] for entry in prints}) == 3
