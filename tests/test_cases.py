"""Every network of the table of cases, against what is known of it."""

import linecache
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.utils import _pytree as pytree

import skiplab
from cases import CASES, NUMERIC, TRAINED, WRONG, by_kind, captured
from cases_ours import OURS
from skiplab.analysis.edges import branch_edges
from skiplab.graph.interpreter import Execution, run


@pytest.mark.parametrize("name", CASES)
def test_skips_by_kind(name: str, request: pytest.FixtureRequest) -> None:
    if name in WRONG:
        request.applymarker(pytest.mark.xfail(strict=True, reason=WRONG[name], raises=AssertionError))
    found = captured(name)
    assert by_kind(found.skips) == CASES[name].skips
    assert found.program.unfollowed == ()


@pytest.mark.parametrize("name", CASES)
def test_what_is_listed_apart(name: str) -> None:
    case, found = CASES[name], Counter(each.reason for each in captured(name).skips.non_skips)
    expected = {"gate": case.gates, "fusion": case.fusions, "foldable": case.foldable, "unknown": case.unknown}
    known = {reason: count for reason, count in expected.items() if count is not None}
    assert {reason: found[reason] for reason in known} == known


@pytest.mark.parametrize("name", CASES)
def test_selecting_everything_selects_the_non_skips_too(name: str) -> None:
    found = captured(name).skips
    for selected in (found.at("*"), found[:]):
        assert not skiplab.diff(found, selected)
        assert (list(selected), selected.non_skips) == (list(found), found.non_skips)
    assert found.in_graph().non_skips == found.non_skips


@pytest.mark.parametrize("name", [name for name in CASES if CASES[name].census])
def test_census(name: str) -> None:
    census = skiplab.census(captured(name).program)
    assert (census.paths, census.nonlinearities.min, census.nonlinearities.max) == CASES[name].census
    assert census.most_linear.nonlinearities == census.nonlinearities.min


@pytest.mark.parametrize("name", TRAINED)
def test_training_graph_has_the_same_skips(name: str) -> None:
    evaluated, trained = captured(name).skips, captured(name, train=True).skips
    keep = ["id", "path", "combine", "shortcut", "weight_layers", "shortcut_weight_layers", "source", "parent"]
    assert trained.table()[keep].equals(evaluated.table()[keep])
    assert len(trained.non_skips) == len(evaluated.non_skips)


@pytest.mark.parametrize("name", CASES)
def test_merges_have_samples_where_the_batch_grows_and_channels(name: str) -> None:
    program = captured(name).program
    for merge in {skip.merge for skip in captured(name).skips.in_graph()}:
        op = program.by_name[merge]
        layout = program.layouts[op.index]
        assert layout.channels is not None
        assert not program.dynamic_batch or layout.samples == op.shape.index(None)


@pytest.mark.parametrize("name", CASES)
def test_source_is_a_line_that_exists(name: str) -> None:
    for skip in captured(name).skips:
        assert skip.source is not None
        file, line = skip.source.rsplit(":", 1)
        assert Path(file).is_file()
        assert linecache.getline(file, int(line)).strip()


@pytest.mark.parametrize("name", CASES)
def test_model_comes_back_as_it_was(name: str) -> None:
    found = captured(name)
    assert found.after == found.before


@pytest.mark.parametrize("name", TRAINED)
def test_model_comes_back_as_it_was_from_training(name: str) -> None:
    found = captured(name, train=True)
    assert found.after == found.before


@pytest.mark.parametrize("name", [case.name for case in OURS])
def test_our_networks_take_any_batch(name: str) -> None:
    assert captured(name).program.dynamic_batch
    assert name not in TRAINED or captured(name, train=True).program.dynamic_batch


@pytest.mark.parametrize("name", NUMERIC)
def test_graph_computes_what_the_model_computes(name: str) -> None:
    assert captured(name).program.difference <= 1e-5


@pytest.mark.parametrize("name", TRAINED)
def test_training_graph_computes_what_the_model_computes(name: str) -> None:
    assert captured(name, train=True).program.difference <= 1e-5


@pytest.mark.parametrize("name", NUMERIC)
def test_scaling_every_branch_by_one_changes_nothing(name: str) -> None:
    found = captured(name)
    edges = {edge for skip in found.skips.in_graph() for edge in branch_edges(found.program, skip)}
    seen = []
    patches = dict.fromkeys(edges, lambda value: seen.append(None) or value * 1)
    with torch.no_grad():
        patched = Execution(found.program, found.args, found.kwargs, patches=patches).finish()
        clean = run(found.program, *found.args, **found.kwargs)
    assert len(seen) == len(edges)
    for a, b in zip(pytree.tree_leaves(patched), pytree.tree_leaves(clean), strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
