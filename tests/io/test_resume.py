"""A store gives back what was saved under its identity, whenever its process was killed, and refuses the rest."""

import itertools
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skiplab.errors import DataError, OutputError
from skiplab.io.resume import FIX, FRESH, TABLES, ResumeStore, StoreLayout, differences

LAYOUT = StoreLayout(parts=("*.parquet", "*.json", "*.safetensors", "*-parts"))
IDENTITY = {"model": {"name": "net", "seed": 0}, "sizes": (3, 4)}


def store(folder: Path, **changes: Any) -> ResumeStore:
    return ResumeStore(folder, {**IDENTITY, **changes}, LAYOUT)


class Killed(BaseException):
    pass


@contextmanager
def killed_at(moment: int | None) -> Iterator[None]:
    """The process dies at the given one of all synchronizations, renamings, removals and new folders."""
    calls = itertools.count()

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **options: Any) -> Any:
            if moment is not None and next(calls) >= moment:
                raise Killed
            return call(*args, **options)

        return run

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in ((os, "fsync"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir")):
            patch.setattr(owner, name, counted(getattr(owner, name)))
        patch.setattr(os, "getpid", lambda: 1)
        yield


# What is saved in each form comes back, as do files of other programs.

FORMS = ("table", "json", "tensors")


def save(to: ResumeStore, form: str, name: str, value: int) -> None:
    if form == "table":
        to.save_table(name, pd.DataFrame({"a": [value, 0], "b": [0.1 * value, math.nan], "c": ["x", None]}))
    elif form == "json":
        to.save_json(name, [{"value": value, "b": math.nan, "c": -math.inf}])
    else:
        to.save_tensors(name, {"a": torch.full((2, 3), value), "b": torch.tensor(0.1)}, {"value": value})


def load(of: ResumeStore, form: str, name: str) -> int | None:
    if form == "table":
        table = of.load_table(name)
        return None if table is None else int(table["a"][0])
    if form == "json":
        rows = of.load_json(name)
        return None if rows is None else rows[0]["value"]
    part = of.load_tensors(name)
    assert part is None or (part[0]["a"] == part[1]["value"]).all()
    return None if part is None else part[1]["value"]


def test_parts_come_back_bit_for_bit(tmp_path: Path) -> None:
    values = [0.1, 1e-310, -0.0, 2**-1074, math.inf]
    table = pd.DataFrame({"x": values, "n": range(5), "text": list("abcde")})
    shared = torch.tensor(values, dtype=torch.double)
    tensors = {"whole": shared, "view": shared[1:], "strided": torch.arange(6.0).reshape(2, 3).T, "none": torch.ones(0)}
    tensors["half"] = torch.tensor(0.1, dtype=torch.bfloat16)
    first = store(tmp_path)
    first.save_table("t", table)
    first.save_json("j", values)
    first.save_tensors("s", tensors, {"batches": 3})
    again = store(tmp_path)
    read = again.load_table("t")
    assert read is not None
    pd.testing.assert_frame_equal(read, table, check_exact=True)
    assert [value.hex() for value in again.load_json("j")] == [value.hex() for value in values]
    loaded = again.load_tensors("s")
    assert loaded is not None
    assert loaded[1] == {"batches": 3}
    assert loaded[0].keys() == tensors.keys()
    assert all(torch.equal(loaded[0][name], tensors[name]) for name in tensors)
    assert all(loaded[0][name].dtype == tensors[name].dtype for name in tensors)


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[str, str, int, int | None]]:
    """Saves: form, name, value, and the moment at which the process is killed, if it is."""
    one = st.tuples(st.sampled_from(FORMS), st.sampled_from("ab"), st.integers(1, 99), st.none() | st.integers(0, 9))
    return draw(st.lists(one, max_size=8))


@given(histories())
def test_a_store_killed_in_any_history_of_saves_holds_each_parts_last_value(history: list) -> None:
    """The oracle is a dictionary. A part whose save was killed has its old value or the new one, and no other."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        expected: dict[tuple[str, str], set[int | None]] = {}
        for form, part, value, moment in history:
            old = expected.get((form, part), {None})
            try:
                with killed_at(moment):
                    save(store(folder), form, part, value)
                expected[form, part] = {value}
            except Killed:
                expected[form, part] = {*old, value}
            found = load(store(folder), form, part)
            assert found in expected[form, part]
            expected[form, part] = {found}
        again = store(folder)
        assert {key: {load(again, *key)} for key in expected} == expected
        LAYOUT.forget(folder)
        assert not list(folder.iterdir())


@pytest.mark.parametrize("moment", range(14))
def test_a_store_killed_while_it_forgets_holds_nothing_of_another(tmp_path: Path, moment: int) -> None:
    """The identity goes last, so that what is left is still refused to others, or is nothing."""
    first = store(tmp_path)
    for form, value in zip(FORMS, range(1, 4), strict=True):
        save(first, form, "a", value)
    try:
        with killed_at(moment):
            LAYOUT.forget(tmp_path)
    except Killed:
        assert (tmp_path / "identity.json").exists()
        again = store(tmp_path)
        for form, value in zip(FORMS, range(1, 4), strict=True):
            assert load(again, form, "a") in (value, None)
        with pytest.raises(DataError, match="holds other results"):
            store(tmp_path, more=1)
        LAYOUT.forget(tmp_path)
    assert not list(tmp_path.iterdir())


# Whose results a folder holds


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"name": "net", "seed": 1}}, "model.seed was 0, now 1"),
        ({"model": {"name": "net"}}, "model.seed was 0, now None"),
        ({"sizes": (3,)}, "sizes was [3, 4], now [3]"),
        ({"more": True}, "more was None, now True"),
        ({"model": None}, "model was {'name': 'net', 'seed': 0}, now None"),
    ],
)
def test_another_identity_is_refused_and_changes_nothing(
    tmp_path: Path, changes: Mapping[str, Any], message: str
) -> None:
    save(store(tmp_path), "json", "a", 1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(DataError) as raised:
        store(tmp_path, **changes)
    assert str(raised.value) == f"{tmp_path} holds other results: {message}; {FIX}"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_message_stays_short(tmp_path: Path) -> None:
    ResumeStore(tmp_path, {str(i): [i] * 1000 for i in range(50)}, LAYOUT).claim()
    with pytest.raises(DataError) as raised:
        ResumeStore(tmp_path, {}, LAYOUT)
    assert "; and 47 more; " in str(raised.value)
    assert len(str(raised.value)) - len(str(tmp_path)) < 500


def test_a_folder_is_claimed_by_the_first_save_alone(tmp_path: Path) -> None:
    store(tmp_path)
    assert not list(tmp_path.iterdir())
    save(store(tmp_path, model="another"), "json", "a", 1)
    assert json.loads((tmp_path / "identity.json").read_text()) == {"model": "another", "sizes": [3, 4]}


def test_unfinished_work_claims_the_folder_and_goes_with_the_save(tmp_path: Path) -> None:
    first = ResumeStore(tmp_path, IDENTITY, TABLES)
    parts = first.parts_folder("lesion")
    assert parts == tmp_path / "lesion-parts"
    assert (tmp_path / "config.json").exists()
    first.save_json("lesion-parts/rows", [1])
    save(first, "table", "other", 1)
    assert ResumeStore(tmp_path, IDENTITY, TABLES).load_json("lesion-parts/rows") == [1]
    save(first, "table", "lesion", 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "lesion.parquet", "other.parquet"]


@pytest.mark.parametrize("form", FORMS)
def test_parts_without_an_identity_are_left_alone(tmp_path: Path, form: str) -> None:
    save(store(tmp_path), form, "a", 1)
    (tmp_path / "identity.json").unlink()
    (name,) = (path.name for path in tmp_path.iterdir())
    with pytest.raises(DataError) as raised:
        store(tmp_path)
    assert str(raised.value) == f"{tmp_path} holds other results: {name} without identity.json; {FIX}"


def test_numbers_within_their_tolerance_are_the_same(tmp_path: Path) -> None:
    layout = StoreLayout("start.json", fix=FRESH, tolerance={"network.loss": 1e-3})

    def opened(loss: float | None, rate: float = 0.1) -> ResumeStore:
        return ResumeStore(tmp_path, {"network": {"loss": loss, "rate": rate}}, layout)

    opened(2.0).claim()
    assert opened(2.0019).claimed
    for loss, rate in ((2.0021, 0.1), (None, 0.1), (2.0, 0.10001)):
        with pytest.raises(DataError, match=r"(loss was 2.0|rate was 0.1), now .*--fresh"):
            opened(loss, rate)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda each: st.lists(each, max_size=2) | st.dictionaries(st.sampled_from("xyz"), each, max_size=3),
    max_leaves=6,
)


@given(JSON, JSON)
def test_there_are_differences_where_values_differ(there: Any, here: Any) -> None:
    """A missing entry counts as null."""

    def full(value: Any) -> Any:
        return {k: full(v) for k, v in value.items() if full(v) is not None} if isinstance(value, dict) else value

    found = list(differences(there, here, {}))
    assert bool(found) == (full(there) != full(here))
    assert not list(differences(there, there, {}))
    assert len(found) == len(list(differences(here, there, {})))


# What is damaged, and what cannot be written


@pytest.mark.parametrize("content", [b"", b"{", b"[1", b"\xff\xfe", b"PAR1"])
@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_part_is_named_and_can_be_deleted(tmp_path: Path, form: str, content: bytes) -> None:
    first = store(tmp_path)
    save(first, form, "a", 1)
    (file,) = (path for path in tmp_path.iterdir() if path.name != "identity.json")
    file.write_bytes(content)
    with pytest.raises(DataError) as raised:
        load(first, form, "a")
    assert str(raised.value).startswith(f"{file} is damaged (")
    assert str(raised.value).endswith("): delete this file, and it is computed again")
    assert "\n" not in str(raised.value)
    file.unlink()
    assert load(first, form, "a") is None


def test_tensors_of_another_program_are_damaged(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    first = store(tmp_path)
    first.claim()
    for about in (None, {}, {"about": "{"}):
        save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", about)
        with pytest.raises(DataError, match=r"a\.safetensors is damaged"):
            first.load_tensors("a")


@pytest.mark.parametrize(("content", "message"), [("{", "is damaged"), ("[]", "the identity was [], now {'model'")])
def test_a_damaged_identity(tmp_path: Path, content: str, message: str) -> None:
    save(store(tmp_path), "json", "a", 1)
    (tmp_path / "identity.json").write_text(content)
    with pytest.raises(DataError) as raised:
        store(tmp_path)
    assert message in str(raised.value)
    assert str(raised.value).endswith(FIX)


def test_a_folder_that_cannot_be_written_is_found_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="a file stands where the folder should be"):
        store(tmp_path / "file")


def test_only_its_own_files_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    first = store(tmp_path)
    save(first, "tensors", "a", 1)
    first.save_json("b-parts/rows", [])
    with killed_at(2), pytest.raises(Killed):
        save(first, "table", "c", 1)
    assert list(tmp_path.glob(".*.tmp"))
    LAYOUT.forget(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "notes.txt"]
    assert not store(tmp_path, another=1).claimed


def test_without_a_folder_nothing_is_kept() -> None:
    nothing = ResumeStore(None, IDENTITY, LAYOUT)
    for form in FORMS:
        save(nothing, form, "a", 1)
        assert load(nothing, form, "a") is None
    nothing.claim()
    assert nothing.parts_folder("a") is None
