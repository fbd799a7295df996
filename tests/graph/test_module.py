"""Programs as modules: `Program.module()`."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch._inductor.config
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import skiplab
from cases import captured
from networks import WIDTH, Block, Encoded, Net, conv, heavy, linear
from oracles.edited import blocks, found
from skiplab.edit import layer_scale, remove_branch, remove_shortcut, rezero, scale
from skiplab.graph.interpreter import run
from skiplab.graph.module import ProgramModule
from skiplab.models import SkipConnection, resnet


def again(module: nn.Module) -> Any:
    """As a file brings it back."""
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {"itself": lambda net: net, "deepcopy": copy.deepcopy, "saved": again}


class Modes(nn.Module):
    """What differs between training and evaluation: dropouts, norms with statistics, attention's dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = conv(3, 4), linear()
        self.norms = nn.ModuleList([nn.BatchNorm2d(4, momentum=0.3), nn.InstanceNorm2d(4, track_running_stats=True)])
        self.of_batch = nn.BatchNorm2d(4, track_running_stats=False)
        self.drops = nn.ModuleList([nn.Dropout(0.4), nn.Dropout2d(0.4), nn.AlphaDropout(0.4)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for module in (*self.norms, self.of_batch, *self.drops):
            x = x + F.relu(module(x))
        return self.head(x)


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize("captured_in_training", [False, True])
def test_dropout_and_norms_follow_the_mode(copied: str, captured_in_training: bool) -> None:
    torch.manual_seed(0)
    model, x = Modes(), torch.randn(2, 3, 8, 8)
    module = COPIES[copied](skiplab.capture(model, (x,), train=captured_in_training).module())
    assert isinstance(module, ProgramModule)
    assert type(module).__name__ == "Modes"
    assert not module.training
    for training in (True, False, True):
        x = torch.randn(3, 3, 8, 8)
        outputs = []
        for network in (module.train(training), model.train(training)):
            torch.manual_seed(1)
            outputs.append(network(x))
        torch.testing.assert_close(*outputs)
    kept = {name: buffer for name, buffer in model.named_buffers() if not name.endswith("num_batches_tracked")}
    assert kept
    for name, buffer in kept.items():
        torch.testing.assert_close(module.get_buffer(name), buffer)


def test_tensors_are_copies_of_the_program_s() -> None:
    model = blocks("vector")
    program, _ = found(model, (3, 4))
    x = torch.randn(3, 4)
    wanted, module = run(program, x), program.module()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(run(program, x), wanted)
    assert torch.equal(program.module()(x), wanted)
    assert torch.equal(model(x), wanted)


def test_frozen_weights_stay_frozen() -> None:
    model = blocks("vector", 2)
    model[0].requires_grad_(False)
    module = found(model, (3, 4))[0].module()
    learned = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    assert {name: parameter.requires_grad for name, parameter in module.named_parameters()} == learned


class Buffers(nn.Module):
    """Buffers that state dicts hold or not, a constant, and names of several parts."""

    constant = torch.arange(8.0)
    kept: Tensor
    passing: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.ModuleDict({"a": Block()})
        self.register_buffer("kept", torch.randn(8))
        self.register_buffer("passing", torch.randn(8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.block["a"](x) * self.kept + self.passing + self.constant + torch.tensor([2.0])


def test_buffers_keep_whether_they_are_stored() -> None:
    model, x = Buffers(), torch.randn(3, 8)
    module = skiplab.capture(model, (x,)).module()
    assert torch.equal(module(x), model(x))
    assert module.state_dict().keys() == model.state_dict().keys()
    assert {"kept", "passing"} <= {name for name, _ in module.named_buffers()}


@pytest.mark.parametrize("copied", COPIES)
def test_tied_weights_stay_tied(copied: str) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.block, self.head = nn.Embedding(9, 8), Block(), nn.Linear(8, 9, bias=False)
            self.head.weight = self.words.weight
            self.same = self.block

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(self.same(self.block(self.words(ids))))

    model, ids = Tied(), torch.arange(6).reshape(2, 3)
    program = skiplab.capture(model, (ids,))
    skips = skiplab.find(program)
    for each in (program, layer_scale(program, skips), remove_branch(program, skips[:1])):
        module = COPIES[copied](each.module())
        assert module.get_parameter("head.weight") is module.get_parameter("words.weight")
        assert module.get_parameter("same.branch.0.weight") is module.get_parameter("block.branch.0.weight")
        assert module.state_dict().keys() - each.added == model.state_dict().keys()
        module(ids).sum().backward()
        torch.optim.SGD(module.parameters(), 0.1).step()
        assert module.get_parameter("head.weight") is module.get_parameter("words.weight")
    gone = remove_branch(program, skips)
    left = {name for name in model.state_dict() if not name.startswith(("block", "same"))}
    assert gone.module().state_dict().keys() == left


def test_forms_of_inputs_and_outputs() -> None:
    model = Encoded()
    ids, extra = torch.arange(10).reshape(2, 5), {"offset": torch.randn(2, 5, 8)}
    module = skiplab.capture(model, (ids,), {"extra": extra}).module()
    for each in (module, copy.deepcopy(module), again(module)):
        output, wanted = each(ids, extra=extra), model(ids, extra=extra)
        assert output.keys() == wanted.keys()
        for a, b in zip(pytree.tree_leaves(output), pytree.tree_leaves(wanted), strict=True):
            assert torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_arguments_go_by_name() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Block()

        def forward(self, input: Tensor, self_: Tensor, scale: float = 1.0) -> Tensor:
            return self.block(input) * scale + self_

    model, x, y = Named(), torch.randn(3, 8), torch.randn(3, 8)
    program = skiplab.capture(model, (x,), {"self_": y, "scale": 2.0})
    for each in (program, rezero(program, skiplab.find(program)[:1])):
        module, wanted = each.module(), run(each, x, self_=y, scale=2.0)
        for output in (module(x, y, 2.0), module(input=x, self_=y, scale=2.0), module(x, scale=2.0, self_=y)):
            assert torch.equal(output, wanted)


def test_old_checkpoints_load() -> None:
    model = resnet(20, width=4, skip="B")
    program, skips = found(model, (2, 3, 16, 16))
    x, state = torch.randn(2, 3, 16, 16), copy.deepcopy(model.state_dict())
    for edited in (
        program,
        remove_shortcut(program, skips),
        remove_branch(program, skips[3:5]),
        rezero(program, skips),
    ):
        module = edited.module()
        wanted = module(x)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.add_(1) if name not in edited.added else None
        assert not torch.equal(module(x), wanted)
        result = module.load_state_dict(state)
        assert (result.missing_keys, result.unexpected_keys) == ([], [])
        assert torch.equal(module(x), wanted)
        own = module.state_dict()
        assert module.load_state_dict(own)
        for wrong, says in (
            ({**state, "other": x}, "Unexpected key.*other"),
            ({"fc.bias": state["fc.bias"]}, "Missing"),
        ):
            with pytest.raises(RuntimeError, match=says):
                module.load_state_dict(wrong)
        assert module.load_state_dict({"other": x}, strict=False).unexpected_keys == ["other"]


def test_a_checkpoint_of_the_edited_network_brings_what_was_added() -> None:
    program, skips = found(blocks("vector"), (3, 4))
    module = rezero(program, skips).module()
    module.load_state_dict({**module.state_dict(), "1.branch_scale": torch.tensor(2.0)})
    assert float(module.state_dict()["1.branch_scale"]) == 2
    module.load_state_dict(program.module().state_dict())
    assert float(module.state_dict()["1.branch_scale"]) == 2
    fresh = rezero(program, skips).module()
    fresh.load_state_dict(module.state_dict())
    x = torch.randn(2, 4)
    assert torch.equal(fresh(x), module(x))


def test_it_can_be_captured_and_edited_again() -> None:
    """Skips are the same, but that they stand in lines of the module's own code."""
    model = resnet(20, width=4)
    program, skips = found(model, (2, 3, 16, 16))
    module = program.module()
    second, found_again = found(module, (2, 3, 16, 16))
    assert [skip.shortcut for skip in found_again] == [skip.shortcut for skip in skips]
    x = torch.randn(2, 3, 16, 16)
    edited = remove_shortcut(second, found_again).module()
    torch.testing.assert_close(edited(x), run(remove_shortcut(program, skips), x))
    source = found_again[0].source
    assert source is not None
    assert source.startswith("<forward ")


def test_what_a_graph_makes_itself_is_made_where_the_inputs_lie() -> None:
    model = Net(lambda net, x: net.b(x + torch.arange(8.0) + torch.zeros(x.shape)), b=Block())
    module = found(model, (3, 8))[0].module().to("meta")
    assert module(torch.empty(5, 8, device="meta")).device.type == "meta"


def test_weights_that_are_computed_on_before_they_are_used() -> None:
    model = SkipConnection(nn.Sequential(nn.utils.parametrizations.weight_norm(linear()), nn.ReLU(), heavy()))
    program, _ = found(model, (3, 8))
    module = program.module()
    x = torch.randn(3, 8)
    assert torch.equal(module(x), model(x))
    assert module.state_dict().keys() == model.state_dict().keys()


# name -> why it cannot be brought to half precision by `.to`
NOT_IN_HALF = dict.fromkeys(
    ("lstm", "gru_3"), "their first state is zeros of the dtype that the inputs had when captured"
)
DOZEN = (
    "plain20 resnet20 resnet20_span1_pre unet dense_block highway lstm gru_3 pre_norm timm_convnext "
    "mobilenet_v3_small bert smp_unet"
).split()


def lower(value: Any) -> Any:
    return value.bfloat16() if isinstance(value, Tensor) and value.is_floating_point() else value


@pytest.mark.parametrize("name", DOZEN)
def test_compiled_exported_and_in_half_precision(name: str) -> None:
    """An edited network is a module like any other. Three digits of bfloat16, over tens of layers."""
    case = captured(name)
    skips = case.skips.in_graph()
    module = (scale(case.program, skips, branch=0.5, learn="scalar") if skips else case.program).module()
    inputs = case.args, case.kwargs
    backend = "aot_eager" if name in ("resnet20", "highway", "pre_norm") else "eager"
    torch._dynamo.reset()
    compiled = torch.compile(module, backend=backend, fullgraph=True)
    exported = torch.export.export(module, *inputs).module()
    with torch.no_grad():
        wanted = pytree.tree_leaves(module(*inputs[0], **inputs[1]))
        for each in (compiled, exported):
            for output, want in zip(pytree.tree_leaves(each(*inputs[0], **inputs[1])), wanted, strict=True):
                torch.testing.assert_close(output, want)
        if name in NOT_IN_HALF:
            return
        args, kwargs = pytree.tree_map(lower, inputs)
        for output, want in zip(pytree.tree_leaves(module.bfloat16()(*args, **kwargs)), wanted, strict=True):
            assert output.dtype == lower(want).dtype
            torch.testing.assert_close(output.float(), want.float(), rtol=0.1, atol=0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what inductor imports
def test_compiled_by_inductor() -> None:
    program, skips = found(blocks("vector", 1), (3, 4))
    module = scale(program, skips, branch=0.5, learn="scalar").module()
    torch._dynamo.reset()
    x = torch.randn(3, 4)
    with torch._inductor.config.patch(cpp_cache_precompile_headers=False):  # which takes a minute for one network
        torch.testing.assert_close(torch.compile(module)(x), module(x))


class Reserved(nn.Module):
    """Names that Python keeps for itself, and that a module made of a program might want too."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.removed, self.added = (nn.Linear(4, 4) for _ in range(3))
        self.by = nn.ModuleDict({"class": nn.Linear(4, 4), "lambda": nn.Linear(4, 4)})

    def forward(self, x: Tensor) -> Tensor:
        return self.added(self.removed(self.code(x))) + self.by["lambda"](self.by["class"](x))


def test_any_name_will_do() -> None:
    model, x = Reserved().eval(), torch.randn(2, 4)
    module = skiplab.capture(model, (x,)).module()
    assert torch.equal(module(x), model(x))
    assert module.state_dict().keys() == model.state_dict().keys()


class Structured(nn.Module):
    def forward(self, both: dict[str, Tensor], scale: Tensor) -> dict[str, Any]:
        return {"sum": (both["a"] + both["b"]) * scale}


def test_structured_inputs_by_place_and_by_name_also_after_pickling() -> None:
    x = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}, torch.randn(2, 3)
    module = skiplab.capture(Structured(), x).module()
    for each in (module, again(module)):
        expected = (x[0]["a"] + x[0]["b"]) * x[1]
        assert torch.equal(each(*x)["sum"], expected)
        assert torch.equal(each(x[0], scale=x[1])["sum"], expected)
        assert torch.equal(each(scale=x[1], both=x[0])["sum"], expected)
        assert skiplab.capture(each, x).difference == 0


def test_an_activation_that_is_random_in_training() -> None:
    x = -torch.ones(1, 400)
    module = skiplab.capture(nn.Sequential(nn.Linear(400, 400), nn.RReLU()), (x,)).module()
    assert torch.equal(module(x), module(x))
    module.train()
    assert not torch.equal(module(x), module(x))


def test_a_part_of_another_module_takes_checkpoints_of_the_original() -> None:
    model = nn.Sequential(Block(), Block())
    program = skiplab.capture(model, (torch.randn(2, WIDTH),))
    smaller = remove_branch(program, skiplab.find(program)[:1]).module()
    whole = nn.Sequential(smaller, nn.Linear(WIDTH, 2))
    state = whole.state_dict() | {f"0.{name}": value + 1 for name, value in model.state_dict().items()}
    whole.load_state_dict(state)
    assert torch.equal(smaller.state_dict()["1.branch.0.weight"], model.state_dict()["1.branch.0.weight"] + 1)
    with pytest.raises(RuntimeError, match="Unexpected"):
        whole.load_state_dict(state | {"0.2.weight": torch.ones(1)})
