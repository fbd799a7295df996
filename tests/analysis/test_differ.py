"""What changed between two networks' skips, and the files that hold them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given

import skiplab
from cases import captured
from oracles import graphs
from skiplab.analysis.differ import diff, trait
from skiplab.analysis.skips import Skips
from skiplab.errors import DataError
from skiplab.models import resnet
from skiplab.serialization.json_schema import diff_json, find_json, read_skips

X = (torch.randn(2, 3, 16, 16),)


def skips(**options: object) -> Skips:
    return skiplab.find(skiplab.capture(resnet(20, width=4, **options), X))  # type: ignore[arg-type]


def written(path: Path, name: str) -> Path:
    case = captured(name)
    found = find_json(name, case.program, case.skips, skiplab.census(case.program))
    path.write_text(json.dumps(found))
    return path


def test_a_network_does_not_differ_from_itself() -> None:
    assert not diff(skips(), skips())


def test_all_skips_removed_or_added() -> None:
    gone = diff(skips(), skips(skip=None))
    assert (len(gone.removed), len(gone.added), len(gone.changed)) == (9, 0, 0)
    assert len(diff(skips(skip=None), skips()).added) == 9


def test_another_shortcut_is_a_change_of_those_alone_that_had_it() -> None:
    changed = diff(skips(skip="A"), skips(skip="B")).changed
    assert [(change.before.path, change.fields) for change in changed] == [
        (path, ("shortcut", "shortcut_weight_layers")) for path in ("layer2.0", "layer3.0")
    ]


def test_pre_activation_changes_what_follows_the_merge() -> None:
    changed = diff(skips(), skips(placement="pre")).changed
    assert len(changed) == 9
    assert all("activation_after" in change.fields for change in changed)


def test_a_skip_taken_out_of_the_middle_is_one_removed() -> None:
    block = captured("dense_block").skips
    one = Skips((*block[:3], *block[4:]))
    assert [skip.id for skip in diff(block, one).removed] == [block[3].id]


def test_what_is_listed_apart_counts_too() -> None:
    gated, bare = captured("squeeze_excited").skips, captured("block").skips
    assert diff(gated, bare).non_skips == {("", "gate"): -1}
    assert diff(bare, gated).non_skips == {("", "gate"): 1}


@given(graphs.plans(), graphs.plans())
def test_removed_and_added_make_up_the_difference(one: graphs.Plan, other: graphs.Plan) -> None:
    before, after = skiplab.find(graphs.program(one)), skiplab.find(graphs.program(other))
    difference = diff(before, after)
    assert len(before) - len(difference.removed) + len(difference.added) == len(after)
    assert set(difference.removed) <= set(before)
    assert set(difference.added) <= set(after)
    for change in difference.changed:
        assert change.fields
        assert all(trait(change.before, name) != trait(change.after, name) for name in change.fields)
    back = diff(after, before)
    assert bool(back) == bool(difference)


def test_files_hold_what_was_found(tmp_path: Path) -> None:
    for name in ("resnet18", "highway", "lstm", "timm_repvgg"):
        read = read_skips(written(tmp_path / "skips.json", name))
        assert list(read) == list(captured(name).skips)
        assert read.non_skips == captured(name).skips.non_skips


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "cannot be read as JSON"),
        ("[]", "no schema"),
        (
            '{"schema": "skiplab.find/2"}',
            "has the format skiplab.find/2, and this version reads skiplab.find/3: write it again",
        ),
        (
            '{"schema": "skiplab.find/3", "skips": [{}], "non_skips": []}',
            "no complete skiplab.find/3 file: KeyError: 'id'",
        ),
    ],
)
def test_a_file_that_is_something_else_is_named(text: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "skips.json").write_text(text)
    with pytest.raises(DataError, match=words.replace("[", r"\[")):
        read_skips(tmp_path / "skips.json")


def test_json_has_both_values_of_what_changed() -> None:
    before = captured("block").skips
    after = Skips(replace(skip, activation_after="relu") for skip in before)
    (change,) = diff_json("a", "b", diff(before, after))["changed"]
    assert change["fields"] == {"activation_after": [None, "relu"]}
