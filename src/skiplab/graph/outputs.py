"""The outputs of a model: their leaves and their form."""

from typing import Any

from skiplab.graph.torch_compat import pytree


def flatten_output(output: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """The leaves of an output, and its form; a dataclass counts as the mapping of its fields."""
    return pytree.tree_flatten(pytree.tree_map(_fields, output))


def _fields(leaf: Any) -> Any:
    names = () if isinstance(leaf, type) else getattr(leaf, "__dataclass_fields__", ())
    return {name: pytree.tree_map(_fields, getattr(leaf, name)) for name in names} if names else leaf
