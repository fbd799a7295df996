"""Recording one real run: what it sees, what it says of a run that holds for its data alone, and the free batch."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import skiplab
from cases import CASES
from networks import Net, linear
from skiplab.errors import CaptureError
from skiplab.graph.interpreter import run
from skiplab.graph.program import Program

Forward = Callable[[Any, Tensor], Any]


def block(net: Any, x: Tensor) -> Tensor:
    return net.b(F.relu(net.a(x)))


def recorded(forward: Forward, x: Tensor | None = None, **options: Any) -> Program:
    torch.manual_seed(0)
    x = torch.randn(3, 8) if x is None else x
    return skiplab.capture(Net(forward, a=linear(), b=linear()), x, how="record", **options)


@pytest.mark.parametrize("name", [name for name in CASES if not CASES[name].meta])
def test_recorded_and_exported_graphs_have_the_same_skips(name: str) -> None:
    """Ids, kinds and lines; the census too. Where `torch.export` fixes the batch size, recording may leave it free."""
    case = CASES[name]
    torch.manual_seed(0)
    model, (args, kwargs) = case.build(), case.inputs()
    recorded, exported = (skiplab.capture(model, args, kwargs, how=how) for how in ("record", "export"))
    mine, its = skiplab.find(recorded), skiplab.find(exported)
    columns = [
        "id",
        "path",
        "combine",
        "shortcut",
        "weight_layers",
        "shortcut_weight_layers",
        "long",
        "source",
        "parent",
    ]
    assert [[getattr(s, c) for c in columns] for s in mine] == [[getattr(s, c) for c in columns] for s in its]
    assert [(s.branch_scale, s.shortcut_scale, len(s.branch), s.location, s.steps) for s in mine] == [
        (s.branch_scale, s.shortcut_scale, len(s.branch), s.location, s.steps) for s in its
    ]
    assert [(n.reason, n.path, n.source) for n in mine.non_skips] == [
        (n.reason, n.path, n.source) for n in its.non_skips
    ]
    a, b = skiplab.census(recorded), skiplab.census(exported)
    assert (a.paths, a.nonlinearities, a.histogram, a.weight_histogram) == (
        b.paths,
        b.nonlinearities,
        b.histogram,
        b.weight_histogram,
    )
    assert recorded.dynamic_batch >= exported.dynamic_batch
    assert recorded.difference <= max(exported.difference, 1e-6)


@dataclass
class Output:
    y: Tensor
    extra: tuple[Tensor, ...] = ()


def quadratic(net: Any, x: Tensor) -> Tensor:
    return (net.a(x)[:, None] + x).reshape(x.shape[0] ** 2, 8)


def packed(net: Any, x: Tensor) -> Tensor:
    hidden, _ = net.lstm(pack_padded_sequence(x, torch.tensor([5, 3]), batch_first=True))
    return x + pad_packed_sequence(hidden, batch_first=True)[0]


def sparse(net: Any, x: Tensor) -> Tensor:
    return x + torch.sparse.mm(torch.eye(3).to_sparse(), block(net, x))


def into(net: Any, x: Tensor) -> Tensor:
    result = torch.empty_like(x)
    return torch.add(x, block(net, x), out=result)


def decided(net: Any, x: Tensor) -> Tensor:
    return x + block(net, x) if x.sum().item() > -1e9 else x


def through_numpy(net: Any, x: Tensor) -> Tensor:
    return torch.from_numpy(x.detach().numpy()) + block(net, x)


REFUSED_BY_EXPORT = {
    "data": lambda net, x: x.data + block(net, x),
    "dataclass": lambda net, x: Output(x + block(net, x)),
    "nested dataclass": lambda net, x: {"out": [Output(x + block(net, x), (x,))]},
    "sparse product": sparse,
    "out=": into,
    "item": decided,
    "numpy": through_numpy,
}


@pytest.mark.parametrize("name", REFUSED_BY_EXPORT)
def test_whatever_runs_is_recorded(name: str) -> None:
    program = recorded(REFUSED_BY_EXPORT[name])
    assert len(skiplab.find(program)) == 1
    assert program.difference == 0


def test_packed_sequences() -> None:
    model = Net(packed, lstm=nn.LSTM(8, 8, batch_first=True))
    skips = skiplab.find(skiplab.capture(model, torch.randn(2, 5, 8)))
    assert [skip.shortcut for skip in skips] == ["gated", "identity"]


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: block(net, x) if x.mean().item() > -1e9 else x,
        lambda net, x: block(net, x) if bool((x > -1e9).all()) else x,
        lambda net, x: block(net, x) + float(x.detach().numpy().sum()),
        lambda net, x: block(net, x) + x.detach().flatten().tolist()[0],
        lambda net, x: block(net, x) + float(x.data.numpy()[0, 0]),
        lambda net, x: block(net, x) + (0 if torch.equal(x, x + 1) else 1),
    ],
)
def test_a_run_that_reads_a_value_says_so_and_has_a_fixed_batch(forward: Forward) -> None:
    program = recorded(forward)
    assert not program.dynamic_batch
    (read,) = program.reads
    assert f"{__file__}:" in read


def test_reading_a_parameter_or_a_shape_is_no_decision_of_the_data() -> None:
    program = recorded(lambda net, x: block(net, x) * float(net.a.weight.detach().sum()) + x.shape[1] + len(x.shape))
    assert program.reads == ()
    assert program.dynamic_batch


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.a(x).view(x.shape[0] * 2, 4).view(-1, 8),
        lambda net, x: net.a(x).reshape(int(x.shape[0]), 2, 4).flatten(1),
        lambda net, x: torch.cat([net.a(x), torch.zeros(1, 8)]),
        lambda net, x: net.a(x) / x.shape[0],
        lambda net, x: net.a(x) * (3.0 * len(x)),
        lambda net, x: x + torch.arange(x.size(0))[:, None],
        lambda net, x: net.a(x) @ net.b(x).T,
        lambda net, x: x.T.contiguous().sum(0),
        lambda net, x: net.a(x)[: x.shape[0] - 1],
    ],
)
@pytest.mark.parametrize("example", [1, 2, 5])
def test_numbers_that_follow_the_batch(forward: Forward, example: int) -> None:
    x = torch.randn(7, 8)
    torch.manual_seed(0)
    model = Net(forward, a=linear(), b=linear())
    program = skiplab.capture(model, x[:example], how="record")
    assert program.dynamic_batch
    for size in (2, 3, 7):
        torch.testing.assert_close(run(program, x[:size]), model(x[:size]))


@pytest.mark.parametrize(
    "forward",
    [
        quadratic,
        lambda net, x: net.a(x) + torch.eye(x.shape[0], 8) if x.shape[0] == 3 else net.a(x),  # another path
        lambda net, x: net.a(x).reshape(3, 8),
        lambda net, x: net.a(x) + torch.tensor(np.arange(x.shape[0]))[:, None],  # a constant made outside torch
    ],
)
def test_a_batch_that_cannot_vary_is_that_of_the_example(forward: Forward) -> None:
    program = recorded(forward)
    assert not program.dynamic_batch
    assert program.ops[0].shape == (3, 8)
    assert program.difference == 0


class Skipping(nn.Module):
    """A network that leaves blocks out at random."""

    def __init__(self, draw: Callable[[], float]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(linear() for _ in range(4))
        self.draw = draw

    def forward(self, x: Tensor) -> Tensor:
        for each in self.blocks:
            if not self.training or self.draw() < 0.5:
                x = x + torch.relu(each(x))
        return x


@pytest.mark.parametrize(("draw", "name"), [(random.random, "`random`"), (np.random.rand, "`numpy.random`")])
def test_networks_that_another_generator_decides_are_refused(draw: Callable[[], float], name: str) -> None:
    state = np.random.get_state(legacy=False)["state"]["key"].sum()
    with pytest.raises(CaptureError, match=rf"draws from .*{name}.*each run is another network: switch that off"):
        skiplab.capture(Skipping(draw), torch.randn(3, 8), train=True)
    assert np.random.get_state(legacy=False)["state"]["key"].sum() == state
    assert len(skiplab.find(skiplab.capture(Skipping(draw), torch.randn(3, 8)))) == 4


def test_a_decision_by_torchs_generator_is_a_value_that_is_read() -> None:
    program = skiplab.capture(Skipping(lambda: float(torch.rand(()))), torch.randn(3, 8), train=True)
    assert "`item`" in program.reads[0]


@pytest.mark.parametrize(
    "forward",
    [
        lambda net, x: net.b(net.a(x).detach()),
        lambda net, x: net.b(net.a(x).data),
        lambda net, x: net.b(net.a(x).clone().detach_()),
        lambda net, x: net.b(_without_gradients(net.a, x)),
        lambda net, x: net.b(torch.from_numpy(_without_gradients(net.a, x).numpy())),
    ],
)
def test_gradients_stop_where_the_model_stops_them(forward: Forward) -> None:
    program = recorded(forward)
    module = program.module()
    module(torch.randn(3, 8)).sum().backward()
    assert module.get_parameter("a.weight").grad is None
    assert module.get_parameter("b.weight").grad is not None


def _without_gradients(layer: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return layer(x)


def test_gradients_flow_through_a_function_of_the_users_own() -> None:
    class Double(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return 2 * x

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
            return 2 * grad

    module = recorded(lambda net, x: net.b(Double.apply(net.a(x)))).module()
    module(torch.randn(3, 8)).sum().backward()
    assert module.get_parameter("a.weight").grad is not None


def test_what_a_run_leaves_behind_is_taken_away() -> None:
    class Caching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = linear()
            self.cache: dict[str, Tensor] = {}
            self.history: list[Tensor] = []
            self.register_buffer("seen", torch.zeros(0))

        def forward(self, x: Tensor) -> Tensor:
            seen = self.get_buffer("seen")
            if seen.numel() != 8:
                seen.resize_(8).zero_()
            self.cache.setdefault("bias", self.a.weight.sum(0))
            self.history.append(x)
            self.last = x
            return x + self.a(x) + self.cache["bias"] + seen

    model = Caching()
    program = skiplab.capture(model, torch.randn(3, 8))
    assert (model.cache, model.history, model.seen.shape) == ({}, [], (0,))
    assert not hasattr(model, "last")
    assert program.dynamic_batch
    assert not torch.compiler.is_exporting()
    assert nn.Module.__call__.__qualname__ == "Module._wrapped_call_impl"


def test_each_module_of_a_shared_one_is_its_callers() -> None:
    inner = linear()
    model = nn.Sequential(nn.Sequential(inner, nn.ReLU()), nn.Sequential(inner, nn.ReLU()))
    program = skiplab.capture(model, torch.randn(3, 8), how="record")
    assert [op.module for op in program.ops if op.kind == "weight"] == ["0.0", "1.0"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda net: torch.compile(net, backend="eager"),
        nn.DataParallel,
        lambda net: nn.DataParallel(cast(nn.Module, torch.compile(net, backend="eager"))),
    ],
)
def test_wrapped_models_are_unwrapped(wrap: Callable[[nn.Module], Any]) -> None:
    model = Net(lambda net, x: x + block(net, x), a=linear(), b=linear())
    program = skiplab.capture(wrap(model), torch.randn(3, 8))
    assert program.name == "Net"
    assert set(program.parameters.values()) == {name for name, _ in model.named_parameters()}


def test_inputs_in_any_form() -> None:
    model, x = Net(lambda net, x: x + block(net, x), a=linear(), b=linear()), torch.randn(3, 8)
    programs = [skiplab.capture(model, inputs) for inputs in (x, (x,), [x], {"x": x})]
    assert len({program.fingerprint for program in programs}) == 1
    assert all(program.ops[0].shape == (None, 8) for program in programs)
