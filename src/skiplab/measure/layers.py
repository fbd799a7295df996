"""What a network without skip connections loses when one layer at a time is deleted, without retraining."""

from collections import Counter
from collections.abc import Iterable
from typing import Unpack

import pandas as pd
from torch import Tensor

from skiplab.data.bound_batches import Batch
from skiplab.graph.interpreter import Edge, Patch
from skiplab.graph.ops import Op
from skiplab.graph.program import Program
from skiplab.measure.batches import Loss
from skiplab.measure.lesions.resumable_pass import Passes, Running
from skiplab.measure.lesions.runner import compared, names_of, plan, require_trained
from skiplab.measure.lesions.spec import Lesion
from skiplab.validation import checked


def layers(
    program: Program,
    batches: Iterable[Batch],
    loss: Loss,
    metric: Loss | None = None,
    **options: Unpack[Running],
) -> pd.DataFrame:
    """Change in loss when one layer at a time is deleted: what it takes goes on in place of what it gives.

    A layer is a convolution or a linear layer with the norms, activations and dropout that it alone feeds, and can be
    deleted where it gives the shape that it takes. In a plain network this is what deleting a branch is in a
    residual one. Veit et al. 2016, arXiv:1605.06431, §4.1, on VGG.

    Args:
        program: the captured, trained network, with skip connections or without.
        batches: pairs (inputs, target).
        loss: (output, target) -> mean over the batch, or one value a sample.
        metric: a second quantity of the same form.
        options: see `Running`.

    Returns:
        One row a layer that can be deleted, in order; columns as `lesion`'s, with kind "layer", the path of the layer's
        module as id, and its op's index as order.
    """
    require_trained(program)
    checked(options, Running.__annotations__, "layers")
    deletable = units(program)
    repeated = Counter(first.module for first, _ in deletable)
    lesions = [_bypass(program, unit, repeated[unit[0].module] > 1) for unit in deletable]
    functions, seed = [loss] if metric is None else [loss, metric], options.get("seed", 0)
    passes_of = plan(len(lesions), reestimate=options.get("reestimate", False))
    identity = {"layers": [lesion.id for lesion in lesions], "functions": names_of(functions)}
    passes = Passes(program, batches, passes_of, options, identity)
    return compared(passes, lesions, functions, seed)


def units(program: Program) -> list[tuple[Op, Op]]:
    """The first and last op of each layer that can be deleted."""
    weights = (op for op in program.ops if op.kind == "weight" and len(op.inputs) == 1)
    return [(op, _last(program, op)) for op in weights if op.shape == program.ops[op.inputs[0]].shape]


def _last(program: Program, op: Op) -> Op:
    """The end of the chain of what follows a layer, each the only reader of the one before, and of its shape."""
    while op.index not in program.outputs and len(program.users[op.index]) == 1:
        after = program.ops[program.users[op.index][0]]
        follows = after.kind in ("batch_norm", "norm", "activation") or after.target.endswith("dropout")
        if not follows or after.shape != op.shape:
            break
        op = after
    return op


def _bypass(program: Program, unit: tuple[Op, Op], repeated: bool) -> Lesion:
    """What enters the unit takes the place of what leaves it, for all who read that."""
    first, last = unit
    into = (first.name, program.ops[first.inputs[0]].name)
    out_of = [(reader.name, last.name) for reader in program.nodes[last.name].users]

    def patches(_: object) -> dict[Edge, Patch]:
        taken: list[Tensor] = []  # by the layer, which runs although nothing reads it: it brings its input this far

        def take(value: Tensor) -> Tensor:
            taken[:] = [value]
            return value

        return {into: take, **{edge: lambda _: taken[0] for edge in out_of}}

    name = f"{first.module}:{first.name}" if repeated or not first.module else first.module
    return Lesion(id=name, order=first.index, kind="layer", k=1, start=first.name, patches=patches)
