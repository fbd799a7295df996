import copy
import dataclasses
import math
import re
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from cases import captured, state
from networks import BasicBlock, Block, Counting, Net, TwoInputs, heavy, linear
from skiplab.errors import CaptureError, ModelError
from skiplab.graph.interpreter import run


class DataDependent(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return x
        return -x


class Raising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Net(lambda net, x: 1 / 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_parameters_are_shared_not_copied() -> None:
    model = Block()
    program = skiplab.capture(model, (torch.randn(3, 8),))
    mine = {name: parameter.data_ptr() for name, parameter in model.named_parameters()}
    assert {program.parameters[n]: program.tensors[n].data_ptr() for n in program.parameters} == mine
    x = torch.randn(3, 8)
    before = run(program, x)
    with torch.no_grad():
        model.branch[0].weight.mul_(2)  # type: ignore[operator]
    assert not torch.equal(run(program, x), before)
    assert torch.equal(run(program, x), model(x))


def test_buffers_are_shared_not_copied() -> None:
    model = BasicBlock(inplace=True)
    program = skiplab.capture(model, (torch.randn(3, 4, 8, 8),))
    mine = {buffer.data_ptr() for buffer in model.buffers() if buffer.ndim}
    theirs = {t.data_ptr() for n, t in program.tensors.items() if n not in program.parameters and t.ndim}
    assert theirs == mine


@pytest.mark.parametrize("example", [1, 2, 5])
@pytest.mark.parametrize("name", ["in_place", "pre_norm", "unet", "lstm", "resnet20"])
def test_batch_size_stays_free(name: str, example: int) -> None:
    case = captured(name)
    model = copy.deepcopy(case.model).eval()
    program = skiplab.capture(model, tuple(x[:1].repeat(example, *[1] * (x.ndim - 1)) for x in case.args))
    assert program.dynamic_batch
    assert program.difference <= 1e-6
    for size in (1, 2, 7):
        args = tuple(torch.randn(size, *x.shape[1:]) for x in case.args)
        with torch.no_grad():
            assert torch.allclose(run(program, *args), model(*args), atol=1e-5)


def test_batch_size_that_cannot_vary_is_that_of_the_example() -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(int(x.shape[0]), 2, 4).flatten(1)

    for size in (1, 3):
        x = torch.randn(size, 8)
        program = skiplab.capture(Fixed(), (x,), how="export")
        assert not program.dynamic_batch
        assert program.difference == 0
        assert torch.equal(run(program, x), x)


def test_batch_size_stays_free_with_keywords_in_any_order_and_other_inputs() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor, scale: float, y: Tensor | None = None, pair: Any = ()) -> Tensor:
            assert y is not None
            return x * scale - y * pair[0]

    x, y, z = torch.randn(3, 4, 8).unbind(0)
    program = skiplab.capture(Model(), (x, 0.5), {"pair": (z, None), "y": y})
    assert program.dynamic_batch
    assert torch.equal(run(program, x[:2], 0.5, pair=(z[:2], None), y=y[:2]), x[:2] * 0.5 - y[:2] * z[:2])


def test_free_batch_with_a_variable_number_of_arguments() -> None:
    class Model(nn.Module):
        def forward(self, *tensors: Tensor) -> Tensor:
            return sum(tensors[1:], tensors[0])

    program = skiplab.capture(Model(), tuple(torch.randn(3, 4, 8).unbind(0)))
    assert program.dynamic_batch


def test_training_graph() -> None:
    model = nn.Sequential(nn.BatchNorm1d(8), nn.Dropout(0.5))
    x = torch.randn(64, 8) * 3 + 1
    evaluated, trained = (skiplab.capture(model, (x,), train=train) for train in (False, True))
    assert (evaluated.training, trained.training) == (False, True)
    assert torch.equal(run(evaluated, x), model.eval()(x))
    torch.manual_seed(5)
    graph = run(trained, x)
    torch.manual_seed(5)
    assert torch.equal(graph, model.train()(x))
    assert 0.3 < float((graph == 0).float().mean()) < 0.7


def test_outputs_keep_their_form() -> None:
    case = captured("keywords")
    output = run(case.program, *case.args, **case.kwargs)
    with torch.no_grad():
        expected = copy.deepcopy(case.model).eval()(*case.args, **case.kwargs)
    assert list(output) == ["hidden", "nothing", "length"]
    assert torch.equal(output["hidden"], expected["hidden"])
    assert (output["nothing"], output["length"]) == (None, 5)


def test_inputs_that_the_model_overwrites_are_left_alone() -> None:
    x = torch.randn(3, 8)
    before = x.clone()
    program = skiplab.capture(Net(lambda net, x: F.relu(x.mul_(2), inplace=True) + 1), (x,))
    assert torch.equal(x, before)
    assert program.difference == 0


@pytest.mark.parametrize("train", [False, True])
def test_buffers_that_the_model_overwrites_are_left_alone(train: bool) -> None:
    model = Counting()
    model(torch.randn(3, 8))
    model.zero_grad()
    x = torch.randn(3, 8)
    before = state(model)
    program = skiplab.capture(model, (x,), train=train)
    assert state(model) == before
    assert program.difference <= 1e-6
    expected = copy.deepcopy(model)(x)
    for _ in range(2):
        assert torch.allclose(run(program, x), expected, atol=1e-6)
    assert state(model) == before


def test_gradients_hooks_and_modes_are_left_alone() -> None:
    model = Block()
    model(torch.randn(3, 8)).sum().backward()
    model.branch[1].eval()
    model.branch[0].bias.requires_grad_(False)
    called = []
    model.branch.register_forward_hook(lambda *_: called.append(1))
    x = torch.randn(3, 8)
    before = state(model)
    skiplab.capture(model, (x,))
    assert state(model) == before
    assert called


def test_random_numbers_go_on_as_if_nothing_had_happened() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    skiplab.capture(nn.Dropout(0.5), (torch.ones(3, 8),), train=True)
    assert torch.equal(torch.rand(3), expected)


def test_nothing_is_seeded_for_a_cuda_to_come() -> None:
    waiting = list(torch.cuda._lazy_seed_tracker.get_calls())
    skiplab.capture(nn.Dropout(0.5), (torch.randn(3, 8),), train=True)
    assert list(torch.cuda._lazy_seed_tracker.get_calls()) == waiting


def test_failing_captures_leave_the_model_alone_too() -> None:
    x = torch.randn(3, 8)
    for model, how in ((nn.Sequential(linear(), DataDependent()), "export"), (Raising(), "auto")):
        before = state(model)
        with pytest.raises(ModelError):
            skiplab.capture(model, (x,), how=how)  # type: ignore[arg-type]
        assert state(model) == before


def test_wrong_shape_names_module_shapes_and_line() -> None:
    model = nn.Sequential(linear(), nn.Sequential(nn.ReLU(), linear(7, 3)))
    message = r"Sequential fails on inputs 3x8 in `1\.1` \(.*linear\.py:\d+\): mat1 and mat2 shapes .*3x8 and 7x3"
    with pytest.raises(ModelError, match=message) as caught:
        skiplab.capture(model, (torch.randn(3, 8),))
    assert not isinstance(caught.value, CaptureError)
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_a_raising_forward_names_the_users_line() -> None:
    with pytest.raises(
        ModelError, match=r"Raising fails on inputs 3x8 in `inner` \(.*networks\.py:\d+\): division by zero"
    ):
        skiplab.capture(Raising(), (torch.randn(3, 8),))


JOINED: dict[str, tuple[Callable[..., Any], tuple[int, ...], str, str]] = {
    "concat": (
        lambda net, x: torch.cat((F.max_pool2d(x, 2), x[..., ::2, ::2]), 1),
        (2, 4, 7, 7),
        r"Sizes of tensors must match .*Expected size 3 but got size 4.* \(x 2x4x7x7\)",
        "a size that halving",
    ),
    "sum": (
        lambda net, x: net.wide(x) + x,
        (2, 4, 8, 8),
        r"size of tensor a \(6\).* \(x 2x4x8x8\)",
        "the widths differ",
    ),
    "stride": (
        lambda net, x: net.down(x) + x,
        (2, 4, 8, 8),
        r"size of tensor a \(4\).* \(x 2x4x8x8\)",
        "one way goes down",
    ),
    "padding": (
        lambda net, x: net.bare(x) + x,
        (2, 4, 8, 8),
        r"size of tensor a \(6\).* \(x 2x4x8x8\)",
        "a size that halv",
    ),
    "features": (
        lambda net, x: net.line(x) + x,
        (2, 5, 8),
        r"size of tensor a \(6\).* \(x 2x5x8\)",
        "the widths differ",
    ),
    "batch": (
        lambda net, x: x[1:] + x,
        (3, 4, 7, 7),
        r"size of tensor a \(2\).* \(x 3x4x7x7\)",
        "bring both to one shape",
    ),
}


@pytest.mark.parametrize("name", JOINED)
def test_sizes_that_do_not_fit_are_explained(name: str) -> None:
    """The model, the module, the line and the tensors on it, and on a second line what to do."""
    function, shape, problem, advice = JOINED[name]
    layers = {
        "wide": nn.Conv2d(4, 6, 1),
        "down": nn.Conv2d(4, 4, 1, 2),
        "bare": nn.Conv2d(4, 4, 3),
        "line": linear(8, 6),
    }
    with pytest.raises(ModelError) as caught:
        skiplab.capture(nn.Sequential(Net(function, **layers)), (torch.randn(shape),))
    first, second = str(caught.value).split("\n")
    assert re.search(rf"^Sequential fails on inputs \S+ in `0` \(.*networks\.py:\d+\): .*{problem}$", first)
    assert second.startswith(advice)


def test_the_tensors_of_the_failing_expression_are_named() -> None:
    def one_of_five(net: nn.Module, x: Tensor) -> Tensor:
        a, b, c, d = (x[..., : 8 - i] for i in range(4))
        features = [c, d]
        return a.sum() * (b + features[0])

    for function, named in (
        (one_of_five, "b 2x4x8x7; features[0] 2x4x8x6; features[1] 2x4x8x5"),
        (lambda net, x: torch.cat([x, *(x[..., i:] for i in range(3))], 1), "x 2x4x8x8"),
    ):
        with pytest.raises(ModelError) as caught:
            skiplab.capture(Net(function), (torch.randn(2, 4, 8, 8),))
        assert f"({named})\n" in str(caught.value)


def test_no_more_than_four_tensors_are_shown() -> None:
    def many(net: nn.Module, x: Tensor) -> Tensor:
        a, b, c, d, e = (x[..., : 8 - i] for i in range(5))
        return torch.cat((a, b, c, d, e), 1)

    with pytest.raises(ModelError) as caught:
        skiplab.capture(Net(many), (torch.randn(2, 4, 8, 8),))
    assert str(caught.value).split("\n")[0].endswith("(a 2x4x8x8; b 2x4x8x7; c 2x4x8x6; d 2x4x8x5)")


def test_the_expression_is_found_in_lines_of_several_bytes_a_letter_and_whatever_the_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "tracebacklimit", 0, raising=False)

    def function(net: nn.Module, x: Tensor) -> Tensor:
        größe, β = x[..., :7], x[..., :6]
        return len("größe") + (größe + β)

    with pytest.raises(ModelError, match=r"\(größe 2x4x8x7; β 2x4x8x6\)\n"):
        skiplab.capture(Net(function), (torch.randn(2, 4, 8, 8),))


def test_sums_in_place_are_explained_too() -> None:
    def function(net: nn.Module, x: Tensor) -> Tensor:
        y = x.mean(-1, keepdim=True)
        y += x
        return y

    with pytest.raises(ModelError, match=r"broadcast shape \[3, 8\] \(y 3x1; x 3x8\)\nbring both to one shape"):
        skiplab.capture(Net(function), (torch.randn(3, 8),))


def test_other_errors_are_one_line() -> None:
    with pytest.raises(ModelError) as caught:
        skiplab.capture(Raising(), (torch.randn(3, 8),))
    assert "\n" not in str(caught.value)


def test_wrong_number_of_inputs() -> None:
    with pytest.raises(ModelError, match=r"Block fails on inputs 3x8, 'x' in .*takes 2 positional arguments but 3"):
        skiplab.capture(Block(), (torch.randn(3, 8), "x"))


def test_data_dependent_control_flow_names_place_and_fix(capfd: pytest.CaptureFixture[str]) -> None:
    model = nn.Sequential(linear(), DataDependent())
    with pytest.raises(
        CaptureError, match=r"cannot capture Sequential, in `1` \(.*test_capture\.py:\d+\): Could not guard"
    ) as e:
        skiplab.capture(model, (torch.randn(3, 8),), how="export")
    assert str(e.value).endswith("take that decision out of `forward`")
    assert str(e.value).count("\n") == 0
    assert capfd.readouterr() == ("", "")


def test_scripted_modules_are_recorded_and_not_exported() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Sequential(linear(), nn.ReLU()))
    program = skiplab.capture(scripted, (torch.randn(3, 8),))
    assert [op.kind for op in program.ops] == ["input", "weight", "activation"]
    with pytest.raises(CaptureError, match="capture the original module, not the scripted one"):
        skiplab.capture(scripted, (torch.randn(3, 8),), how="export")


def test_a_failure_of_the_plain_export_is_reported_rather_than_one_of_the_free_batch() -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + float(x.data.numpy()[0, 0])

    with pytest.raises(CaptureError) as caught:
        skiplab.capture(Writes(), (torch.randn(3, 8),), how="export")
    assert "dynamic_shapes" not in str(caught.value)


def test_difference_is_measured() -> None:
    program = captured("resnet18").program
    assert program.difference == 0
    assert math.isnan(captured("vgg16").program.difference)  # no values on the meta device
    nan = skiplab.capture(Net(lambda net, x: x / 0 * 0), (torch.randn(3, 8),))
    assert nan.difference == 0


def test_a_branch_on_the_batch_size_shows_in_the_difference() -> None:
    """An example of one is repeated; a model that does something else for one sample gives itself away."""
    program = skiplab.capture(Net(lambda net, x: x if x.shape[0] == 1 else x + 1), (torch.randn(1, 8),))
    assert program.difference == pytest.approx(1)


def test_the_example_is_kept() -> None:
    x, y = torch.randn(2, 1, 8).unbind(0)
    program = skiplab.capture(TwoInputs(lambda net, x, y: x * y), (x, y))
    assert program.example == ((x, y), {})
    assert program.name == "TwoInputs"


def test_one_block_of_code_under_no_grad_is_part_of_the_graph() -> None:
    program = captured("frozen").program
    assert {"frozen.branch.0", "exact.branch.0"} <= {op.module for op in program.ops}
    assert "other" not in {op.kind for op in program.ops}


def test_tied_weights_are_one_tensor() -> None:
    tied = linear()
    model = Net(lambda net, x: net.b(F.relu(net.a(x))), a=tied, b=linear())
    model.b.weight = tied.weight  # type: ignore[assignment]
    program = skiplab.capture(model, (torch.randn(3, 8),))
    weights = [t.data_ptr() for n, t in program.tensors.items() if t.ndim == 2]
    assert set(weights) == {tied.weight.data_ptr()}


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_capture_works_in_any_gradient_mode(context: Callable[[], Any]) -> None:
    with context():
        program = skiplab.capture(Block(), (torch.randn(3, 8),))
    assert skiplab.find(program).expect(1)


def test_capture_takes_inputs_that_require_gradients() -> None:
    x = torch.randn(3, 8, requires_grad=True)
    program = skiplab.capture(Block(), (x,))
    assert program.difference == 0
    assert x.grad is None


def test_programs_are_frozen() -> None:
    program = skiplab.capture(heavy(), (torch.randn(3, 8),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        program.name = "other"  # type: ignore[misc]
