"""Data to learn from: the data's own parts, or a fifth of each class held out, with the same classes in both."""

import io
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from skiplab import data
from skiplab.data import DataSet, Split
from skiplab.data.sources import DataRequest, dataset
from skiplab.errors import DataError

HERE = Path(__file__)


def image_file(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (6, 6), value).save(file, "PNG")
    return file.getvalue()


def arrays(path: Path, **named: np.ndarray) -> DataRequest:
    np.savez(path, **named)  # type: ignore[arg-type]
    return DataRequest(str(path), samples=0)


def rows(count: int, start: int = 0) -> np.ndarray:
    """Each example holds its own number, so that it is known again."""
    return np.arange(start, start + count, dtype=np.float64)[:, None].repeat(2, 1)


def numbers(split: Split) -> list[int]:
    return sorted(split.x[:, 0].int().tolist())


def test_digits_are_those_of_the_library() -> None:
    assert dataset(DataRequest("digits", samples=0)).fingerprint() == data.digits().fingerprint()
    few = dataset(DataRequest("digits", samples=100))
    assert (len(few.train), len(few.test), few.classes) == (100, 100, 10)


@pytest.mark.parametrize("names", [("x_train", "x_test"), ("x", "x_test"), ("x_train", "x_val")])
def test_the_datas_own_parts(tmp_path: Path, names: tuple[str, str]) -> None:
    train_y, test_y = (name.replace("x", "y", 1) for name in names)
    named = {names[0]: rows(9), train_y: np.arange(9) % 3, names[1]: rows(5, 50), test_y: np.arange(5) % 3}
    made = dataset(arrays(tmp_path / "a.npz", **named))
    assert (numbers(made.train), numbers(made.test)) == ([*range(9)], [*range(50, 55)])
    assert made.train.x.dtype == torch.float32
    assert torch.equal(made.train.x[:, 0].long() % 3, made.train.y)
    assert made.classes == 3


@given(counts=st.lists(st.integers(1, 30), min_size=2, max_size=5), seed=st.integers(0, 3))
def test_a_fifth_of_each_class_is_held_out(
    counts: list[int], seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    y = np.repeat(np.arange(len(counts)), counts)
    request = arrays(tmp_path_factory.getbasetemp() / "held.npz", x=rows(len(y)), y=y)
    request = DataRequest(request.spec, samples=0, seed=seed)
    if max(counts) == 1:
        with pytest.raises(DataError, match="one sample per class"):
            dataset(request)
        return
    with pytest.warns(UserWarning, match=rf"has no parts: \d+ of {len(y)} samples are held out .* seed {seed}"):
        made, again = dataset(request), dataset(request)
    assert made.fingerprint() == again.fingerprint()
    assert sorted(numbers(made.train) + numbers(made.test)) == [*range(len(y))]
    held = [int((made.test.y == label).sum()) for label in range(len(counts))]
    assert held == [max(round(0.2 * count), count > 1) for count in counts]
    assert made.train.y.tolist() == y[made.train.x[:, 0].int().numpy()].tolist()


def test_one_part_alone_is_split_and_said_to_be(tmp_path: Path) -> None:
    request = arrays(tmp_path / "a.npz", x_train=rows(10), y_train=np.arange(10) % 2)
    with pytest.warns(UserWarning, match="has only the part `train`: 2 of 10"):
        assert len(dataset(request).test) == 2
    with pytest.raises(DataError, match="no part `test`"):
        dataset(DataRequest(request.spec, split="test"))


def test_columns_that_are_named_are_not_both_parts(tmp_path: Path) -> None:
    spec = arrays(tmp_path / "a.npz", x_test=rows(10), y_test=np.arange(10) % 2, x=rows(4)).spec
    with pytest.warns(UserWarning, match="held out"):
        made = dataset(DataRequest(spec, columns={"x": "x_test", "y": "y_test"}))
    assert sorted(numbers(made.train) + numbers(made.test)) == [*range(10)]


def folder(root: Path, part: str, animals: dict[str, range]) -> None:
    for animal, values in animals.items():
        (root / part / animal).mkdir(parents=True)
        for value in values:
            (root / part / animal / f"{value}.png").write_bytes(image_file(value))


def test_classes_of_a_folder_are_those_of_its_training_part(tmp_path: Path) -> None:
    folder(tmp_path, "train", {"cat": range(3), "dog": range(50, 54), "eel": range(90, 93)})
    folder(tmp_path, "test", {"dog": range(60, 62), "eel": range(95, 97)})
    made = dataset(DataRequest(str(tmp_path), normalize="none"), (1, 4, 4))
    brightness = (made.test.x[:, 0, 0, 0] * 255).round()
    assert torch.equal(made.test.y, 1 + (brightness > 90).long())  # counted in its own part, they would be 0 and 1
    assert (made.classes, made.train.x.shape) == (3, (10, 1, 4, 4))
    folder(tmp_path, "test", {"fox": range(1)})
    with pytest.raises(DataError, match="part test has the class `fox`, which the training part lacks"):
        dataset(DataRequest(str(tmp_path)), (1, 4, 4))


def test_both_parts_are_normalized_by_the_training_part(tmp_path: Path) -> None:
    folder(tmp_path, "train", {"cat": range(0, 40, 10), "dog": range(50, 90, 10)})
    folder(tmp_path, "test", {"cat": range(200, 204), "dog": range(210, 214)})
    made = dataset(DataRequest(str(tmp_path)), lambda: (1, 4, 4))
    assert float(made.train.x.mean()) == pytest.approx(0, abs=1e-5)
    assert float(made.test.x.mean()) > 3


def test_parquet_parts_with_words_for_labels(tmp_path: Path) -> None:
    for part, labels in (("train", ["b", "a", "c", "a"]), ("test", ["c", "b"])):
        table = pa.table({"image": [image_file(ord(label)) for label in labels], "label": labels})
        pq.write_table(table, tmp_path / f"{part}-00000-of-00001.parquet")
    made = dataset(DataRequest(str(tmp_path), normalize="none"), (1, 2, 2))
    for split in (made.train, made.test):
        assert torch.equal((split.x[:, 0, 0, 0] * 255).round().long() - ord("a"), split.y)


def stream() -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, 40, 8):
        numbers = torch.arange(start, start + 8)
        yield numbers[:, None].float(), numbers % 2


def endless() -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        yield torch.zeros(1000, 1000), torch.zeros(1000, dtype=torch.int64)


def whole() -> DataSet:
    return data.digits()


def mapped() -> Iterator[tuple[dict, Tensor]]:
    yield {"x": torch.zeros(2)}, torch.zeros(2)


def untargeted() -> Iterator[tuple[Tensor, None]]:
    yield torch.zeros(2, 2), None


def test_a_stream_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.warns(UserWarning, match="has no parts: 8 of 40"):
        made = dataset(DataRequest(f"{HERE}:stream", samples=0))
    assert sorted(numbers(made.train) + numbers(made.test)) == [*range(40)]
    with pytest.warns(UserWarning, match="of 20 samples"):
        dataset(DataRequest(f"{HERE}:stream", samples=20))
    assert dataset(DataRequest(f"{HERE}:whole")).name == "digits"
    monkeypatch.setattr("skiplab.data.sources.materialize.free_memory", lambda: 1e8)
    with pytest.raises(DataError, match=r"the first 7,000 samples take more than a quarter .*give --samples"):
        dataset(DataRequest(f"{HERE}:endless", samples=0))
    for name, message in (("mapped", "yields a dict as inputs"), ("untargeted", "yields a NoneType as targets")):
        with pytest.raises(DataError, match=message):
            dataset(DataRequest(f"{HERE}:{name}"))


@pytest.mark.filterwarnings("ignore:.*held out")
def test_what_cannot_be_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = rows(6), np.arange(6) % 2
    for name, named, message in (
        ("none", {"x": x}, "has no classes: name their column with --column y=NAME"),
        ("real", {"x": x, "y": y + 0.5}, r"y is float64 \(6,\)"),
        ("negative", {"x": x, "y": y - 1}, "label -1 in y is negative"),
        ("one", {"x": x, "y": 0 * y}, "has only one class"),
        ("bytes", {"x_train": x.astype(np.uint8), "y_train": y, "x_test": x, "y_test": y}, "has inputs of dtype uint8"),
        ("shapes", {"x_train": x, "y_train": y, "x_test": rows(6)[:, :1], "y_test": y}, "give one shape"),
    ):
        with pytest.raises(DataError, match=message):
            dataset(arrays(tmp_path / f"{name}.npz", **named))
    with pytest.raises(DataError, match="has no training part separate from `train`"):
        dataset(DataRequest("digits", split="train"))
    folder(tmp_path / "big", "train", {"cat": range(2), "dog": range(2)})
    folder(tmp_path / "big", "test", {"cat": range(2), "dog": range(2)})
    with pytest.raises(DataError, match="has image files: give `shape`"):
        dataset(DataRequest(str(tmp_path / "big")))
    monkeypatch.setattr(sys.modules["skiplab.data.sources.supervised"], "free_memory", lambda: 2**20)
    with pytest.raises(DataError, match=r"8 images of 3x224x224 take 0\.0 GiB, more than half"):
        dataset(DataRequest(str(tmp_path / "big")), (3, 224, 224))
