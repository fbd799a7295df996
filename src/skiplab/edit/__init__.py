"""Change a network's skip connections: `(program, skips, …) -> Program`, a new one; the one given stays as it is."""

from skiplab.edit.drop_path import drop_path
from skiplab.edit.fold import fold
from skiplab.edit.gate import gate, highway
from skiplab.edit.insert import insert
from skiplab.edit.insertion_points import Place, place, places
from skiplab.edit.merge_conversion import add_to_concat, concat_to_add
from skiplab.edit.pre_activation import to_pre_activation
from skiplab.edit.recalibrate import recalibrate
from skiplab.edit.remove import remove_branch, remove_shortcut
from skiplab.edit.reorder import reorder
from skiplab.edit.scale import average, layer_scale, rezero, scale, skip_init

__all__ = [
    "Place",
    "add_to_concat",
    "average",
    "concat_to_add",
    "drop_path",
    "fold",
    "gate",
    "highway",
    "insert",
    "layer_scale",
    "place",
    "places",
    "recalibrate",
    "remove_branch",
    "remove_shortcut",
    "reorder",
    "rezero",
    "scale",
    "skip_init",
    "to_pre_activation",
]
