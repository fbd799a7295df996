"""Change a network's skip connections: `(program, skips, …) -> Program`, a new one; the one given stays as it is."""

from skiplab.edit.drop_path import drop_path
from skiplab.edit.gate import gate, highway
from skiplab.edit.remove import remove_branch, remove_shortcut
from skiplab.edit.reorder import reorder
from skiplab.edit.scale import average, layer_scale, rezero, scale, skip_init

__all__ = [
    "average",
    "drop_path",
    "gate",
    "highway",
    "layer_scale",
    "remove_branch",
    "remove_shortcut",
    "reorder",
    "rezero",
    "scale",
    "skip_init",
]
