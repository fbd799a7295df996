"""The training that `skiplab prune --finetune` adds, checked before anything takes long."""

from dataclasses import dataclass, replace

from skiplab.data import DataSet, Split
from skiplab.data.sources import DataRequest, dataset
from skiplab.errors import UsageError
from skiplab.graph.program import Program
from skiplab.training.loop import must_fit
from skiplab.training.recipe import Recipe


@dataclass(frozen=True)
class Training:
    """What is trained on, and how."""

    data: DataSet
    recipe: Recipe


def training_of(program: Program, asked: DataRequest, recipe: Recipe, loss: str, *, apart: bool) -> Training:
    """UsageError and DataError where the network could not be trained, or not apart from what it is judged by.

    apart: whether the data have a training part beside the one that networks are judged by.
    """
    if loss != "cross-entropy":
        raise UsageError(f"--finetune trains with cross-entropy, and --loss is {loss}: leave one of them out")
    if not apart:
        raise UsageError(
            f"--finetune needs a training part apart from what networks are judged by, which {asked.spec} has not: "
            "give data with parts such as train and test, or train what --out has saved with `skiplab train`"
        )
    if not any(program.tensors[name].requires_grad for name in program.parameters):
        raise UsageError(f"{program.name} has no parameter that learns: leave out --finetune, or set requires_grad")
    shape = next(t.shape[1:] for t in program.flatten(*program.example) if hasattr(t, "shape"))
    data = dataset(replace(asked, samples=0), tuple(shape))
    place = next(iter(program.tensors.values())).device
    must_fit(program.module(), Split(data.train.x[:1], data.train.y[:1]).to(place), data)
    return Training(data, recipe)
