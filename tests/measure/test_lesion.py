import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies
from scipy.stats import bootstrap
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Net, Transformer
from oracles.lesioned import Normed, branches, changed, images
from oracles.lesioned import mean_loss as mean_of
from oracles.tower import Tower, mean_loss, samples
from skiplab.analysis.edges import branch_edges, shortcut_edges
from skiplab.analysis.skips import Skips
from skiplab.errors import DataError, StaleSkip, UsageError
from skiplab.graph.interpreter import Execution, run
from skiplab.graph.program import Program
from skiplab.measure import lesion

Captured = tuple[Tower, Program, Skips]


@pytest.fixture(scope="module")
def tower() -> Captured:
    torch.manual_seed(0)
    model = Tower()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    return model, program, skiplab.find(program).expect(4)


def errors(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(1) != target).double().mean()


@pytest.mark.parametrize("part", ["branch", "shortcut"])
def test_against_a_forward_pass_written_by_hand(tower: Captured, part: Any) -> None:
    model, program, skips = tower
    batches = samples(5, 8, 1)
    table = lesion(program, skips, batches, F.cross_entropy, metric=errors, kinds=[part])
    whole = mean_loss(model, batches, F.cross_entropy)
    losses = [mean_loss(model, batches, F.cross_entropy, (number, part)) for number in range(4)]
    metrics = [mean_loss(model, batches, errors, (number, part)) for number in range(4)]
    whole_metric = mean_loss(model, batches, errors)
    assert table["loss"].to_list() == pytest.approx(losses, rel=1e-12)
    assert table["loss_change"].to_list() == pytest.approx([loss - whole for loss in losses], abs=1e-12)
    assert table["metric"].to_list() == pytest.approx(metrics, abs=1e-12)
    assert table["metric_change"].to_list() == pytest.approx([m - whole_metric for m in metrics], abs=1e-12)
    assert table["loss_change"].abs().min() > 1e-4


COLUMNS = ["id", "order", "kind", "k", "batchnorm", "unit", "samples"]
CHANGES = ["loss", "loss_change", "loss_change_low", "loss_change_high"]
KINDS: list[Any] = ["branch", "shortcut", "mean", "noise", "shuffle"]


def square(output: Any, target: Any) -> Tensor:
    return output.square().mean()


def test_table(tower: Captured) -> None:
    _, program, skips = tower
    batches = samples(3, 4)
    table = lesion(program, skips, batches, F.cross_entropy)
    assert list(table) == COLUMNS + CHANGES
    assert list(table["id"]) == [skip.id for skip in skips]
    assert list(table["order"]) == [program.by_name[skip.merge].index for skip in skips]
    for name, value in (("kind", "branch"), ("k", 1), ("batchnorm", "as trained"), ("unit", "sample"), ("samples", 7)):
        assert set(table[name]) == {value}
    assert list(lesion(program, skips.at("nothing"), samples(3), F.cross_entropy)) == list(table)
    both = lesion(program, skips, batches, F.cross_entropy, errors, kinds=KINDS)
    assert list(both) == COLUMNS + CHANGES + [name.replace("loss", "metric") for name in CHANGES]
    assert list(both["kind"]) == [kind for kind in KINDS for _ in skips]
    pd.testing.assert_frame_equal(both[both["kind"] == "branch"][list(table)], table)


def test_mean_and_shuffle_against_hooks_on_the_module(tower: Captured) -> None:
    """In batches of two, another sample is the other one."""
    model, program, skips = tower
    batches = samples(2, 2, 2)
    table = lesion(program, skips, batches, F.cross_entropy, kinds=["mean", "shuffle"])
    means = [value.mean(0) for value in branches(model, torch.cat([x for x, _ in batches]))]
    wanted = []
    for change in (lambda n: lambda f: means[n].expand_as(f), lambda n: lambda f: f.flip(0)):
        for number in range(4):
            with changed(model, {number: change(number)}):
                wanted.append(mean_of(model, batches, F.cross_entropy))
    assert table["loss"].to_list() == pytest.approx(wanted, rel=1e-12)
    assert table["loss_change"].abs().min() > 1e-5


def test_noise_like_a_branch_that_is_always_the_same_is_its_mean(tower: Captured) -> None:
    _, program, skips = tower
    x = samples(1)[0][0].expand(5, -1).clone()
    table = lesion(program, skips, [(x, None)], square, kinds=["mean", "noise", "branch"])
    mean, noise, branch = (table[table["kind"] == kind]["loss"].to_list() for kind in ("mean", "noise", "branch"))
    assert noise == pytest.approx(mean, rel=1e-6)
    assert branch != pytest.approx(mean, rel=1e-3)


@pytest.mark.parametrize("kind", ["noise", "shuffle"])
def test_what_is_random_has_a_seed_of_its_own(tower: Captured, kind: Any) -> None:
    _, program, skips = tower
    batches, state = samples(6, 6), torch.get_rng_state()
    one, again, other = (
        lesion(program, skips, batches, F.cross_entropy, kinds=[kind], seed=seed)["loss"].to_list()
        for seed in (1, 1, 2)
    )
    assert one == again
    assert one != other
    assert torch.equal(torch.get_rng_state(), state)


def test_pairs_and_groups_against_hooks_on_the_module(tower: Captured) -> None:
    model, program, skips = tower
    batches = samples(5, 3)
    pairs, triples = list(itertools.combinations(range(4), 2)), [(0, 1, 2), (1, 2, 3)]
    choices: list[tuple[Any, list]] = [("pairs", pairs), (3, triples)]
    for groups, numbers in choices:
        table = lesion(program, skips, batches, F.cross_entropy, groups=groups)
        wanted = []
        for group in numbers:
            with changed(model, dict.fromkeys(group, torch.zeros_like)):
                wanted.append(mean_of(model, batches, F.cross_entropy))
        assert table["loss"].to_list() == pytest.approx(wanted, rel=1e-12)
        assert list(table["id"]) == [" + ".join(skips[n].id for n in group) for group in numbers]
        assert set(table["k"]) == {len(numbers[0])}


def words() -> Net:
    def forward(net: Any, ids: Tensor) -> Tensor:
        return net.b(net.a(net.words(ids)))

    return Net(forward, words=nn.Embedding(9, 8), a=Transformer("pre"), b=Transformer("post"))


@pytest.mark.parametrize("name", ["unet", "dense_block", "res2net", "pre_norm", "highway", "lstm", "min_gru"])
@pytest.mark.parametrize("kind", ["branch", "shortcut", "shuffle"])
def test_bit_identical_to_running_every_network_from_the_start(name: str, kind: Any) -> None:
    case = captured(name)
    against_naive(case.program, case.skips.in_graph(), case.args[0], kind)


def test_token_inputs() -> None:
    ids = torch.arange(10).reshape(2, 5) % 9
    program = skiplab.capture(words(), (ids,))
    for kind in ("branch", "shortcut", "shuffle"):
        against_naive(program, skiplab.find(program).expect(4), ids, kind)
    table = lesion(program, skiplab.find(program), [(ids, None)], square, kinds=["mean", "noise"])
    assert table["loss"].notna().all()


def against_naive(program: Program, skips: Skips, x: Tensor, kind: Any) -> None:
    """The naive loop runs the whole network once for each lesion. `x` holds two samples, or more alike."""
    patch = (lambda value: value.roll(1, 0)) if kind == "shuffle" else torch.zeros_like
    x = x[:2]
    losses = []
    with torch.no_grad():
        for skip in skips:
            edges = shortcut_edges(program, skip) if kind == "shortcut" else branch_edges(program, skip)
            output = Execution(program, (x,), patches=dict.fromkeys(edges, patch)).finish()
            losses.append(float(square(output, None)))
    assert lesion(program, skips, [(x, None)], square, kinds=[kind])["loss"].to_list() == losses


def test_intervals_are_of_the_samples_differences(tower: Captured) -> None:
    _, program, skips = tower
    batches = samples(30, 20)

    def each(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target, reduction="none")

    with torch.no_grad():
        parts = []
        for x, target in batches:
            patches = dict.fromkeys(branch_edges(program, skips[1]), torch.zeros_like)
            lesioned = Execution(program, (x,), patches=patches).finish()
            parts.append(each(lesioned, target) - each(run(program, x), target))
    differences = torch.cat(parts).numpy()
    wanted = bootstrap((differences,), np.mean, n_resamples=2000, method="percentile", rng=0).confidence_interval
    for loss in (F.cross_entropy, each):
        table = lesion(program, skips, batches, loss)
        assert set(table["unit"]) == {"sample"}
        assert table["loss_change"][1] == pytest.approx(differences.mean(), rel=1e-10)
        slack = 0.1 * (wanted.high - wanted.low)
        assert table["loss_change_low"][1] == pytest.approx(wanted.low, abs=slack)
        assert table["loss_change_high"][1] == pytest.approx(wanted.high, abs=slack)
    assert (table["loss_change_low"] < table["loss_change"]).all()
    assert (table["loss_change"] < table["loss_change_high"]).all()


def test_a_weighted_loss_has_batches_as_units(tower: Captured) -> None:
    _, program, skips = tower
    weight = torch.tensor([1, 2, 9], dtype=torch.double)
    table = lesion(program, skips, samples(5, 6, 7), lambda o, t: F.cross_entropy(o, t, weight=weight))
    assert set(table["unit"]) == {"batch"}
    assert (table["loss_change_low"] <= table["loss_change"]).all()
    single = lesion(program, skips, samples(9), lambda o, t: F.cross_entropy(o, t, weight=weight))
    assert single["loss_change_low"].isna().all()
    assert single["loss_change"].notna().all()


def test_reordered_blocks_have_rows_of_their_own() -> None:
    torch.manual_seed(0)
    model = Normed(3)
    batches = images(4, 4)
    program = skiplab.capture(model, (batches[0][0],))
    table = lesion(program, skiplab.find(program).expect(3), batches, F.cross_entropy, kinds=[], reorder=2, draws=4)
    counts = table["k"].value_counts()
    assert set(counts.index) == {1, 2}
    assert 1 <= counts[1] <= 3  # of three blocks there are three pairs, drawn four times
    assert 1 <= counts[2] <= 4
    assert table["id"].is_unique
    assert set(table["kind"]) == {"reorder"}
    assert table["id"].str.count("↔").to_list() == table["k"].to_list()


def test_order_of_the_skips_does_not_matter(tower: Captured) -> None:
    _, program, skips = tower
    batches = samples(4)
    straight = lesion(program, skips, batches, F.cross_entropy)
    backwards = lesion(program, Skips(reversed(skips)), batches, F.cross_entropy)
    assert backwards.iloc[::-1].reset_index(drop=True).equals(straight)


@settings(max_examples=10)
@given(cuts=strategies.sets(strategies.integers(1, 7)), order=strategies.permutations(range(8)))
def test_how_samples_are_batched_and_ordered_does_not_matter(tower: Captured, cuts: set[int], order: list[int]) -> None:
    _, program, skips = tower
    torch.manual_seed(0)
    (x, target), *_ = samples(8)
    kinds: list[Any] = ["branch", "mean"]
    whole = lesion(program, skips, [(x, target)], F.cross_entropy, kinds=kinds)
    cut = torch.tensor(order).tensor_split(sorted(cuts))
    parts = lesion(program, skips, [(x[own], target[own]) for own in cut], F.cross_entropy, kinds=kinds)
    exact = [name for name in whole if not str(name).endswith(("_low", "_high"))]  # resamples are of samples by number
    pd.testing.assert_frame_equal(whole[exact], parts[exact], rtol=1e-12, atol=1e-15)


def test_loss_change_scales_with_the_loss(tower: Captured) -> None:
    _, program, skips = tower
    batches = samples(4)
    one = lesion(program, skips, batches, F.cross_entropy)
    ten = lesion(program, skips, batches, lambda o, t: 10 * F.cross_entropy(o, t))
    assert (10 * one["loss_change"]).to_list() == pytest.approx(ten["loss_change"].to_list(), rel=1e-12)


def test_a_branch_of_zeros_is_no_loss() -> None:
    model = Tower()
    with torch.no_grad():
        for parameter in model.get_submodule("blocks.2.branch").parameters():
            parameter.zero_()
    program = skiplab.capture(model, (torch.randn(4, 6, dtype=torch.double),))
    table = lesion(program, skiplab.find(program), samples(4), F.cross_entropy)
    assert [change == 0 for change in table["loss_change"]] == [False, False, True, False]


def test_the_networks_parameters_and_gradients_are_left_alone(tower: Captured) -> None:
    model, program, skips = tower
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lesion(program, skips, samples(4), F.cross_entropy)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_all_branches_of_a_parallel_block_go_together() -> None:
    case = captured("parallel")
    (skip,) = case.skips
    branch, shortcut = branch_edges(case.program, skip), shortcut_edges(case.program, skip)
    assert (len(branch), len(shortcut)) == (2, 1)
    assert {operand for _, operand in branch} == set(skip.branch)
    assert [operand for _, operand in shortcut] == [skip.operand]

    def distance(output: Tensor, target: Tensor) -> Tensor:
        return (output - target).abs().max()

    x = torch.randn(2, 5, 8)
    table = lesion(case.program, case.skips, [(x, x)], distance)
    assert table["loss"][0] == 0  # nothing but x is left


def test_a_concatenated_shortcut_is_zeroed_in_its_place() -> None:
    case = captured("unet")
    x = torch.randn(2, 4, 8, 8)
    table = lesion(case.program, case.skips, [(x, None)], lambda output, _: output.square().mean(), kinds=["shortcut"])
    assert (table["loss_change"] != 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "branch"}, "kinds: 'b' is none of branch, shortcut, mean, noise, shuffle, .*; give a list"),
        ({"groups": 5}, "groups=5: give 'pairs', or a number from 1 to 4, that of the skips"),
        ({"groups": 0}, "groups=0"),
        ({"part": "branch"}, r"no option \['part'\]: a lesion takes \['draws', 'fast', 'folder', 'groups', 'kinds'"),
        ({"reorder": 1}, "reorder=1: these 4 skips have 0 pairs of like blocks to swap"),
        ({"reestimate": True}, "Tower has no batch norm with statistics to re-estimate: leave `reestimate` out"),
    ],
)
def test_options_that_make_no_sense(tower: Captured, options: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        lesion(tower[1], tower[2], samples(4), F.cross_entropy, **options)


@pytest.mark.parametrize("options", [{"kinds": ["mean"]}, {"kinds": ["noise"]}])
def test_batches_that_can_be_read_once(tower: Captured, options: Any) -> None:
    with pytest.raises(UsageError, match=r"the data is read 2 times .* can be read only once: give a list"):
        lesion(tower[1], tower[2], iter(samples(4)), F.cross_entropy, **options)


def test_a_single_sample_has_no_other_to_trade_branches_with(tower: Captured) -> None:
    with pytest.raises(DataError, match="sample 4 is alone in its batch, and `shuffle` needs another"):
        lesion(tower[1], tower[2], samples(4, 1), F.cross_entropy, kinds=["shuffle"])


def test_a_training_graph() -> None:
    program = skiplab.capture(Tower(), (torch.randn(4, 6, dtype=torch.double),), train=True)
    with pytest.raises(UsageError, match=r"Tower was captured as a training graph, .*: capture it without train=True"):
        lesion(program, skiplab.find(program), samples(4), F.cross_entropy)


def test_skips_of_another_program(tower: Captured) -> None:
    with pytest.raises(StaleSkip, match="call `find` on this one again"):
        lesion(tower[1], captured("block").skips, samples(4), F.cross_entropy)


def test_data_that_is_not_finite_raises(tower: Captured) -> None:
    _, program, skips = tower
    (x, target), *_ = samples(4)
    x[2, 1] = torch.nan
    with pytest.raises(DataError, match="is nan: input 0 holds NaN or infinity in sample 2"):
        lesion(program, skips, [(x, target)], F.cross_entropy)


def test_a_lesioned_network_may_overflow(tower: Captured) -> None:
    _, program, skips = tower

    def loss(output: Tensor, target: Tensor) -> Tensor:
        change = (output - wanted).abs().max()
        return torch.where(change > 0, torch.inf, change)

    x = samples(4)[0][0]
    wanted = tower[0](x).detach()
    assert set(lesion(program, skips, [(x, None)], loss)["loss"]) == {float("inf")}


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "no batches: the iterable is empty or an exhausted iterator"),
        (iter([torch.zeros(4, 6)]), r"batch 1 is not a pair \(inputs, target\)"),
        (
            [(torch.zeros(4, 6).double(), None), (torch.zeros(4, 7), None)],
            r"batch 2 has an input of shape \(4, 7\); Tower was captured with \('any', 6\)",
        ),
        (
            [((torch.zeros(4, 6), torch.zeros(4, 6)), None)],
            r"batch 1: Tower takes \(tensor\) as captured, got \(tensor, tensor\)",
        ),
    ],
)
def test_batches_that_do_not_fit(tower: Captured, batches: Any, message: str) -> None:
    _, program, skips = tower
    with pytest.raises(DataError, match=message):
        lesion(program, skips, batches, lambda output, _: output.mean())


def test_batches_may_come_from_a_generator_and_hold_several_inputs() -> None:
    case = captured("two_inputs")
    batches = (((torch.randn(n, 8), torch.randn(n, 8)), None) for n in (2, 3))
    table = lesion(case.program, case.skips, batches, lambda output, _: output.square().mean())
    assert list(table["samples"]) == [5]


def test_fixed_batch_size_is_held_to(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Tower()

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.reshape(int(x.shape[0]), 6))

    program = skiplab.capture(Fixed(), (torch.randn(4, 6, dtype=torch.double),), how="export")
    measure: Callable[[int], Any] = lambda n: lesion(program, skiplab.find(program), samples(n), F.cross_entropy)  # noqa: E731
    assert len(measure(4)) == 4
    with pytest.raises(DataError, match=r"shape \(5, 6\); Fixed was captured with \(4, 6\)"):
        measure(5)
