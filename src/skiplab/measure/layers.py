"""What a network loses when one layer at a time is deleted, without retraining; it needs no skip connections."""

from collections import Counter
from collections.abc import Iterable
from typing import Unpack

from torch import Tensor

from skiplab.data.bound_batches import Batch
from skiplab.graph.interpreter import Edge, Patch
from skiplab.graph.ops import Op, op_info
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss
from skiplab.measure.lesion import COLUMNS_OF_CHANGE, sentences
from skiplab.measure.lesions.resumable_pass import Passes, Running
from skiplab.measure.lesions.runner import compare_networks, function_names, plan_passes, require_trained
from skiplab.measure.lesions.spec import Lesion
from skiplab.measure.losses import named_loss
from skiplab.measure.protocol import ORDER, Measure
from skiplab.measure.table import MeasureTable
from skiplab.stats.columns import Column
from skiplab.validation import known_options


class Options(Running, total=False):
    """Keyword options of `layers`, in addition to those of `Running`.

    Attributes:
        reestimate: measure each network a second time, with batch norm statistics re-estimated on `batches`.
    """

    reestimate: bool


def layers(
    program: Program,
    batches: Iterable[Batch],
    loss: Loss | str,
    metric: Loss | None = None,
    **options: Unpack[Options],
) -> MeasureTable:
    """Change in loss when one layer at a time is deleted: its input takes the place of its output.

    A layer is a convolution or a linear layer with the norms, activations and dropout that it alone feeds. It can be
    deleted where its output has the shape of its input. In a plain network this corresponds to deleting a branch of
    a residual one. Veit et al. 2016, arXiv:1605.06431, §4.1, on VGG.

    Args:
        program: the captured, trained network, with skip connections or without.
        batches: pairs (inputs, target).
        loss: (output, target) -> mean over the batch, or one value a sample; or the name of one ("cross-entropy").
        metric: a second quantity of the same form.
        options: see `Options` and `Running`.

    Returns:
        One row a layer that can be deleted, in order; columns as `lesion`'s, with kind "layer", the path of the layer's
        module as id, and its op's index as order.
    """
    require_trained(program)
    known_options(options, Options.__annotations__, "layers")
    deletable = units(program)
    repeated = Counter(first.module for first, _ in deletable)
    lesions = [_bypass(program, unit, repeated[unit[0].module] > 1) for unit in deletable]
    functions, seed = [named_loss(loss), *([] if metric is None else [metric])], options.get("seed", 0)
    passes_of = plan_passes(len(lesions), reestimate=options.get("reestimate", False))
    identity = {"layers": [lesion.id for lesion in lesions], "functions": function_names(functions)}
    passes = Passes(program, batches, passes_of, options, identity)
    return MeasureTable.of(__name__, compare_networks(passes, lesions, functions, seed))


def units(program: Program) -> list[tuple[Op, Op]]:
    """The first and last op of each layer that can be deleted."""
    weights = (op for op in program.ops if op.kind == "weight" and len(op.inputs) == 1)
    return [(op, _last(program, op)) for op in weights if op.shape == program.ops[op.inputs[0]].shape]


def _last(program: Program, op: Op) -> Op:
    """The last of the ops after a layer that each alone read the one before and keep its shape."""
    while op.index not in program.outputs and len(program.users[op.index]) == 1:
        after = program.ops[program.users[op.index][0]]
        follows = after.kind in ("batch_norm", "norm", "activation") or op_info(after.target).dropout
        if not follows or after.shape != op.shape:
            break
        op = after
    return op


def _bypass(program: Program, unit: tuple[Op, Op], repeated: bool) -> Lesion:
    """The unit's input takes the place of its output, for all readers of that."""
    first, last = unit
    into = (first.name, program.ops[first.inputs[0]].name)
    out_of = [(reader.name, last.name) for reader in program.nodes[last.name].users]

    def patches(_: object) -> dict[Edge, Patch]:
        taken: list[Tensor] = []  # the layer still runs, though nothing reads it: it passes its input on

        def take(value: Tensor) -> Tensor:
            taken[:] = [value]
            return value

        return {into: take, **{edge: lambda _: taken[0] for edge in out_of}}

    name = f"{first.module}:{first.name}" if repeated or not first.module else first.module
    return Lesion(id=name, order=first.index, kind="layer", k=1, start=first.name, patches=patches)


MEASURE = Measure(
    function=layers,
    run=lambda inputs: layers(
        inputs.program, inputs.batches, inputs.loss, inputs.metric, **inputs.options, **inputs.running
    ),
    sentences=sentences,
    columns=(
        Column("layer", "id", doc="module path of the layer"),
        ORDER,
        Column("", "kind", doc='"layer"'),
        Column("", "k", doc="1"),
        *COLUMNS_OF_CHANGE,
    ),
    title="Layers",
    reading="By how much the loss rises when one layer is deleted and its input takes its place, without retraining.",
    chart="lesion",
    options=("reestimate",),
    needs_targets=True,
    needs_skips=False,
    needs_inference_graph=True,
    reports_progress=True,
)
