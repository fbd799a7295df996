"""The proof on networks as they are found, on records that are false, and on what cannot be proved."""

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from cases import NUMERIC, captured
from networks import Block, Counting, Net, TwoInputs, conv, heavy, linear
from skiplab import Program, Skip, Skips
from skiplab.errors import StaleSkip, UsageError
from skiplab.verification import Proof, Verdict, proof_json, prove

X = torch.linspace(-1, 1, 24).reshape(3, 8)


def branched(shortcut: Callable[[Any, Tensor], Tensor], **modules: nn.Module) -> Net:
    """shortcut(x) + F(x)."""
    return Net(lambda net, x: shortcut(net, x) + net.f(x), f=heavy(), **modules)


def record(program: Program, **changes: Any) -> Skip:
    """A record written by hand: from the first input to the last addition, whose first operand is the shortcut."""
    last = next(op for op in reversed(program.ops) if op.kind == "merge")
    skip = Skip(
        id="hand",
        location="graph",
        path="",
        combine="add",
        shortcut="identity",
        fork=program.ops[0].name,
        merge=last.name,
        operand=program.ops[last.inputs[0]].name,
        branch=(program.ops[last.inputs[-1]].name,),
        weight_layers=2,
        shortcut_weight_layers=0,
        long=False,
        shortcut_scale=(),
        branch_scale=(),
        gates=(),
        steps=None,
        activation_after=None,
        source=None,
        parent=None,
        program=program.fingerprint,
    )
    return dataclasses.replace(skip, **changes)


def verdict(model: nn.Module, *inputs: Tensor, **changes: Any) -> Verdict:
    """The verdict on a record written by hand."""
    program = skiplab.capture(model, inputs or (X,))
    (row,) = prove(program, Skips([record(program, **changes)]))
    return row


@pytest.mark.parametrize("name", NUMERIC)
def test_whatever_is_found_can_be_proved(name: str) -> None:
    found = captured(name)
    proof = prove(found.program, found.skips, points=2)
    assert [row.id for row in proof] == [skip.id for skip in found.skips]
    assert proof.failures == ()
    assert proof.deviation < 1e-9


CLAIMS: dict[str, tuple[Net, str]] = {
    "relu": (branched(lambda _, x: F.relu(x)), "nonlinear"),
    "leaky": (branched(lambda _, x: F.leaky_relu(x, 0.9)), "nonlinear"),
    "tanh": (branched(lambda _, x: x.tanh()), "nonlinear"),
    "norm": (branched(lambda _, x: F.layer_norm(x, (8,))), "nonlinear"),
    "squared": (branched(lambda _, x: x * x), "nonlinear"),
    "sorted": (branched(lambda _, x: x.sort(-1).values), "nonlinear"),
    "max_pooled": (branched(lambda _, x: F.max_pool1d(x, 3, 1, 1)), "nonlinear"),
    "gated": (branched(lambda net, x: x * net.g(x).sigmoid(), g=linear()), "nonlinear"),
    "rotated_by_data": (branched(lambda _, x: x.gather(-1, x.argsort(-1))), "nonlinear"),
    "scaled": (branched(lambda _, x: 0.5 * x), "resample"),
    "negated": (branched(lambda _, x: -x), "resample"),
    "averaged": (branched(lambda _, x: F.avg_pool1d(x, 3, 1, 1)), "resample"),
    "padded": (branched(lambda _, x: F.pad(x[:, 1:], (1, 0))), "resample"),
    "times_parameter": (branched(lambda net, x: x * net.p.bias, p=linear()), "resample"),
    "times_constant_matrix": (branched(lambda _, x: x @ torch.ones(8, 8).tril()), "resample"),
    "rolled": (branched(lambda _, x: x.roll(1, -1).flip(0)), "identity"),
    "shifted": (branched(lambda net, x: x + net.p.bias, p=linear()), "identity"),
    "detached": (branched(lambda _, x: x.detach()), "identity"),
    "through_float": (branched(lambda _, x: x.to(torch.bfloat16).float()), "identity"),
    "projected": (branched(lambda net, x: net.p(x), p=linear()), "projection"),
    "batch_norm": (branched(lambda net, x: net.n(x), n=nn.BatchNorm1d(8)), "projection"),
    "two_matrices": (branched(lambda net, x: net.q(net.p(x)), p=linear(), q=linear()), "projection"),
}


@pytest.mark.parametrize("claimed", ["identity", "resample", "projection", "gated"])
@pytest.mark.parametrize("name", CLAIMS)
def test_a_record_is_right_only_about_what_the_shortcut_is(name: str, claimed: str) -> None:
    net, found = CLAIMS[name]
    row = verdict(net, shortcut=claimed, combine="gated" if claimed == "gated" else "add")
    assert row.found == found
    # a resample that at these sizes rearranges values is still one
    assert row.ok == (claimed == found or (claimed, found) == ("resample", "identity"))
    assert row.ok == (row.reason == "")


def test_a_way_that_is_shut_at_one_point_changes_with_the_data() -> None:
    net = branched(lambda _, x: x * (x.sum() > 0))
    program = skiplab.capture(net, (X,))
    proofs = [prove(program, Skips([record(program)]), seed=seed) for seed in range(4)]
    assert not any(proof.ok for proof in proofs)
    # where it is shut at every point, nothing is shown
    assert {proof.failures[0].found for proof in proofs} == {None, "nonlinear"}
    for proof in proofs:
        json.dumps(proof_json(proof), allow_nan=False)


def test_a_scale_by_a_weight_that_happens_to_be_one_is_no_identity() -> None:
    net = branched(lambda net, x: x * net.n.weight, n=nn.LayerNorm(8))
    assert verdict(net, shortcut="resample").ok
    assert verdict(net).reason == "not a rearrangement of the fork's values"


def test_a_weight_layer_that_is_not_trained_yet_is_a_projection() -> None:
    layer = linear()
    net = branched(lambda net, x: net.p(x), p=layer)
    nn.init.zeros_(layer.weight)
    assert verdict(net, shortcut="projection").ok
    assert not verdict(net, shortcut="resample").ok
    nn.init.eye_(layer.weight)
    assert verdict(net, shortcut="projection").ok
    assert not verdict(net, shortcut="identity").ok


def test_what_is_cut_off_is_not_proved() -> None:
    row = verdict(branched(lambda _, x: x * 0))
    assert not row.ok
    assert "the merge does not depend on the fork" in row.reason


def test_a_gate_is_held_and_must_change_with_the_data() -> None:
    claim: dict[str, Any] = {"shortcut": "gated", "combine": "gated", "gates": ("sigmoid",)}
    moving = Net(lambda net, x: x * (t := net.g(x).sigmoid()) + net.f(x) * (1 - t), f=heavy(), g=linear())
    assert verdict(moving, **claim).ok
    unheld = verdict(moving, shortcut="gated", combine="gated")
    assert (unheld.found, unheld.ok) == ("nonlinear", False)
    assert "even with constant gates" in unheld.reason
    stuck = Net(lambda net, x: x * (t := net.g(x * 0).sigmoid()) + net.f(x) * (1 - t), f=heavy(), g=linear())
    assert verdict(stuck, **claim).reason == "the same at all points: a constant resample without a gate"


FALSE = {
    "projection": {"shortcut": "projection"},
    "gated": {"shortcut": "gated", "combine": "gated"},
    "concat": {"combine": "concat"},
    "branch": {"operand": "linear_1"},
    "no operand": {"operand": "linear"},
    "no fork": {"fork": "linear_1"},
    "no node": {"fork": "nothing"},
    "no merge": {"merge": "nothing"},
    "steps": {"steps": 3},
    "location": {"location": "fused"},
}


@pytest.mark.parametrize("name", FALSE)
def test_a_falsified_record_fails(name: str) -> None:
    found = captured("block")
    (skip,) = found.skips
    proof = prove(found.program, Skips([dataclasses.replace(skip, **FALSE[name])]))
    assert not proof.ok
    assert proof.failures[0].id == skip.id
    assert proof.failures[0].reason


@pytest.mark.parametrize("name", ["resnet20_b", "unet", "res2net", "dense_block"])
def test_every_record_with_another_kind_fails(name: str) -> None:
    found = captured(name)
    others = {"identity": "projection", "resample": "identity", "projection": "resample"}
    false = Skips(dataclasses.replace(skip, shortcut=others[skip.shortcut]) for skip in found.skips)
    assert len(prove(found.program, false).failures) == len(found.skips) > 0


def test_an_operand_that_appears_twice_is_one_shortcut() -> None:
    assert verdict(Net(lambda net, x: x + x + net.f(x), f=heavy()), operand="x").ok
    twice = Net(lambda net, x: torch.cat((x, x, net.f(x)), -1), f=heavy())
    assert verdict(twice, combine="concat").ok
    assert verdict(twice, combine="add").reason == "its merge is concat, not add"


def test_part_of_a_split_is_no_identity() -> None:
    net = Net(lambda net, x: torch.cat(((p := x.chunk(2, -1))[0], net.f(p[1])), -1), f=linear(4, 4))
    assert verdict(net, combine="concat").found == "resample"
    program = skiplab.capture(net, (X,))
    assert verdict(net, combine="concat", fork=next(op.name for op in program.ops if op.target == "chunk")).found == (
        "resample"
    )


def test_a_fork_of_integers_is_varied_where_it_becomes_real() -> None:
    ids = torch.arange(6).reshape(2, 3)
    net = Net(lambda net, x: net.a(x) + net.f(net.b(x)), a=nn.Embedding(9, 8), b=nn.Embedding(9, 8), f=heavy())
    assert verdict(net, ids, shortcut="projection").ok
    assert not verdict(net, ids, shortcut="identity").ok
    pixels = torch.arange(24, dtype=torch.uint8).reshape(3, 8)
    cast = Net(lambda net, x: (y := x.float()) + net.f(y), f=heavy())
    assert verdict(cast, pixels).ok


def test_a_weight_layer_may_change_the_shape() -> None:
    net = Net(lambda net, x: net.p(x) + net.f(x), p=nn.Linear(8, 4), f=nn.Sequential(heavy(), nn.Linear(8, 4)))
    assert verdict(net, shortcut="projection").ok
    assert not verdict(net, shortcut="resample").ok


def test_complex_values_are_followed() -> None:
    net = branched(lambda _, x: torch.fft.irfft(torch.fft.rfft(x), n=8))
    assert verdict(net, shortcut="resample").ok
    pairs = branched(lambda _, x: torch.view_as_real(torch.view_as_complex(x.reshape(3, 4, 2))).reshape(3, 8))
    assert verdict(pairs).found == "identity"
    turned = branched(lambda _, x: torch.view_as_real(torch.view_as_complex(x.reshape(3, 4, 2)) * 1j).reshape(3, 8))
    assert verdict(turned).found == "resample"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision_is_proved_in_double(dtype: torch.dtype) -> None:
    net = Net(lambda net, x: x.to(dtype) + net.f(x) * torch.ones(8, dtype=dtype), f=heavy()).to(dtype)
    row = verdict(net, X.to(dtype))
    assert row.ok
    assert row.deviation < 1e-14


def test_inputs_out_of_a_function_s_domain_are_drawn_again_nearer_to_the_example() -> None:
    net = Net(lambda net, x: x + net.f((x - 5).sqrt()), f=heavy())
    assert verdict(net, X + 10).ok


def test_a_network_that_takes_no_other_integers_is_given_its_own() -> None:
    net = TwoInputs(lambda net, x, i: (y := x[:, i]) + net.f(y), f=nn.Linear(2, 2))
    program = skiplab.capture(net, (X, torch.tensor([0, 7])))
    assert prove(program, skiplab.find(program)).ok


def test_a_write_that_cannot_be_followed_leaves_unproved_what_it_touches() -> None:
    def forward(net: Any, x: Tensor) -> Tensor:
        y = net.f(x)
        y = net.b(y) + y.unfold(1, 2, 2).mul_(3).flatten(1)  # no functional operator does this
        return net.c(y)

    program = skiplab.capture(Net(forward, f=heavy(), b=Block(), c=Block()), (X,))
    assert program.unfollowed
    touched, apart = (
        record(program, fork=fork, operand=fork, merge=m) for fork, m in [("linear_1", "add"), ("add_1", "add_2")]
    )
    proof = prove(program, Skips([touched, apart]))
    assert [row.ok for row in proof] == [False, True]
    assert proof.failures[0].reason == "`mul_` overwrites `linear_1`, which cannot be followed"


def test_nan_is_never_a_proof() -> None:
    for net in (
        Net(lambda net, x: (y := x / 0) + net.f(y), f=heavy()),
        Net(lambda net, x: x + net.f(x).log().log().log(), f=heavy()),
    ):
        program = skiplab.capture(net, (X,))
        proof = prove(program, Skips([record(program, fork=record(program).operand)]))
        assert not proof.ok
        assert "finite" in proof.failures[0].reason
        assert math.isnan(proof.failures[0].deviation)
        assert proof_json(proof)["skips"][0]["deviation"] is None


def test_what_has_no_double_precision_is_reported() -> None:
    # the bits of a number in single precision
    net = Net(lambda net, x: net.b(net.a(x).view(torch.int32).float() * 1e-9), a=Block(), b=Block())
    program = skiplab.capture(net, (X,))
    before, behind = prove(program, skiplab.find(program))
    assert before.ok
    assert not behind.ok
    assert behind.reason.startswith("the network cannot be run in float64: `linear_2` fails: ")


def test_a_network_without_values_cannot_be_proved() -> None:
    with torch.device("meta"):
        program = skiplab.capture(Block(), (torch.empty(3, 8),))
    with pytest.raises(UsageError, match=r"captured without values, which a proof needs: .*leave out --meta"):
        prove(program, skiplab.find(program))


def test_a_training_graph_cannot_be_proved() -> None:
    program = skiplab.capture(conv(), (torch.randn(2, 4, 8, 8),), train=True)
    with pytest.raises(UsageError, match=r"Sequential was captured as a training graph, .*--train"):
        prove(program, skiplab.find(program))


def test_one_point_shows_no_change() -> None:
    with pytest.raises(UsageError, match="points=1"):
        prove(captured("block").program, captured("block").skips, points=1)


def test_skips_of_another_program_are_stale() -> None:
    with pytest.raises(StaleSkip):
        prove(captured("unet").program, captured("block").skips)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_and_the_random_state_stay_as_they_are(dtype: torch.dtype) -> None:
    class Noisy(Counting):  # it writes to its buffers too
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x + torch.rand_like(x))

    model = Noisy().to(dtype)
    program = skiplab.capture(model, (X.to(dtype),))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    random = torch.get_rng_state()
    assert prove(program, skiplab.find(program)).ok
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_same_seed_gives_the_same_proof() -> None:
    found = captured("resnet20_b")
    one, two = (prove(found.program, found.skips, seed=7) for _ in range(2))
    assert one == two
    assert one != prove(found.program, found.skips, seed=8, points=5)


def test_progress_is_told_after_each_skip() -> None:
    found, seen = captured("dense_block"), []
    prove(found.program, found.skips, progress=lambda done, of: seen.append((done, of)))
    assert seen == [(i, 10) for i in range(1, 11)]


def test_no_skips_are_proved_at_once() -> None:
    found = captured("mlp")
    proof = prove(found.program, found.skips)
    assert (proof.ok, proof.deviation, len(proof)) == (True, 0.0, 0)
    assert list(proof.table().columns) == ["id", "claimed", "found", "deviation", "ok", "reason"]


def test_a_proof_shows_itself() -> None:
    right = Verdict("a", "identity", "identity", 1e-16, True, "")
    wrong = Verdict("b", "resample", None, math.nan, False, "<why>")
    proof = Proof((right, wrong), points=3, tolerance=1e-9)
    assert repr(proof) == "<Proof: 1 of 2 skips proved, largest deviation 1.0e-16>"
    assert proof.failures == (wrong,)
    assert proof.deviation == 1e-16
    assert list(proof.table()["ok"]) == [True, False]
    assert "&lt;why&gt;" in proof._repr_html_()
    assert json.loads(json.dumps(proof_json(proof), allow_nan=False)) == {
        "schema": "skiplab.proof/1",
        "ok": False,
        "points": 3,
        "tolerance": 1e-9,
        "deviation": 1e-16,
        "skips": [dataclasses.asdict(right), {**dataclasses.asdict(wrong), "deviation": None}],
    }
