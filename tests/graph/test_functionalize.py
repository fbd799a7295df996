"""In-place operators and views, rewritten, against torch's own eager execution."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import skiplab
from skiplab.graph.interpreter import Execution, run
from skiplab.graph.program import Program

# Ways to look at a tensor; each returns a view, a copy or the tensor itself as torch decides. `n` picks a variant.
VIEWS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "slice": lambda t, n: t[..., n % 2 :],
    "stride": lambda t, n: t[..., :: 1 + n % 2],
    "negative_slice": lambda t, n: t.narrow(-1, max(0, t.shape[-1] - 2), min(2, t.shape[-1])),
    "last": lambda t, n: t.narrow(-1, -1, 1),
    "rows": lambda t, n: t[n % 2 :],
    "select": lambda t, n: t.select(-1, n % t.shape[-1]) if t.ndim > 1 else t,
    "none": lambda t, n: t.unsqueeze(n % (t.ndim + 1)) if t.ndim < 4 else t,
    "squeeze": lambda t, n: t.squeeze(),
    "transpose": lambda t, n: t.transpose(0, -1),
    "swapaxes": lambda t, n: t.swapaxes(0, -1),
    "mT": lambda t, n: t.mT if t.ndim > 1 else t,
    "permute": lambda t, n: t.permute(*range(1, t.ndim), 0),
    "movedim": lambda t, n: t.movedim(0, -1),
    "reshape": lambda t, n: t.reshape(-1),
    "flatten": lambda t, n: t.flatten(n % t.ndim),
    "unflatten": lambda t, n: t.unflatten(-1, (1, -1)) if t.ndim < 4 else t,
    "view_as": lambda t, n: t.view_as(t),
    "contiguous": lambda t, n: t.contiguous(),
    "to_same": lambda t, n: t.to(t.dtype),
    "to_double": lambda t, n: t.double(),
    "detach": lambda t, n: t.detach(),
    "dropout_off": lambda t, n: F.dropout(t, 0.5, training=False),
    "chunk": lambda t, n: t.chunk(2, -1)[n % len(t.chunk(2, -1))],
    "split": lambda t, n: t.split(2, -1)[-1],
    "split_sizes": lambda t, n: t.split([1, t.shape[-1] - 1], -1)[0] if t.shape[-1] > 1 else t,
    "tensor_split": lambda t, n: t.tensor_split(2, -1)[0] if t.shape[-1] > 1 else t,
    "unbind": lambda t, n: t.unbind(-1)[n % t.shape[-1]] if t.ndim > 1 else t,
    "diagonal": lambda t, n: t.diagonal(0, 0, -1) if t.ndim > 1 else t,
    "positive": lambda t, n: +t,
    "atleast_3d": lambda t, n: torch.atleast_3d(t),
    "type_as": lambda t, n: t.type_as(t),
    "clone": lambda t, n: t.clone(),
    "double_it": lambda t, n: t * 2,
}
# Writes to a tensor; the last argument is one of its shape, perhaps sharing its memory.
WRITES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mul_": lambda t, o: t.mul_(-0.5),
    "add_": lambda t, o: t.add_(o, alpha=2),
    "sub_": lambda t, o: t.sub_(1),
    "relu_": lambda t, o: F.relu_(t),
    "clamp_": lambda t, o: t.clamp_(-1, 1),
    "zero_": lambda t, o: t.zero_(),
    "fill_": lambda t, o: t.fill_(3.0),
    "copy_": lambda t, o: t.copy_(o.clone()),
    "copy_scalar_": lambda t, o: t.copy_(torch.ones(1)),
    "gt_": lambda t, o: t.gt_(0),
    "pow_": lambda t, o: t.pow_(2),
    "masked_fill_": lambda t, o: t.masked_fill_(t > 0, 0.25),
    "set_item": lambda t, o: t.__setitem__(0, 0.5),
    "set_slice": lambda t, o: t.__setitem__((..., slice(None, 1)), t[..., -1:].clone()),
    "set_where": lambda t, o: t.__setitem__(t < 0, -1.0),
    "dropout_off_": lambda t, o: F.dropout(t, 0.5, training=False, inplace=True),
}
STEPS = st.tuples(st.sampled_from([*VIEWS, *WRITES, *WRITES]), st.integers(0, 5), st.integers(0, 5))


class Script(nn.Module):
    """Runs steps (what, on which tensor, a number) on a growing list of tensors that begins with the inputs."""

    def __init__(self, steps: list[tuple[str, int, int]]) -> None:
        super().__init__()
        self.steps = steps

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        tensors = [x, y]
        for what, which, number in self.steps:
            tensor = tensors[which % len(tensors)]
            if not tensor.ndim:
                continue
            if what in VIEWS:
                tensors.append(VIEWS[what](tensor, number))
            else:
                alike = [t for t in tensors if t.shape == tensor.shape]
                other = alike[number % len(alike)]
                # what overlaps itself torch refuses to read while writing, and not always
                result = WRITES[what](tensor, other.clone() if other is not tensor else other)
                if isinstance(result, Tensor):
                    tensors.append(result)
        return tuple(tensors)


def check(module: nn.Module, *inputs: Tensor) -> Program:
    """The rewritten graph computes what eager torch computes, every time, and leaves its inputs alone."""
    program = skiplab.capture(module, inputs)
    expected = module(*(x.clone() for x in inputs))
    given = [x.clone() for x in inputs]
    for _ in range(2):
        outputs = run(program, *given)
        for got, wanted in zip(outputs, expected, strict=True):
            assert got.dtype == wanted.dtype
            assert torch.equal(got, wanted)
    assert all(torch.equal(a, b) for a, b in zip(given, inputs, strict=True))
    assert program.difference == 0
    return program


@settings(max_examples=90, deadline=None)
@given(st.lists(STEPS, min_size=2, max_size=8), st.sampled_from([(2, 3), (4, 3, 2)]))
def test_random_programs(steps: list[tuple[str, int, int]], shape: tuple[int, ...]) -> None:
    program = check(Script(steps), torch.randn(shape), torch.randn(shape))
    assert program.unfollowed == ()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("view", VIEWS)
def test_each_view_shares_memory_as_torch_has_it(view: str, after: bool) -> None:
    """A write to the view shows in the base exactly when eager torch shows it, and the other way round."""
    steps = [("clone", 0, 0), (view, 2, 1), ("mul_", 3 - after, 0), ("double_it", 2, 0), ("double_it", 3, 0)]
    assert check(Script(steps), torch.randn(4, 3, 2), torch.randn(4, 3, 2)).unfollowed == ()


@pytest.mark.parametrize("write", WRITES)
def test_each_write(write: str) -> None:
    steps = [("clone", 0, 0), (write, 2, 1), ("slice", 2, 1), (write, 3, 2), ("double_it", 2, 0)]
    assert check(Script(steps), torch.randn(4, 3), torch.randn(4, 3)).unfollowed == ()


def written(function: Callable[[Tensor], Any]) -> nn.Module:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            result = function(x)
            return result if isinstance(result, tuple) else (result,)

    return Module()


def overwritten(function: Callable[[Tensor], Any]) -> dict[str, int]:
    """For each write, how many views of before it are read after it."""
    program = check(written(function), torch.randn(4, 8))
    assert {view for views in program.overwritten.values() for view in views} <= set(program.by_name)
    return {write: len(views) for write, views in program.overwritten.items()}


def test_views_that_are_read_after_a_write_are_recorded() -> None:
    def before(x: Tensor) -> Tensor:
        y = x * 1
        view = y.view(-1)
        return (y.relu_() + 1).view(-1) + view

    def after(x: Tensor) -> Tensor:
        y = (x * 1).relu_()
        return y.view(-1) + y.flatten()

    def read_before(x: Tensor) -> Tensor:
        y = x * 1
        total = y.view(-1).sum()
        return y.relu_() + total

    def twice(x: Tensor) -> Tensor:
        y = x * 1
        view = y.view(-1)
        y.relu_()
        z = view * 2
        y.tanh_()
        return z + view

    assert overwritten(before) == {"relu_": 1}
    assert overwritten(after) == {"relu_": 0}
    assert overwritten(read_before) == {"relu_": 0}
    assert overwritten(twice) == {"relu_": 1, "tanh_": 1}
    assert overwritten(lambda x: x + 1) == {}


def test_a_write_to_one_part_does_not_overwrite_another() -> None:
    def halves(x: Tensor) -> Tensor:
        y = x * 1
        first, second = y[:2], y[2:]
        first.relu_()
        return first + second

    def inner(x: Tensor) -> Tensor:
        y = x * 1
        half = y[:2]
        row = half[0]
        half.relu_()
        return row + y

    def turned(x: Tensor) -> Tensor:
        y = x * 1
        row = y[0]
        y.t().relu_()
        return row + y

    assert overwritten(halves) == {"relu_": 0}
    assert overwritten(inner) == {"relu_": 1}
    assert overwritten(turned) == {"relu_": 1}


def test_no_in_place_operator_is_left() -> None:
    def function(x: Tensor) -> Tensor:
        y = x + 1
        y[:, 0] = 2
        y.transpose(0, 1)[1].mul_(3).add_(1)
        F.relu_(y)
        return y.sum() + y

    program = check(written(function), torch.randn(3, 4))
    assert not [
        n for n in program.graph.graph.nodes if getattr(n.target, "_schema", None) and n.target._schema.is_mutable
    ]


def test_reading_before_the_write_reads_the_old_value() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = x * 1
        view = y[:, 1:]
        before = view * 1
        y.zero_()
        return before, view, y

    check(written(function), torch.randn(3, 4))


def test_writes_keep_the_dtype_of_what_is_written() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = x.half()
        y.add_(x)  # half += float stays half
        z = x.clone()
        z.ge_(0)  # a truth value as a float
        return y, z, (y + 1).mul_(x.double())

    program = check(written(function), torch.randn(3, 4))
    assert program.unfollowed == ()


def test_a_write_of_what_cannot_be_scattered_is_reported_and_still_right() -> None:
    def function(x: Tensor) -> Tensor:
        x.unfold(1, 2, 2).mul_(3)
        return x + 1

    program = check(written(function), torch.randn(3, 4))
    assert program.unfollowed == ("mul_",)
    x = torch.randn(3, 4)
    trunk, whole = Execution(program, (x,)), run(program, x)
    for op in program.ops[1:]:
        assert torch.equal(trunk.run_until(op.name).fork({}).finish()[0], whole[0])


def test_changing_the_shape_in_place() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = x * 1
        y.unsqueeze_(1)
        y.mul_(2)
        z = x * 1
        z.transpose_(0, 1)
        z.add_(1)
        return y, z

    assert check(written(function), torch.randn(3, 4)).unfollowed == ()


def test_changing_the_shape_in_place_under_a_view_is_reported_and_still_right() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = x * 1
        view = y.view(-1)
        y.unsqueeze_(0)
        return view, y

    assert check(written(function), torch.randn(3, 4)).unfollowed == ("unsqueeze_",)


def test_random_numbers_in_place() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        keep = x.new_empty(x.shape[0], 1).bernoulli_(0.5).div_(0.5)
        noise = torch.empty_like(x).normal_(0, 0.1).add_(torch.zeros_like(x).uniform_(0, 1))
        return (x * keep + noise,)

    module, x = written(function), torch.randn(64, 4)
    program = skiplab.capture(module, (x,))
    assert program.unfollowed == ()
    torch.manual_seed(3)
    expected = module(x)[0]
    torch.manual_seed(3)
    assert torch.equal(run(program, x)[0], expected)


def test_parts_of_a_free_batch_are_written_to() -> None:
    def function(x: Tensor) -> tuple[Tensor, ...]:
        y = x * 1
        first, second = y.chunk(2, 0)
        first.add_(second)
        return y, first

    module = written(function)
    x = torch.randn(6, 4)
    program = skiplab.capture(module, (x,))
    assert program.unfollowed == ()
    for size in (6, 2):
        for got, wanted in zip(run(program, x[:size]), module(x[:size]), strict=True):
            assert torch.equal(got, wanted)


def test_the_data_flow_goes_through_the_write() -> None:
    """`h = F(x); h += x` is a residual block; `y = x; y += F(x)` is one too."""

    def late(x: Tensor) -> Tensor:
        y = x * 1
        view = y.view(-1)
        view.mul_(2)
        return torch.tanh(y)

    program = check(written(late), torch.randn(3, 4))
    census = skiplab.census(program)
    assert [step.target for step in census.most_linear.steps if step.kind == "activation"] == ["tanh"]
    assert sum(step.target == "mul" for step in census.most_linear.steps) == 2


def test_unread_writes_to_a_base_leave_no_trace() -> None:
    """Adding to a slice of a value that nobody reads as a whole again: the slice alone is in the data flow."""

    def function(x: Tensor) -> Tensor:
        y = torch.cat((torch.tanh(x), x), 1)[:, :3]
        y += x[:, :3]
        return F.relu(y)

    program = check(written(function), torch.randn(3, 4))
    assert not [op for op in program.ops if "scatter" in op.target]
