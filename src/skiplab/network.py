"""A graph as an `nn.Module`: one that trains, with its tensors under their own names."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from skiplab.code import Code


class Network(nn.Module):
    """A program as a module: it trains, is copied, pickled, compiled and exported like any other.

    Checkpoints of the network that it was made of load as they are: what an edit has removed is left out, and what
    one has added stays as it is where a checkpoint has it not.

    Attributes:
        code: the source of its `forward`.
        removed: names in state dicts of the original that this network has not.
        added: names in its state dict that the original has not.
    """

    code: Code
    removed: frozenset[str]
    added: frozenset[str]

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """As of any module, for checkpoints of this network and of the original."""
        own = self.state_dict()
        kept = {name: value for name, value in state_dict.items() if name not in self.removed}
        missing = {name: own[name] for name in self.added if name not in kept}
        return super().load_state_dict({**kept, **missing}, strict=strict, assign=assign)

    def __reduce__(self) -> tuple[Any, ...]:
        return _bare, (type(self).__name__, self.code), vars(self)


def network(
    name: str, code: Code, tensors: Iterable[tuple[str, Tensor, bool]], *, removed: Iterable[str], added: Iterable[str]
) -> Network:
    """A module in evaluation mode.

    Args:
        name: its class's.
        code: its `forward`.
        tensors: (name, tensor, whether state dicts hold it). Parameters are told by their type; a tensor under two
            names is tied.
        removed, added: see `Network`.
    """
    module = _bare(name, code)
    nn.Module.__init__(module)
    module.removed, module.added = frozenset(removed), frozenset(added)
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

    def forward(self: Network, *args: Any, **kwargs: Any) -> Any:
        assert code.specs is not None
        inputs, outputs = code.specs
        return pytree.tree_unflatten(run(self, *inputs.flatten_up_to((args, kwargs))), outputs)

    named = [inspect.Parameter(each, inspect.Parameter.POSITIONAL_OR_KEYWORD) for each in ("self", *code.arguments)]
    forward.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]  # by which a capture goes
    own = {"forward": forward if code.specs else run, "code": code, "__module__": __name__}
    made = type(name, (Network,), own)
    return made.__new__(made)
