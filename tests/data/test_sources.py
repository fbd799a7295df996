"""Data by name: what is read is what was written, drawn from a seed, and fitted to the program."""

import io
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

import skiplab
from skiplab import data
from skiplab.data.sources import DataRequest, batches, open_source, split_batches
from skiplab.data.sources.examples import Examples
from skiplab.errors import DataError, UsageError
from skiplab.graph.program import Program


class Pool(nn.Module):
    """Takes images of any number of channels, of 6x6."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 3, padding=1)
        self.branch = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return (x + self.branch(x).relu()).mean((2, 3))


def pool(channels: int = 3, size: int = 6) -> Program:
    return skiplab.capture(Pool(channels), (torch.randn(2, channels, size, size),))


def read_all(program: Program, request: DataRequest) -> tuple[Tensor, Tensor | None]:
    pairs = list(batches(program, open_source(request), request))
    x = torch.cat([inputs for inputs, _ in pairs])
    return x, None if pairs[0][1] is None else torch.cat([target for _, target in pairs])


def image_file(value: int | tuple[int, int, int], size: tuple[int, int] = (12, 6)) -> bytes:
    file = io.BytesIO()
    Image.new("L" if isinstance(value, int) else "RGB", size, value).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Gray images whose brightness is their number times ten: 0 to 5 are cats, 6 to 11 dogs."""
    for number in range(12):
        own = tmp_path / ("cat" if number < 6 else "dog")
        own.mkdir(exist_ok=True)
        (own / f"{number}.png").write_bytes(image_file(10 * number))
    return tmp_path


def test_digits_are_those_of_the_package() -> None:
    source = open_source(DataRequest("digits", samples=0))
    assert isinstance(source, Examples)
    test = data.digits().test
    assert len(source) == source.total == len(test)
    assert torch.equal(source.x.sort(0).values, test.x.sort(0).values)  # type: ignore[union-attr]
    assert len(open_source(DataRequest("digits", split="train", samples=0)).x) == len(data.digits().train)  # type: ignore[union-attr]


@given(count=st.integers(1, 40), samples=st.integers(0, 50), seed=st.integers(0, 3))
def test_a_draw_repeats_nothing_and_depends_on_the_seed_alone(count: int, samples: int, seed: int) -> None:
    request = DataRequest("x", samples=samples, seed=seed)
    chosen = request.draw(count)
    assert len(set(chosen)) == len(chosen) == min(samples or count, count)
    assert set(chosen) <= set(range(count))
    assert chosen == request.draw(count)


def test_every_pass_over_batches_gives_the_same(folder: Path) -> None:
    for spec in ("digits", str(folder), f"{Path(__file__)}:two"):
        request = DataRequest(spec, batch_size=5, samples=12, normalize=None if spec == "digits" else "none")
        program = flat() if spec.endswith("two") else pool(1, 8)
        drawn = batches(program, open_source(request), request)
        first, second = list(drawn), list(drawn)
        assert len(first) > 1
        assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(first, second, strict=True))


def two():
    """A generator function, as users write it: two batches."""
    yield torch.ones(5, 4), torch.zeros(5, dtype=torch.int64)
    yield torch.ones(7, 4), torch.ones(7, dtype=torch.int64)


listed = [(torch.ones(5, 4), None)]


def mapped():
    yield {"x": torch.ones(3, 4)}, None


def broken():
    yield from two()
    raise RuntimeError("the disk is gone")


def single():
    yield torch.ones(5, 4)


def flat() -> Program:
    return skiplab.capture(nn.Linear(4, 3), (torch.randn(2, 4),))


def test_pictures_keep_their_labels_and_their_brightness(folder: Path) -> None:
    x, y = read_all(pool(3), DataRequest(str(folder), samples=0, batch_size=5, normalize="none"))
    assert x.shape == (12, 3, 6, 6)
    assert y is not None
    assert y.dtype == torch.int64
    brightness = (x[:, 0, 0, 0] * 255).round().long()
    assert sorted(brightness.tolist()) == [10 * number for number in range(12)]
    assert torch.equal(y, (brightness >= 60).long())
    assert y.tolist() != sorted(y.tolist())  # files come class by class


def test_wide_pictures_are_cropped_around_the_centre(tmp_path: Path) -> None:
    image = np.zeros((6, 12), np.uint8)
    image[:, 3:9] = 200
    (tmp_path / "a").mkdir()
    Image.fromarray(image).save(tmp_path / "a" / "1.png")
    x, _ = read_all(pool(1), DataRequest(str(tmp_path), normalize="none"))
    assert x.eq(torch.tensor(200 / 255)).all()


def test_colours_become_grey_and_back(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(image_file((255, 0, 0)))
    x, _ = read_all(pool(3), DataRequest(str(tmp_path), normalize="none"))
    assert x[0, :, 0, 0].tolist() == [1, 0, 0]
    x, _ = read_all(pool(1), DataRequest(str(tmp_path), normalize="none"))
    assert float(x.mean()) == pytest.approx(0.299, abs=1 / 255)  # ITU-R 601's share of red


def test_normalisation(folder: Path) -> None:
    raw, _ = read_all(pool(3), DataRequest(str(folder), normalize="none"))
    imagenet, _ = read_all(pool(3), DataRequest(str(folder)))
    means, deviations = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    torch.testing.assert_close(imagenet, (raw - means[:, None, None]) / deviations[:, None, None])
    own, _ = read_all(pool(1), DataRequest(str(folder)))  # one channel: by the data's own
    assert float(own.mean()) == pytest.approx(0, abs=1e-5)
    assert float(own.std(correction=0)) == pytest.approx(1, abs=1e-5)


def test_parts_of_a_folder(folder: Path) -> None:
    for part in ("train", "val"):
        (folder / part / "cat").mkdir(parents=True)
        (folder / part / "cat" / "1.png").write_bytes(image_file(250))
    source = open_source(DataRequest(str(folder)))
    assert isinstance(source, Examples)
    assert (source.part, len(source)) == ("val", 1)
    assert open_source(DataRequest(str(folder), split="train")).part == "train"  # type: ignore[union-attr]
    with pytest.raises(DataError, match="has no part `dogs`; its parts are train, val"):
        open_source(DataRequest(str(folder), split="dogs"))


def rows(count: int) -> pa.Table:
    images = [{"bytes": image_file(10 * number), "path": None} for number in range(count)]
    return pa.table({"image": images, "label": list(range(count)), "row": list(range(count)), "note": ["a"] * count})


def test_parquet_file_and_folder_of_parts(tmp_path: Path) -> None:
    pq.write_table(rows(6), tmp_path / "test-00000-of-00001.parquet")
    pq.write_table(rows(3), tmp_path / "train-00000-of-00001.parquet")
    for request in (
        DataRequest(str(tmp_path), normalize="none"),
        DataRequest(str(tmp_path / "test-00000-of-00001.parquet")),
    ):
        source = open_source(request)
        assert isinstance(source, Examples)
        assert source.total == 6
    x, y = read_all(pool(1), DataRequest(str(tmp_path), normalize="none", batch_size=4))
    assert y is not None
    assert torch.equal((x[:, 0, 0, 0] * 255 / 10).round().long(), y)
    _, y = read_all(pool(1), DataRequest(str(tmp_path), split="train"))
    assert y is not None
    assert sorted(y.tolist()) == [0, 1, 2]


def test_labels_that_are_words_count_over_the_whole_column(tmp_path: Path) -> None:
    table = rows(4).drop_columns(["label", "row", "note"]).append_column("animal", pa.array(["d", "b", "a", "c"]))
    pq.write_table(table, tmp_path / "x.parquet")
    order = DataRequest("x", samples=1).draw(4)
    _, y = read_all(pool(1), DataRequest(str(tmp_path / "x.parquet"), samples=1, normalize="none"))
    assert y is not None
    assert y.tolist() == [[3, 1, 0, 2][order[0]]]


def test_a_column_that_could_be_several_is_asked_for(tmp_path: Path) -> None:
    table = rows(3).rename_columns(["image", "kind", "row", "note"])
    pq.write_table(table, tmp_path / "x.parquet")
    path = str(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"no unique column of labels .candidates: kind, row, note.: give"):
        open_source(DataRequest(path))
    assert open_source(DataRequest(path, columns={"y": "kind"})).y is not None  # type: ignore[union-attr]
    with pytest.raises(DataError, match="has no column `sort`; it has image, kind, row, note"):
        open_source(DataRequest(path, columns={"y": "sort"}))
    pq.write_table(rows(3).select(["label"]), tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"images .*none among label"):
        open_source(DataRequest(path))


def test_the_hub_reads_what_parquet_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "own").mkdir()
    pq.write_table(rows(6), tmp_path / "own" / "test.parquet")
    plain, labels = read_all(pool(1), DataRequest(str(tmp_path / "own"), normalize="none", samples=4))
    x, y = read_all(pool(1), DataRequest(f"hub:{tmp_path / 'own'}", normalize="none", samples=4))
    assert torch.equal(x, plain)
    assert y is not None
    assert labels is not None
    assert torch.equal(y, labels)


def test_without_datasets_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"pip install 'skiplab\[data\]'"):
        open_source(DataRequest("hub:some/thing"))


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_arrays(tmp_path: Path, suffix: str) -> None:
    x, y = np.random.default_rng(0).normal(size=(7, 4)), np.arange(7) % 3

    def write(name: str, **values: np.ndarray) -> DataRequest:
        path = tmp_path / f"{name}{suffix}"
        if suffix == ".npz":
            np.savez(path, **values)  # type: ignore[arg-type]
        else:
            save_file({name: torch.tensor(value) for name, value in values.items()}, path)
        return DataRequest(str(path), samples=0)

    order = DataRequest("x", samples=0).draw(7)
    for request in (write("named", x=x, y=y), write("two", pixels=x, wanted=y), write("parts", x_test=x, y_test=y)):
        inputs, target = read_all(flat(), request)
        assert inputs.dtype == torch.float32  # as the program takes it, whatever numpy made
        torch.testing.assert_close(inputs, torch.from_numpy(x[order]).float())
        assert target is not None
        assert target.tolist() == y[order].tolist()
    assert read_all(flat(), write("alone", x=x))[1] is None
    with pytest.raises(DataError, match=r"--column x=NAME,y=NAME"):
        open_source(write("three", a=x, b=y, c=y))
    chosen = DataRequest(write("three", a=x, b=y, c=y).spec, columns={"x": "a", "y": "c"})
    assert read_all(flat(), chosen)[1] is not None
    with pytest.raises(DataError, match="give one entry of y per sample"):
        open_source(write("uneven", x=x, y=y[:3]))


def test_streams(tmp_path: Path) -> None:
    def read(name: str, samples: int = 0) -> list:
        request = DataRequest(f"{Path(__file__)}:{name}", samples=samples)
        return list(batches(flat(), open_source(request), request))

    assert [len(x) for x, _ in read("two")] == [5, 7]
    assert [(len(x), len(y)) for x, y in read("two", samples=8)] == [(5, 5), (3, 3)]
    assert len(read("two", samples=5)) == 1
    assert read("listed")[0][1] is None
    assert set(read("mapped", samples=2)[0][0]) == {"x"}
    with pytest.raises(DataError, match="broken fails: RuntimeError: the disk is gone"):
        read("broken")
    with pytest.raises(DataError, match="batch 1 is a Tensor: yield pairs"):
        read("single")
    with pytest.raises(DataError, match="has no `nothing`"):
        read("nothing")
    with pytest.raises(DataError, match="there is no file"):
        open_source(DataRequest(f"{tmp_path}/no.py:two"))


def test_what_does_not_fit_is_one_clear_error(folder: Path, tmp_path: Path) -> None:
    cases = [
        (pool(3, 8), DataRequest("digits"), "Pool was captured with 3x8x8, and digits has samples of 1x8x8"),
        (flat(), DataRequest(str(folder)), "the model takes 4"),
        (pool(2), DataRequest(str(folder)), "images are 1xHxW or 3xHxW"),
        (pool(1), DataRequest(str(folder), normalize="imagenet"), "needs 3 channels"),
    ]
    for program, request, message in cases:
        with pytest.raises(DataError, match=message):
            read_all(program, request)
    np.savez(tmp_path / "bytes.npz", x=np.zeros((3, 4), np.uint8))
    with pytest.raises(DataError, match=r"Linear takes torch.float32, and .* has torch.uint8"):
        read_all(flat(), DataRequest(str(tmp_path / "bytes.npz")))


def test_an_image_that_cannot_be_read_is_named(folder: Path) -> None:
    (folder / "cat" / "bad.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"cat/bad.png cannot be read: .*remove or replace it"):
        read_all(pool(3), DataRequest(str(folder)))


def test_no_data_at_all(tmp_path: Path) -> None:
    (tmp_path / "loose.png").write_bytes(image_file(3))
    for spec, message in (
        ("nothing", "no such file or folder; give digits"),
        ("no.npz", "there is no file no.npz"),
        (str(tmp_path), "only images outside class folders"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(DataRequest(spec))
    (tmp_path / "bad.npz").write_bytes(b"PK no archive")
    with pytest.raises(DataError, match="cannot be read"):
        open_source(DataRequest(str(tmp_path / "bad.npz")))
    (tmp_path / "bad.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        open_source(DataRequest(str(tmp_path / "bad.parquet")))


def test_requests_that_make_no_sense() -> None:
    wrong: list[dict[str, Any]] = [{"batch_size": 0}, {"samples": -1}, {"normalize": "twice"}, {"columns": {"z": "a"}}]
    for options in wrong:
        with pytest.raises(UsageError):
            DataRequest("digits", **options)


def test_quarters_share_nothing_and_lose_nothing() -> None:
    x = torch.arange(11.0)[:, None].repeat(1, 4)
    program = flat()
    kept, held = split_batches(program, [(x[:8], torch.arange(8)), (x[8:], torch.arange(8, 11))])
    targets = [torch.cat([target for _, target in part]).tolist() for part in (kept, held)]
    assert targets == [[0, 1, 2, 3, 4, 5, 8, 9, 10], [6, 7]]
    assert all(torch.equal(inputs[0][:, 0].long(), target) for inputs, target in kept)


def test_a_program_of_one_batch_size_gets_no_other(folder: Path) -> None:
    class Fixed(Pool):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + torch.ones(2, 4) if x.shape[0] == 2 else super().forward(x)

    program = skiplab.capture(Fixed(), (torch.randn(2, 3, 6, 6),))
    assert not program.dynamic_batch
    request = DataRequest(str(folder), samples=5)
    assert [len(x) for x, _ in batches(program, open_source(request), request)] == [2, 2]


def test_tables_have_no_hidden_order(tmp_path: Path) -> None:
    """A table sorted by label is drawn at random, so that a few samples have several labels."""
    frame = pd.DataFrame({"image": [image_file(0)] * 40, "label": [i // 10 for i in range(40)]})
    frame.to_parquet(tmp_path / "x.parquet")
    _, y = read_all(pool(1), DataRequest(str(tmp_path / "x.parquet"), samples=12, normalize="none"))
    assert y is not None
    assert len(set(y.tolist())) == 4
