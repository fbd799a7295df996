"""Torch's private parts exist and mean what Skiplab relies on.

`TRIED` holds the versions of torch on which this file has passed. Run it on another version before you add that.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx.proxy import TracerBase

from skiplab.graph.torch_compat import (
    DispatchKey,
    FakeTensor,
    FakeTensorMode,
    OpOverload,
    distinct_dropout_outputs,
    is_mutable,
    pytree,
    schema_of,
    storage_id,
    whole_stack_traces,
)

aten = torch.ops.aten
TRIED = ("2.13",)
SOURCE = Path(__file__).parents[2] / "src" / "skiplab"
DROPOUTS = [aten.feature_dropout.default, aten.alpha_dropout.default, aten.feature_alpha_dropout.default]


def exported(model: nn.Module, *args: Tensor) -> torch.fx.Graph:
    return torch.export.export(model, args, strict=False).graph


def test_the_installed_torch_is_one_that_this_was_tried_on() -> None:
    assert torch.__version__.rsplit(".", 1)[0] in TRIED


def test_private_names_stand_in_one_module() -> None:
    private = re.compile(r"\s*(from torch(\.\w+)*\._\w+|from torch(\.\w+)* import _|import torch\._)")
    found = [
        f"{path.relative_to(SOURCE)}: {line}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.name != "torch_compat.py"
        for line in path.read_text().splitlines()
        if private.match(line)
    ]
    assert found == []


def test_operators_have_schemas() -> None:
    assert isinstance(aten.relu_.default, OpOverload)
    schema = schema_of(aten.relu_.default)
    assert (schema.name, schema.is_mutable, schema.arguments[0].alias_info.is_write) == ("aten::relu_", True, True)
    assert schema_of(aten.view.default).arguments[0].alias_info is not None
    assert (is_mutable(aten.relu_.default), is_mutable(aten.relu.default), is_mutable(len)) == (True, False, False)
    assert schema_of(len) is None


@pytest.mark.parametrize("fake", [False, True])
def test_storage_ids_tell_views_from_copies(fake: bool) -> None:
    with FakeTensorMode() if fake else torch.no_grad():
        x = torch.zeros(3, 4)
        assert isinstance(x, FakeTensor) == fake
        assert storage_id(x) == storage_id(x[1:].t())
        assert storage_id(x) != storage_id(x.clone())


def test_trees_are_flattened_in_order_and_put_together_again() -> None:
    tree = {"a": (1, [2]), "b": None}
    leaves, spec = pytree.tree_flatten(tree)
    assert leaves == [1, 2, None]
    assert pytree.tree_unflatten(leaves, spec) == tree
    assert spec.flatten_up_to(tree) == leaves
    assert (spec.type, spec.context) == (dict, ["a", "b"])
    assert pytree.tree_structure(0).is_leaf()
    built = pytree.TreeSpec(
        spec.type,
        spec.context,
        [pytree.TreeSpec(*_parts(child)) if not child.is_leaf() else child for child in spec.children()],
    )
    assert built == spec


def _parts(spec: pytree.TreeSpec) -> tuple[Any, Any, list[pytree.TreeSpec]]:
    return spec.type, spec.context, spec.children()


class Dropping(nn.Module):
    def __init__(self, operator: Any) -> None:
        super().__init__()
        self.operator = operator

    def forward(self, x: Tensor) -> Tensor:
        return self.operator(x, 0.5, False) + x.sin()


@pytest.mark.parametrize("operator", DROPOUTS)
def test_a_traced_dropout_gives_another_tensor_than_its_operand(operator: Any) -> None:
    with distinct_dropout_outputs():
        graph = exported(Dropping(operator), torch.randn(2, 3))
    (sine,) = (node for node in graph.nodes if node.target == aten.sin.default)
    assert sine.args[0].op == "placeholder"


@pytest.mark.parametrize("operator", DROPOUTS)
def test_dropouts_are_as_before_afterwards(operator: Any) -> None:
    before = dict(operator.py_kernels)
    x = torch.ones(64, 64)
    with distinct_dropout_outputs():
        assert DispatchKey.CompositeImplicitAutograd in operator.py_kernels
        assert torch.equal(operator(x, 0.5, False), x)
        assert (operator(x, 0.5, True) != 1).any()
    assert operator.py_kernels == before
    assert storage_id(operator(x, 0.5, False)) == storage_id(x)


def helper(x: Tensor) -> Tensor:
    return x.sin()  # this line


class Helped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return helper(x)


def test_stack_traces_go_down_into_functions_that_are_not_called_forward() -> None:
    with whole_stack_traces():
        graph = exported(Helped(), torch.randn(2, 3))
    (sine,) = (node for node in graph.nodes if node.target == aten.sin.default)
    assert "in forward" in sine.meta["stack_trace"]
    assert "in helper" in sine.meta["stack_trace"]
    assert "test_the_" not in sine.meta["stack_trace"]  # nothing above the first `forward`


def test_the_tracer_is_as_before_afterwards() -> None:
    before = getattr(TracerBase, "_filter_traceback_frames", None)
    with pytest.raises(ZeroDivisionError), whole_stack_traces():
        raise ZeroDivisionError
    assert getattr(TracerBase, "_filter_traceback_frames", None) is before


def test_a_torch_without_the_filter_keeps_its_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(TracerBase, "_filter_traceback_frames", raising=False)
    with whole_stack_traces():
        assert not hasattr(TracerBase, "_filter_traceback_frames")
