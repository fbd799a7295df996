"""A graph as a trainable `nn.Module`, with tensors under their own names."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from skiplab.errors import UsageError
from skiplab.graph.codegen import Code
from skiplab.graph.torch_compat import pytree


@dataclass(frozen=True)
class NameChanges:
    """How the state dict of an edited network differs from the original's.

    Attributes:
        removed: names that only the original's state dict has.
        added: names that only this network's state dict has.
        rewritten: names of tensors into which others are folded, so that the original's values do not fit.
    """

    removed: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    rewritten: frozenset[str] = frozenset()


class ProgramModule(nn.Module):
    """A program as a module that can be trained, copied, pickled, compiled and exported like any other.

    Checkpoints of the original network load, also where this module is part of another one: removed names are skipped,
    and added tensors keep their values where the checkpoint lacks them. After a fold the original's checkpoints are
    refused, since they would give another function.

    The attributes have names that no network's modules have.
    """

    _skiplab_code: Code
    _skiplab_changes: NameChanges

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any, **named: Any) -> None:
        """`load_state_dict` calls this before the submodules' own, with a dictionary that it may change."""
        changes = self._skiplab_changes
        present = [name for name in changes.removed if prefix + name in state_dict]
        if present and changes.rewritten:
            raise UsageError(
                f"this checkpoint holds `{min(present)}`, so it is one of the network before it was folded, and its "
                f"weights ({min(changes.rewritten)}) do not fit any more: load it into that network and edit it again"
            )
        for name in present:
            del state_dict[prefix + name]
        own = self.state_dict()
        for name in changes.added:
            if name in own:
                state_dict.setdefault(prefix + name, own[name])
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return _bare, (type(self).__name__, self._skiplab_code), vars(self)


def build_module(
    name: str, code: Code, tensors: Iterable[tuple[str, Tensor, bool]], changes: NameChanges
) -> ProgramModule:
    """A module in evaluation mode.

    Args:
        name: of its class.
        code: its `forward`.
        tensors: (name, tensor, whether state dicts hold it). An `nn.Parameter` becomes a parameter, any other tensor a
            buffer; a tensor under two names is tied.
        changes: how its state dict differs from the original's.
    """
    module = _bare(name, code)
    nn.Module.__init__(module)
    module._skiplab_changes = changes
    for path, tensor, persistent in tensors:
        *parents, leaf = path.split(".")
        owner: nn.Module = module
        for parent in parents:
            if parent not in owner._modules:
                owner.add_module(parent, nn.Module())
            owner = owner.get_submodule(parent)
        if isinstance(tensor, nn.Parameter):
            owner.register_parameter(leaf, tensor)
        else:
            owner.register_buffer(leaf, tensor, persistent=persistent)
    return module.eval()


def _bare(name: str, code: Code) -> ProgramModule:
    """An instance of a new class of that name, with the code and without tensors."""
    run = code.function()

    named = [inspect.Parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in ("self", *code.arguments)]
    signature = inspect.Signature(named)

    def forward(self: ProgramModule, *args: Any, **kwargs: Any) -> Any:
        assert code.specs is not None
        inputs, outputs = code.specs
        bound = signature.bind(self, *args, **kwargs).arguments  # in captured order: positional, then by keyword
        count = inputs.child(0).num_children
        given = [value for name, value in bound.items() if name != "self"]
        named = dict(zip(code.arguments[count:], given[count:], strict=True))
        flat = inputs.flatten_up_to((tuple(given[:count]), named))
        return pytree.tree_unflatten(run(self, *flat), outputs)

    forward.__signature__ = signature  # type: ignore[attr-defined]  # torch.export reads it
    own = {"forward": forward if code.specs else run, "_skiplab_code": code, "__module__": __name__}
    made = type(name, (ProgramModule,), own)
    return made.__new__(made)
