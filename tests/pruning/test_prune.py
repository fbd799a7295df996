"""Pruning, on networks so small that every order can be had by measuring everything."""

from collections.abc import Iterator
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import skiplab
from networks import Net, Transformer, heavy
from skiplab import pruning
from skiplab.analysis.skips import Skips
from skiplab.edit import recalibrate, remove_branch
from skiplab.errors import StaleSkip, UsageError
from skiplab.graph.interpreter import run
from skiplab.graph.program import Program
from skiplab.measure import lesion
from skiplab.models import resnet
from skiplab.pruning import Units, influence

TIMES = ["latency_ratio", "latency_ratio_min"]


def wrong(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) != target).float()


def samples(count: int, size: int = 8) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(count)
    return [
        (torch.randn(size, 3, 8, 8, generator=generator), torch.randint(0, 4, (size,), generator=generator))
        for _ in range(count)
    ]


@pytest.fixture(scope="module")
def small() -> tuple[Program, Skips]:
    torch.manual_seed(0)
    program = skiplab.capture(resnet(14, width=4, num_classes=4), (torch.randn(2, 3, 8, 8),))
    program = recalibrate(program, samples(2))  # so that a block has something to say
    return program, skiplab.find(program)


def pruned(small: tuple[Program, Skips], **options: Any) -> pruning.Pruned:
    return skiplab.prune(*small, samples(3), samples(2), F.cross_entropy, wrong, **options)


def test_the_networks_are_those_without_the_blocks_that_are_named(small: tuple[Program, Skips]) -> None:
    program, skips = small
    found = pruned(small, keep=0.5)
    x = samples(5)[0][0]
    assert found.frontier["blocks"].tolist() == [6, 5, 4, 3]
    assert found.chosen == 3
    gone: set[str] = set()
    for smaller, name in zip(found.programs, found.frontier["removed"], strict=True):
        gone |= {name} - {""}
        expected = remove_branch(program, Skips(s for s in skips if s.id in gone))
        expected = recalibrate(expected, samples(3)) if gone else expected
        torch.testing.assert_close(run(smaller, x), run(expected, x))


def test_all_at_once_goes_by_the_lesions_of_the_whole_network(small: tuple[Program, Skips]) -> None:
    alone = lesion(*small, samples(3), F.cross_entropy).sort_values("loss_change")
    found = pruned(small, greedy=False, candidates=6)
    assert found.frontier["removed"].tolist()[1:] == alone["id"].tolist()
    assert found.frontier["score"].tolist()[1:] == pytest.approx(alone["loss_change"].tolist())
    assert found.chosen == 6


def test_greedy_measures_anew_in_what_is_left(small: tuple[Program, Skips]) -> None:
    found = pruned(small, candidates=6)
    for program, name, score in zip(
        found.programs, found.frontier["removed"][1:], found.frontier["score"][1:], strict=False
    ):
        left = lesion(program, skiplab.find(program), samples(3), F.cross_entropy)
        assert score == pytest.approx(left["loss_change"].min())
        assert left.sort_values("loss_change")["id"].iloc[0] == name


def test_without_exact_lesions_of_all_the_candidates_are_those_of_the_lowest_estimates(
    small: tuple[Program, Skips], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skiplab.pruning import ranking

    measured = []
    monkeypatch.setattr(ranking, "lesion", lambda *a, **k: measured.append(k["groups"]) or lesion(*a, **k))
    pruned(small, greedy=False, candidates=2)
    guesses = skiplab.measure.estimate(*small, samples(3), F.cross_entropy, exact=0).sort_values("loss_change")
    assert measured == [[[name] for name in guesses["id"][:2]]]


def test_orders_by_place_and_at_random(small: tuple[Program, Skips]) -> None:
    ids = [skip.id for skip in small[1]]
    assert pruned(small, by="first").frontier["removed"].tolist()[1:] == ids
    assert pruned(small, by="last").frontier["removed"].tolist()[1:] == ids[::-1]
    orders = [pruned(small, by="random", seed=seed).frontier["removed"].tolist()[1:] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[2]) == sorted(ids)


@pytest.mark.parametrize(("greedy", "sizes"), [(True, [4]), (False, [6])])
def test_going_on_gives_what_one_call_gives(
    greedy: bool, sizes: list[int], small: tuple[Program, Skips], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skiplab.pruning import ranking

    whole = pruned(small, keep=0.5, greedy=greedy).frontier
    ranked = []
    original = ranking.ranked
    monkeypatch.setattr(ranking, "ranked", lambda *given: ranked.append(len(given[1])) or original(*given))
    begun = whole.head(3).to_dict("records")
    rest = pruned(small, keep=0.5, greedy=greedy, before=begun).frontier
    assert ranked == sizes
    pd.testing.assert_frame_equal(whole.drop(columns=TIMES), rest.drop(columns=TIMES))


def test_a_limit_on_the_change_chooses_the_last_network_within_it(small: tuple[Program, Skips]) -> None:
    changes = pruned(small, by="first").frontier["metric_change"]
    found = pruned(small, by="first", max_change=0.0)
    over = next((place for place, change in enumerate(changes) if change > 0), None)
    assert found.chosen == max(i for i, c in enumerate(changes[:over]) if c <= 0)
    assert len(found.frontier) == (len(changes) if over is None else over + 1)


def test_answer_and_chart_of_a_notebook(small: tuple[Program, Skips]) -> None:
    found = pruned(small, by="last", keep=0.5)
    before, after = (found.frontier["metric"].iloc[row] for row in (0, 3))
    sentences = found.answer()
    assert sentences[0] == "3 of 6 blocks (50%) are removed, in this order: layer3.1, layer3.0, layer2.1."
    assert f"The metric goes from {before:.4g} to {after:.4g} without training" in sentences[2]
    assert f"The error goes from {before:.1%} to {after:.1%} without training" in found.answer("error")[2]
    chart = str(found.plot().to_dict())
    assert [name in chart for name in ("layer2.1", "layer1.1")] == [True, False]


def test_a_row_says_what_the_network_is(small: tuple[Program, Skips]) -> None:
    torch.manual_seed(0)
    found = pruned(small, by="last", keep=0.9)
    row = found.frontier.iloc[1]
    named = resnet(14, width=4, num_classes=4).named_parameters()
    assert row["parameters"] == sum(p.numel() for name, p in named if not name.startswith("layer3.1"))
    assert found.frontier["flops"][0] - row["flops"] == 2 * 2 * (16 * 16 * 9) * 2 * 2  # two layers of 2×2 positions
    x, y = (torch.cat(parts) for parts in zip(*samples(2), strict=True))
    with torch.no_grad():
        output = run(found.program, x)
        assert row["metric"] == pytest.approx(float(wrong(output, y).mean()))
        assert row["loss"] == pytest.approx(float(F.cross_entropy(output, y)))
    assert row["metric_low"] <= row["metric"] <= row["metric_high"]
    assert row["latency_ratio"] > 0


def test_latency_is_that_of_the_smaller_network_over_that_of_the_whole(
    small: tuple[Program, Skips], monkeypatch: pytest.MonkeyPatch
) -> None:
    from skiplab.pruning import evaluation

    program, skips = small
    smaller = remove_branch(program, skips[:3])
    counts = [sum(1 for _ in each.module().parameters()) for each in (program, smaller)]
    times = {counts[0]: iter([9, 9, 4.0, 2.0, 8.0]), counts[1]: iter([9, 9, 1.0, 1.0, 6.0])}
    monkeypatch.setattr(evaluation, "_timed", lambda module, _: next(times[sum(1 for _ in module.parameters())]))
    given = next(evaluation.validate_batches(program, samples(1)))
    assert evaluation.latency(program, smaller, given, rounds=3) == (0.5, 1 / 2)  # of 1/4, 1/2, 3/4; of 1 and 2


def test_changes_are_paired_by_sample(small: tuple[Program, Skips]) -> None:
    program, _ = small
    same = pruning.Evaluator(program, samples(3), F.cross_entropy, None, 0).row(program)
    assert [same[f"loss_change{end}"] for end in ("", "_low", "_high")] == [0.0, 0.0, 0.0]
    assert same["loss_low"] < same["loss"] < same["loss_high"]


def test_the_whole_network_meets_no_latency(small: tuple[Program, Skips], monkeypatch: pytest.MonkeyPatch) -> None:
    from skiplab.pruning import evaluation

    monkeypatch.setattr(evaluation, "latency", lambda *_: (0.5, 0.5))
    assert pruned(small, by="first", latency=0.9).chosen == 1


def test_batch_norms_without_statistics_need_none() -> None:
    def branch() -> torch.nn.Module:
        return torch.nn.Sequential(heavy(), torch.nn.BatchNorm1d(8, track_running_stats=False))

    net = Net(lambda net, x: (y := x + net.f(x)) + net.g(y), f=branch(), g=branch())
    program = skiplab.capture(net, (torch.randn(4, 8),))
    x = torch.randn(6, 8)
    found = skiplab.prune(program, skiplab.find(program), [(x, x)], [(x, x)], F.mse_loss, by="first")
    assert found.frontier["blocks"].tolist() == [2, 1, 0]


def cosine_by_hand(x: Tensor, y: Tensor) -> float:
    return float((x * y).sum(-1).div(x.norm(dim=-1) * y.norm(dim=-1)).mean())


def test_influence_of_the_layers_of_a_transformer() -> None:
    torch.manual_seed(0)
    a, b = Transformer("pre"), Transformer("pre")
    program = skiplab.capture(Net(lambda net, x: net.b(net.a(x)), a=a, b=b), (torch.randn(4, 5, 8),))
    layers = Units(program, skiplab.find(program), "module")
    assert [unit.id for unit in layers.all] == ["a", "b"]
    x = torch.randn(6, 5, 8)
    found = influence(program, layers.all, [(x[:4], None), (x[4:], None)])
    with torch.no_grad():
        assert found == pytest.approx([1 - cosine_by_hand(x, a(x)), 1 - cosine_by_hand(a(x), b(a(x)))], rel=1e-4)
    removed = skiplab.prune(
        program, skiplab.find(program), [(x, x)], [(x, x)], F.mse_loss, by="influence", unit="module", keep=0.5
    )
    kept = b if found[0] < found[1] else a
    with torch.no_grad():
        torch.testing.assert_close(run(removed.program, x), kept(x))


def test_what_changes_shape_has_no_influence_to_speak_of() -> None:
    joining = Net(lambda net, x: torch.cat((x, net.f(x)), -1), f=torch.nn.Linear(8, 8))
    joined = skiplab.capture(joining, (torch.ones(2, 8),))
    units = Units(joined, skiplab.find(joined), "block").all
    assert influence(joined, units, [(torch.randn(2, 8), None)]) == [torch.inf]


def test_fine_tuning_trains_a_copy(small: tuple[Program, Skips]) -> None:
    from skiplab.data import DataSet, Split

    program, skips = small
    smaller = remove_branch(program, skips[-1:])
    x, y = (torch.cat(parts) for parts in zip(*samples(4), strict=True))
    data = DataSet("random", Split(x, y), Split(x, y), classes=4)
    before = {name: tensor.clone() for name, tensor in smaller.tensors.items()}
    better = pruning.finetuned(smaller, data, skiplab.Recipe(epochs=3, batch_size=8, learning_rate=0.05))
    assert all(torch.equal(tensor, before[name]) for name, tensor in smaller.tensors.items())
    assert better.parameters == smaller.parameters
    trained = skiplab.fit(smaller.module(), data, skiplab.Recipe(epochs=3, batch_size=8, learning_rate=0.05)).model
    own = better.module().state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in trained.state_dict().items())
    with torch.no_grad():
        assert F.cross_entropy(run(better, x), y) < F.cross_entropy(run(smaller, x), y)
        torch.testing.assert_close(better.module()(x), run(better, x))


def one_by_one() -> Iterator[Any]:
    yield from samples(2)


def test_wrong_requests(small: tuple[Program, Skips]) -> None:
    program, skips = small
    for options, text in (
        ({"keep": 0.5, "latency": 0.5}, "keep and latency exclude each other"),
        ({"keep": 1.5}, "keep=1.5: give a number from 0 to below 1"),
        ({"max_change": -1.0}, "max_change=-1"),
        ({"by": "size"}, "by='size': choose lesion"),
        ({"unit": "layer"}, "unit='layer': choose block, module"),
        ({"candidates": 0}, "candidates=0"),
        ({"share": 0.5}, "no option \\['share'\\]"),
        ({"by": "first", "latency": 0.0}, "latency=0 is out of reach"),
        ({"before": [{}, {"removed": "layer9.0"}]}, "there is no block `layer9.0`"),
    ):
        with pytest.raises(UsageError, match=text):
            pruned(small, **options)
    with pytest.raises(StaleSkip):
        skiplab.prune(remove_branch(program, skips[:1]), skips, samples(1), samples(1), F.cross_entropy)
    with pytest.raises(UsageError, match="can be read only once"):
        skiplab.prune(program, skips, one_by_one(), samples(1), F.cross_entropy)
    with pytest.raises(UsageError, match="no skip connection"):
        skiplab.prune(program, Skips([]), samples(1), samples(1), F.cross_entropy)
