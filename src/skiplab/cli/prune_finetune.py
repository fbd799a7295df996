"""The plan of `skiplab prune --finetune`, checked before pruning."""

from dataclasses import dataclass, replace

from skiplab.data import DataSet, Split
from skiplab.data.sources import DataRequest, dataset
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.training.loop import check_sample
from skiplab.training.recipe import Recipe


@dataclass(frozen=True)
class FinetunePlan:
    """The data and the recipe of fine-tuning."""

    data: DataSet
    recipe: Recipe


def finetune_plan(
    program: Program, data_request: DataRequest, recipe: Recipe, loss: str, *, has_training_part: bool
) -> FinetunePlan:
    """The plan for a program.

    has_training_part: whether the data have a training part, separate from the one that evaluates networks.

    Raises:
        UsageError: the loss is not cross-entropy, or there is no training part or no trainable parameter.
        DataError: the network does not take the data.
    """
    if loss != "cross-entropy":
        raise UsageError(f"--finetune trains with cross-entropy, and --loss is {loss}: leave one of them out")
    if not has_training_part:
        raise UsageError(
            "--finetune needs a training part separate from the part that evaluates networks, and "
            f"{data_request.spec} has one part: "
            "give data with parts such as train and test, or train the saved network with `skiplab train`"
        )
    if not any(program.tensors[name].requires_grad for name in program.parameters):
        raise UsageError(f"{program.name} has no trainable parameters: leave out --finetune, or set requires_grad")
    shape = next(t.shape[1:] for t in program.flatten(*program.example) if hasattr(t, "shape"))
    data = dataset(replace(data_request, samples=0), tuple(shape))
    device = next(iter(program.tensors.values())).device
    check_sample(program.module(), Split(data.train.x[:1], data.train.y[:1]).to(device), data)
    return FinetunePlan(data, recipe)
