"""A graph as an `nn.Module`: one that trains, with its tensors under their own names."""

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skiplab.errors import UsageError
from skiplab.graph.codegen import Code


@dataclass(frozen=True)
class Origin:
    """How the names of a network's tensors differ from those of the one that it was made of.

    Attributes:
        removed: names in state dicts of the original that this one has not.
        added: names that the original has not.
        rewritten: names of tensors that have taken others into them, so that they mean something else.
    """

    removed: frozenset[str] = frozenset()
    added: frozenset[str] = frozenset()
    rewritten: frozenset[str] = frozenset()


class Network(nn.Module):
    """A program as a module: it trains, is copied, pickled, compiled and exported like any other.

    Checkpoints of the network that it was made of load as they are, also as a part of another module: what an edit has
    removed is left out, and what one has added stays as it is where a checkpoint has it not. Where an edit has folded
    tensors into others, such a checkpoint is refused, since it would give another function.

    Its own attributes have names that no network's modules have.
    """

    _skiplab_code: Code
    _skiplab_origin: Origin

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any, **named: Any) -> None:
        """Called by `load_state_dict` before those of the modules below, and with a dictionary of the call's own."""
        origin = self._skiplab_origin
        there = [name for name in origin.removed if prefix + name in state_dict]
        if there and origin.rewritten:
            raise UsageError(
                f"this checkpoint holds `{min(there)}`, and so is one of the network before it was folded, whose other "
                f"weights ({min(origin.rewritten)}) are no longer what they were: load it into that network, and edit "
                "that again"
            )
        for name in there:
            del state_dict[prefix + name]
        own = self.state_dict()
        for name in origin.added:
            if name in own:
                state_dict.setdefault(prefix + name, own[name])
        super()._load_from_state_dict(state_dict, prefix, *rest, **named)

    def __reduce__(self) -> tuple[Any, ...]:
        return _bare, (type(self).__name__, self._skiplab_code), vars(self)


def network(name: str, code: Code, tensors: Iterable[tuple[str, Tensor, bool]], origin: Origin) -> Network:
    """A module in evaluation mode.

    Args:
        name: its class's.
        code: its `forward`.
        tensors: (name, tensor, whether state dicts hold it). Parameters are told by their type; a tensor under two
            names is tied.
        origin: how its tensors differ from those of the network that it was made of.
    """
    module = _bare(name, code)
    nn.Module.__init__(module)
    module._skiplab_origin = origin
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


def _bare(name: str, code: Code) -> Network:
    """An instance of a class of that name, with the code and nothing else yet."""
    run = code.function()

    named = [inspect.Parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in ("self", *code.arguments)]
    signature = inspect.Signature(named)

    def forward(self: Network, *args: Any, **kwargs: Any) -> Any:
        assert code.specs is not None
        inputs, outputs = code.specs
        bound = signature.bind(self, *args, **kwargs).arguments  # as captured: by place, then by keyword
        count = inputs.child(0).num_children
        given = [value for name, value in bound.items() if name != "self"]
        named = dict(zip(code.arguments[count:], given[count:], strict=True))
        flat = inputs.flatten_up_to((tuple(given[:count]), named))
        return pytree.tree_unflatten(run(self, *flat), outputs)

    forward.__signature__ = signature  # type: ignore[attr-defined]  # by which a capture goes
    own = {"forward": forward if code.specs else run, "_skiplab_code": code, "__module__": __name__}
    made = type(name, (Network,), own)
    return made.__new__(made)
