"""The edits. One import here makes a function an edit: `skiplab.edit.NAME`, and a command `skiplab edit NAME`.

An edit takes a program, what it changes (`skips`, `places`, `batches`, or nothing), and options, and returns a new
program. Its file has another name than its functions: a loaded submodule is an attribute of its package.
"""

from skiplab.edit.block_order import reorder as reorder
from skiplab.edit.folding import fold as fold
from skiplab.edit.gating import gate as gate
from skiplab.edit.gating import highway as highway
from skiplab.edit.insertion import insert as insert
from skiplab.edit.merge_conversion import add_to_concat as add_to_concat
from skiplab.edit.merge_conversion import concat_to_add as concat_to_add
from skiplab.edit.pre_activation import to_pre_activation as to_pre_activation
from skiplab.edit.recalibration import recalibrate as recalibrate
from skiplab.edit.removal import remove_branch as remove_branch
from skiplab.edit.removal import remove_shortcut as remove_shortcut
from skiplab.edit.scaling import average as average
from skiplab.edit.scaling import layer_scale as layer_scale
from skiplab.edit.scaling import rezero as rezero
from skiplab.edit.scaling import scale as scale
from skiplab.edit.scaling import skip_init as skip_init
from skiplab.edit.stochastic_depth import drop_path as drop_path
