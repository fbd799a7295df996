import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import skiplab
from cases import captured
from networks import Block, Net, heavy, linear
from skiplab.errors import UsageError
from skiplab.graph.ops import classify, is_concat, op_info, operator_name
from skiplab.graph.program import Program
from skiplab.graph.source_map import innermost_source

aten = torch.ops.aten


def kinds(function: Callable[[Any, Tensor], Any], x: Tensor | None = None, **modules: nn.Module) -> list[str]:
    """Kinds of the ops of a network after its input, in order."""
    program = skiplab.capture(Net(function, **modules), (torch.randn(3, 8) if x is None else x,))
    return [op.kind for op in program.ops[1:]]


def test_operator_names_have_no_overload_and_no_underscore() -> None:
    assert operator_name(aten.relu.default) == operator_name(aten.relu_.default) == "relu"
    assert operator_name(aten.add.Tensor) == operator_name(aten.add_.Scalar) == "add"
    assert operator_name(len) == "len"


def test_concatenations_and_value_independent_operators() -> None:
    assert is_concat("cat")
    assert not is_concat("add")
    assert op_info("new_zeros").value_independent
    assert not op_info("relu").value_independent


@pytest.mark.parametrize(
    ("name", "data", "learned", "steered", "kind"),
    [
        ("linear", (0,), True, False, "weight"),
        ("conv2d", (0, 1), False, False, "product"),  # a kernel computed from data
        ("matmul", (0, 1), False, False, "product"),
        ("matmul", (0,), False, False, "resample"),  # a fixed matrix
        ("matmul", (0,), True, False, "weight"),
        ("embedding", (1,), False, False, "weight"),
        ("lstm", (0,), True, False, "recurrent"),
        ("mul", (0, 1), False, False, "product"),
        ("mul", (0,), False, False, "resample"),
        ("mul", (0,), False, True, "activation"),
        ("div", (0,), False, False, "resample"),
        ("div", (1,), False, False, "activation"),
        ("add", (0, 1), False, False, "merge"),
        ("add", (0,), True, False, "view"),
        ("rsub", (0,), False, False, "resample"),
        ("cat", (1,), False, False, "resample"),
        ("where", (1,), False, False, "resample"),
        ("where", (1,), False, True, "activation"),
        ("index", (0,), False, True, "activation"),
        ("batch_norm", (0,), True, False, "batch_norm"),
        ("layer_norm", (0,), True, False, "norm"),
        ("max_pool2d", (0,), False, False, "max_pool"),
        ("expand", (0,), False, False, "expand"),
        ("an_operator_of_tomorrow", (0,), False, False, "other"),
    ],
)
def test_kind_of_an_operator(name: str, data: tuple[int, ...], learned: bool, steered: bool, kind: str) -> None:
    assert classify(name, data, learned=learned, float_steered=steered) == kind


def test_only_data_is_in_the_data_flow() -> None:
    """Parameters, shapes, constants and what is computed from them alone are left out."""

    def function(net: Any, x: Tensor) -> Tensor:
        scale = (net.a.weight.sum() * 2).sigmoid()
        noise = torch.zeros_like(x) + torch.arange(x.shape[1])
        return x * scale + noise + x.new_ones(x.shape[0], 1)

    assert kinds(function, a=linear()) == ["resample", "view", "view"]


def test_weights_are_found_through_what_is_computed_from_them() -> None:
    normed = nn.utils.parametrizations.weight_norm(linear())
    program = skiplab.capture(nn.Sequential(normed), (torch.randn(3, 8),))
    (op,) = (op for op in program.ops if op.kind == "weight")
    prefix = "0.parametrizations.weight.original"
    assert set(op.weights) == {f"{prefix}0", f"{prefix}1", "0.bias"}


@pytest.mark.parametrize(
    "relu",
    [
        lambda x: torch.where(x > 0, x, 0.0),
        lambda x: x * (x > 0),
        lambda x: x * (x > 0).float(),
        lambda x: x.masked_fill(x < 0, 0.0),
        lambda x: x.clone().index_put_((x < 0,), torch.zeros(())),
        lambda x: torch.maximum(x, torch.zeros(())),
        pytest.param(
            lambda x: (x + x.abs()) / 2,
            marks=pytest.mark.xfail(strict=True, reason="of a sum within one function its lightest operand counts"),
        ),
        lambda x: x.clamp(min=0),
        lambda x: -torch.minimum(-x, x * 0),
    ],
)
def test_a_relu_by_any_other_name_is_nonlinear(relu: Callable[[Tensor], Tensor]) -> None:
    program = skiplab.capture(Net(lambda net, x: net.b(relu(net.a(x))), a=linear(), b=linear()), (torch.randn(3, 8),))
    assert torch.allclose(relu(program.example[0][0]), F.relu(program.example[0][0]))
    assert skiplab.census(program).nonlinearities.min >= 1


def test_masks_that_do_not_come_from_real_numbers_are_linear() -> None:
    ids = torch.arange(6).reshape(2, 3)
    assert kinds(lambda net, x: net.e(x) * (x > 1)[..., None], ids, e=nn.Embedding(6, 8))[-1] == "resample"
    causal = torch.ones(8, 8).tril()
    assert kinds(lambda net, x: x.masked_fill(causal[0] == 0, 0.0)) == ["resample"]
    assert kinds(lambda net, x: torch.where(causal[0] == 0, x, x.flip(-1))) == ["view", "merge"]


def test_token_ids_are_data_up_to_the_embedding() -> None:
    ids = torch.arange(6).reshape(2, 3)
    assert kinds(lambda net, x: net.e(x.flip(-1)), ids, e=nn.Embedding(6, 8)) == ["view", "weight"]
    assert kinds(lambda net, x: x.float() / 255, ids.to(torch.uint8)) == ["view", "resample"]


def test_writing_a_whole_value_forgets_what_was_there() -> None:
    program = skiplab.capture(Net(lambda net, x: torch.tanh(x).copy_(x) + 0), (torch.randn(3, 8),))
    (copied,) = (op for op in program.ops if op.target == "copy")
    assert copied.inputs == (0,)


def test_module_paths() -> None:
    program = captured("resnet18").program
    modules = {op.module for op in program.ops}
    assert {"conv1", "layer1.0.conv2", "layer2.0.downsample.0", "fc"} <= modules
    assert program.ops[0].module == ""
    twice = captured("called_twice").program
    assert [op.module for op in twice.ops if op.kind == "merge"] == ["b", "b"]


def test_ops_are_in_order_of_execution_with_their_readers() -> None:
    for name in ("resnet18", "unet", "t5"):
        program = captured(name).program
        assert [op.index for op in program.ops] == list(range(len(program.ops)))
        assert all(operand < op.index for op in program.ops for operand in op.inputs)
        assert all(program.by_name[op.name] is op for op in program.ops)
        assert sum(map(len, program.users)) == sum(len(op.inputs) for op in program.ops)
        assert all(op.index in program.users[operand] for op in program.ops for operand in op.inputs)


def test_shapes_leave_the_batch_open() -> None:
    program = captured("resnet18").program
    assert program.ops[0].shape == (None, 3, 32, 32)
    assert program.ops[program.outputs[0]].shape == (None, 1000)


def test_a_size_that_turned_out_to_be_fixed_is_a_number() -> None:
    lstm = nn.LSTM(8, 8)  # sequence first: its length cannot vary
    program = skiplab.capture(Net(lambda net, x: x + net.a(x)[0], a=lstm), (torch.randn(4, 3, 8),), how="export")
    assert program.ops[0].shape == (4, 3, 8)
    assert skiplab.find(program).at("forward").expect(1)


@pytest.mark.parametrize("like", ["type_as", "view_as", "reshape_as", "expand_as", "to"])
def test_a_value_that_gives_only_its_shape_or_dtype_is_not_read(like: str) -> None:
    net = Net(lambda net, x: net.b(getattr(torch.relu(net.a(x)), like)(x)), a=linear(), b=linear())
    program = skiplab.capture(net, (torch.randn(3, 8),))
    assert [len(op.inputs) for op in program.ops] == [0] + [1] * (len(program.ops) - 1)
    assert skiplab.census(program).nonlinearities.min == 1


def test_an_operand_twice_is_read_twice() -> None:
    program = skiplab.capture(Net(lambda net, x: torch.tanh(x) * torch.tanh(x) + 1), (torch.randn(3, 8),))
    squared = skiplab.capture(Net(lambda net, x: (y := torch.tanh(x)) * y), (torch.randn(3, 8),))
    assert len(program.ops) == 5
    assert squared.ops[-1].inputs == (1, 1)
    assert squared.users[1] == (2, 2)


def test_fingerprint_is_of_the_structure() -> None:
    x = torch.randn(2, 8)
    one, two, larger = (skiplab.capture(Block(), (x[..., :8],)) for _ in range(3))
    assert one.fingerprint == two.fingerprint == larger.fingerprint
    assert skiplab.capture(heavy(), (x,)).fingerprint != one.fingerprint
    wide = skiplab.capture(nn.Sequential(nn.Linear(8, 9), nn.ReLU(), nn.Linear(9, 8)), (x,))
    assert wide.fingerprint != skiplab.capture(heavy(), (x,)).fingerprint
    assert one.fingerprint == skiplab.capture(Block(), (torch.randn(5, 8),)).fingerprint


class Keywords(nn.Module):
    def forward(self, x: Tensor, *, y: Tensor, extra: dict[str, Tensor]) -> Tensor:
        return x - 2 * y - 3 * extra["a"] - 4 * extra["b"]


@pytest.fixture
def keywords() -> tuple[Program, Tensor, dict[str, Any]]:
    values = torch.randn(4, 3, 8).unbind(0)
    given = {"y": values[1], "extra": {"a": values[2], "b": values[3]}}
    return skiplab.capture(Keywords(), (values[0],), given), values[0], given


def test_inputs_go_by_name(keywords: tuple[Program, Tensor, dict[str, Any]]) -> None:
    program, x, given = keywords
    reversed_ = {"extra": dict(reversed(given["extra"].items())), "y": given["y"]}
    assert [id(v) for v in program.flatten((x,), reversed_)] == [id(v) for v in program.flatten((x,), given)]


@pytest.mark.parametrize(
    ("args", "change", "message"),
    [
        (
            1,
            {"extra": {}},
            r"Keywords takes \(tensor, y=tensor, extra=dict\) as captured, got \(tensor, y=tensor, extra=dict\)",
        ),
        (0, {}, r"got \(y=tensor, extra=dict\)"),
        (2, {}, r"got \(tensor, tensor, y=tensor, extra=dict\)"),
        (1, {"extra": torch.zeros(3)}, "got .*extra=tensor"),
        (1, {"z": 1}, "got .*z=int"),
    ],
)
def test_inputs_of_another_form_are_refused(
    keywords: tuple[Program, Tensor, dict[str, Any]], args: int, change: dict[str, Any], message: str
) -> None:
    program, x, given = keywords
    with pytest.raises(UsageError, match=message):
        program.flatten((x,) * args, given | change)


def test_users_code_in_a_folder_named_like_torch_is_not_taken_for_torchs_own(tmp_path: Path) -> None:
    folder = tmp_path / "my_torch" / "_models"
    folder.mkdir(parents=True)
    file = folder / "functional.py"
    file.write_text("import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n        return x.relu()\n")
    spec = importlib.util.spec_from_file_location("users_net", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    program = skiplab.capture(module.Net(), (torch.randn(2, 3),))
    assert program.ops[-1].source == f"{file}:4"


def test_source_is_the_innermost_line_that_is_not_torchs_plumbing() -> None:
    """Some releases of torch keep these frames in a trace, and some leave them out."""
    folder = Path(torch.__file__).parent
    lines = ["/home/me/net.py", folder / "nn/modules/activation.py", folder / "nn/functional.py", folder / "_tensor.py"]
    trace = "\n".join(f'  File "{file}", line {10 + i}, in forward\n    code()' for i, file in enumerate(lines))
    assert innermost_source(trace) == f"{lines[1]}:11"
    assert innermost_source("no frames at all") is None


def test_torchs_own_layers_count_as_code_but_not_its_plumbing() -> None:
    program = skiplab.capture(Net(lambda net, x: F.softmax(x, -1)), (torch.randn(2, 3),))
    assert program.ops[-1].source is not None
    assert Path(program.ops[-1].source.rsplit(":", 1)[0]).name == "test_program.py"
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    sources = {s.source for s in skiplab.find(skiplab.capture(layer, (torch.randn(2, 5, 8),), train=True))}
    assert all("nn/modules/transformer.py:" in str(source) for source in sources)
    assert len(sources) == 2


def test_a_training_graph_is_refused_with_its_reason() -> None:
    x = torch.randn(3, 8)
    skiplab.capture(heavy(), (x,)).require_inference("whose batch norms cannot be folded")
    with pytest.raises(
        UsageError,
        match=r"^Sequential was captured as a training graph, whose batch norms cannot be folded: "
        r"capture it without train=True \(--train\)$",
    ):
        skiplab.capture(heavy(), (x,), train=True).require_inference("whose batch norms cannot be folded")


def test_a_program_has_values_off_the_meta_device() -> None:
    x = torch.randn(3, 8)
    program = skiplab.capture(heavy(), (x,))
    assert program.has_values
    program.require_values("which a proof needs")
    bare = skiplab.capture(heavy().to("meta"), (x.to("meta"),))
    assert not bare.has_values
    with pytest.raises(UsageError, match=r"^Sequential was captured without values, which a proof needs: .*--meta\)$"):
        bare.require_values("which a proof needs")
