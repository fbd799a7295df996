import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from oracles.lesioned import Normed, images
from oracles.tower import Tower, samples
from skiplab.analysis.skips import Skips
from skiplab.errors import DataError, UsageError
from skiplab.graph.program import Program
from skiplab.measure import lesion
from skiplab.measure.lesions.resumable_pass import Part, Passes, State
from skiplab.measure.memory import peak_bytes

ALL: dict[str, Any] = {"kinds": ["branch", "mean", "noise", "shuffle"], "reestimate": True, "reorder": 1, "draws": 2}


@pytest.fixture(scope="module")
def normed() -> tuple[Program, Skips]:
    torch.manual_seed(0)
    program = skiplab.capture(Normed(2), (torch.randn(4, 2, 4, 4, dtype=torch.double),))
    return program, skiplab.find(program).expect(2)


def tower() -> tuple[Program, Skips]:
    torch.manual_seed(0)
    program = skiplab.capture(Tower(), (torch.randn(4, 6, dtype=torch.double),))
    return program, skiplab.find(program)


class Interrupted:
    """A loss that is stopped, as by Ctrl-C, at one of its calls."""

    def __init__(self, at: int) -> None:
        self.at, self.calls = at, 0
        self.__qualname__ = "cross_entropy"

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return F.cross_entropy(output, target, reduction="none")


@pytest.mark.parametrize("at", [1, 16, 30, 40, 58])
def test_an_interrupted_sweep_goes_on_to_the_same_bits(normed: tuple[Program, Skips], tmp_path: Path, at: int) -> None:
    """Nine lesions and the whole network, three batches, as trained and re-estimated: 60 calls of the loss."""
    batches = images(3, 4, 5)
    whole = lesion(*normed, batches, Interrupted(0), **ALL)
    first, second = Interrupted(at), Interrupted(0)
    with pytest.raises(KeyboardInterrupt):
        lesion(*normed, batches, first, **ALL, folder=tmp_path)
    table = lesion(*normed, batches, second, **ALL, folder=tmp_path)
    assert table.equals(whole)
    networks = len(whole) // 2 + 1
    assert second.calls == 3 * 2 * networks - (at - 1) // networks * networks  # whole batches are not measured again
    assert not list(tmp_path.glob("*.tmp"))


def test_data_that_are_interrupted(normed: tuple[Program, Skips], tmp_path: Path) -> None:
    class Stopping(list):
        def __iter__(self) -> Iterator:
            yield from itertools.islice(super().__iter__(), 2)
            raise KeyboardInterrupt

    batches = images(3, 4, 5)
    with pytest.raises(KeyboardInterrupt):
        lesion(*normed, Stopping(batches), F.cross_entropy, folder=tmp_path)
    table = lesion(*normed, batches, F.cross_entropy, folder=tmp_path)
    assert table.equals(lesion(*normed, batches, F.cross_entropy))


def test_a_finished_sweep_is_read_back_without_the_data(normed: tuple[Program, Skips], tmp_path: Path) -> None:
    batches = images(3, 4)
    table = lesion(*normed, batches, F.cross_entropy, **ALL, folder=tmp_path)
    assert lesion(*normed, [], F.cross_entropy, **ALL, folder=tmp_path).equals(table)


def test_re_estimation_can_be_added_to_a_finished_sweep(normed: tuple[Program, Skips], tmp_path: Path) -> None:
    batches = images(3, 4)
    lesion(*normed, batches, F.cross_entropy, folder=tmp_path)
    table = lesion(*normed, batches, F.cross_entropy, folder=tmp_path, reestimate=True)
    assert table.equals(lesion(*normed, batches, F.cross_entropy, reestimate=True))


def test_a_folder_of_another_sweep(normed: tuple[Program, Skips], tmp_path: Path) -> None:
    program, skips = normed
    batches = images(3)
    lesion(program, skips, batches, F.cross_entropy, folder=tmp_path)
    others: list[tuple[Any, str]] = [({"kinds": ["shortcut"]}, "kinds was"), ({"seed": 1}, "seed was 0, now 1")]
    for options, what in others:
        with pytest.raises(DataError, match=f"{tmp_path} holds other results: .*{what}.*; choose another"):
            lesion(program, skips, batches, F.cross_entropy, folder=tmp_path, **options)
    with pytest.raises(DataError, match="skips was"):
        lesion(program, skips[:1], batches, F.cross_entropy, folder=tmp_path)
    other = Normed(2)
    again = skiplab.capture(other, (torch.randn(4, 2, 4, 4, dtype=torch.double),))
    with pytest.raises(DataError, match="weights was"):
        lesion(again, skiplab.find(again), batches, F.cross_entropy, folder=tmp_path)


def test_a_damaged_file(normed: tuple[Program, Skips], tmp_path: Path) -> None:
    batches = images(3)
    (tmp_path / "as trained.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"as trained.safetensors without identity.json; choose another folder, or del"):
        lesion(*normed, batches, F.cross_entropy, folder=tmp_path)
    (tmp_path / "as trained.safetensors").unlink()
    table = lesion(*normed, batches, F.cross_entropy, folder=tmp_path)
    (tmp_path / "as trained.safetensors").write_bytes(b"nothing of the kind")
    with pytest.raises(DataError, match=r"as trained.safetensors is damaged .*: delete this file, and it is computed"):
        lesion(*normed, batches, F.cross_entropy, folder=tmp_path)
    (tmp_path / "as trained.safetensors").unlink()
    assert lesion(*normed, batches, F.cross_entropy, folder=tmp_path).equals(table)


def test_progress_never_goes_back_and_arrives(normed: tuple[Program, Skips], tmp_path: Path) -> None:
    batches, seen = images(2, 4, 6), []

    def progress(done: int, total: int | None) -> None:
        seen.append((done, total))

    in_parts = {**ALL, "memory": 2.5 * 2 * peak_bytes(normed[0]) / 2**30}
    choices: list[Any] = [{}, ALL, in_parts, {"folder": tmp_path}]
    for options in choices:
        seen.clear()
        table = lesion(*normed, batches, F.cross_entropy, **options, progress=progress)
        passes = len(table) + (2 if options.get("reestimate") else 1)
        if options.get("reestimate"):  # a pass for the moments, and one in which statistics are estimated
            passes += 1 + len(table) // 2 + 1
        assert seen[-1] == (3 * passes, 3 * passes)
        done = [count for count, _ in seen]
        assert done == sorted(done)
        assert {total for _, total in seen} == {3 * passes}
    last = seen[-1:]
    seen.clear()
    lesion(*normed, batches, F.cross_entropy, folder=tmp_path, progress=progress)
    assert seen == last


def test_progress_through_batches_without_a_length(normed: tuple[Program, Skips]) -> None:
    seen: list[tuple[int, int | None]] = []
    lesion(*normed, iter(images(3, 4)), F.cross_entropy, progress=lambda *now: seen.append(now))
    assert seen[-1] == (6, None)


def test_memory_splits_batches_into_parts_that_fit() -> None:
    program, skips = tower()
    batches = samples(7, 2, 5)
    sizes: list[int] = []

    def loss(output: Tensor, target: Tensor) -> Tensor:
        sizes.append(len(output))
        return F.cross_entropy(output, target, reduction="none")

    memory = (3 * 2 * peak_bytes(program) + 1) / 2**30
    table = lesion(program, skips, batches, loss, memory=memory)
    networks = len(skips) + 1
    assert sizes == [size for size in (3, 3, 1, 2, 3, 2) for _ in range(networks)]
    pd.testing.assert_frame_equal(table, lesion(program, skips, batches, loss), rtol=1e-12)


def test_memory_that_is_too_little() -> None:
    program, skips = tower()
    with pytest.raises(UsageError, match=r"memory=1e-09: Tower needs .* GiB for 1 samples, the fewest that it can run"):
        lesion(program, skips, samples(4), F.cross_entropy, memory=1e-9)


def test_memory_of_a_program_for_one_batch_size_alone() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Tower()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.reshape(int(x.shape[0]), 6))

    program = skiplab.capture(Fixed(), (torch.randn(4, 6, dtype=torch.double),), how="export")
    skips = skiplab.find(program)
    needed = 4 * 2 * peak_bytes(program) / 2**30
    assert len(lesion(program, skips, samples(4), F.cross_entropy, memory=1.001 * needed)) == 4
    with pytest.raises(UsageError, match="GiB for 4 samples, the fewest that it can run on"):
        lesion(program, skips, samples(4), F.cross_entropy, memory=0.9 * needed)


def test_a_batch_that_does_not_fit_is_measured_in_halves_and_so_are_all_that_follow() -> None:
    program, _ = tower()
    tried: list[tuple[int, int]] = []

    def work(part: Part) -> State:
        tried.append((part.offset, part.given.size))
        if part.given.size > 4:
            raise torch.OutOfMemoryError("full")
        return {"sizes": torch.tensor([part.given.size])}

    passes = Passes(program, samples(8, 8), {"all": 1}, {}, {})
    with pytest.warns(UserWarning, match="a batch of 8 samples does not fit into memory: continuing with 4"):
        state = passes.fold("all", work, lambda old, new: {"sizes": torch.cat((old["sizes"], new["sizes"]))})
    assert tried == [(0, 8), (0, 4), (4, 4), (8, 4), (12, 4)]
    assert state["sizes"].tolist() == [4] * 4
