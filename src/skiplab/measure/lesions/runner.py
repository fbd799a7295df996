"""Runs every changed network on all the data, and compares each with the whole network."""

import functools
from collections.abc import Sequence

import pandas as pd
import torch

from skiplab.graph.program import Program
from skiplab.measure.batches import Loss, finite
from skiplab.measure.lesions.batchnorm import reestimate_batch_norms
from skiplab.measure.lesions.bootstrap import intervals
from skiplab.measure.lesions.per_sample_loss import losses
from skiplab.measure.lesions.prefix_sharing import forks
from skiplab.measure.lesions.resumable_pass import Part, Passes, State
from skiplab.measure.lesions.spec import Lesion, Patches

TRAINED, ESTIMATION, REESTIMATED = "as trained", "re-estimation", "re-estimated"
NAMES = ("loss", "metric")


def plan_passes(lesions: int, *, reestimate: bool) -> dict[str, int]:
    """The passes that `compare_networks` takes, each with the number of networks that it runs; see `Passes`."""
    return dict.fromkeys((TRAINED, ESTIMATION, REESTIMATED) if reestimate else (TRAINED,), lesions + 1)


def compare_networks(passes: Passes, lesions: Sequence[Lesion], functions: Sequence[Loss], seed: int) -> pd.DataFrame:
    """One row a lesion, and again with re-estimated batch norms if the plan has them; columns as in `lesion`."""
    tables = [_table(lesions, _run(passes, TRAINED, lesions, None, functions), TRAINED, seed)]
    if ESTIMATION in passes.plan:
        anew, whole = reestimate_batch_norms(passes, ESTIMATION, lesions)
        tables.append(_table(lesions, _run(passes, REESTIMATED, anew, whole, functions), REESTIMATED, seed))
    return pd.concat(tables, ignore_index=True)


def function_names(functions: Sequence[Loss]) -> list[str]:
    """Names that identify loss functions across processes."""
    return [_function_name(function) for function in functions]


def _function_name(function: Loss) -> str:
    if isinstance(function, functools.partial):
        return f"{_function_name(function.func)}{(*function.args, function.keywords)}"
    name = getattr(function, "__qualname__", type(function).__qualname__)
    line = getattr(getattr(function, "__code__", None), "co_firstlineno", None)
    return name if line is None else f"{name}:{line}"


def require_trained(program: Program) -> None:
    """UsageError for a training graph."""
    program.require_inference("whose batch norms do not use their statistics")


def _run(
    passes: Passes, name: str, lesions: Sequence[Lesion], whole: Patches | None, functions: Sequence[Loss]
) -> State:
    """`means` by batch, function and network, and `samples` where they exist; the whole network is last."""

    def work(part: Part) -> State:
        given, of = part.given, {}
        for place, execution in forks(passes.program, part, lesions, whole):
            of[place] = losses(functions, execution.finish(), given.target, given.size)
        for what, value in zip(NAMES, of[len(lesions)][0], strict=False):
            finite(passes.program, given, value, f"the {what} of the whole network")
        means, samples = zip(*(of[place] for place in range(len(of))), strict=True)
        state = {"means": torch.stack(means, -1)[None], "sizes": torch.tensor([given.size])}
        known = [each for each in samples if each is not None]
        return state | ({"samples": torch.stack(known, -1)} if len(known) == len(samples) else {})

    return passes.fold(name, work, _joined)


def _joined(old: State, new: State) -> State:
    """Joins results; drops keys that only one of them has, since they are not known for all samples."""
    return {key: torch.cat((old[key], new[key])) for key in old.keys() & new.keys()}


def _table(lesions: Sequence[Lesion], state: State, batchnorm: str, seed: int) -> pd.DataFrame:
    means, sizes = state["means"], state["sizes"].double()
    samples, count = state.get("samples"), int(sizes.sum())
    about = ("id", "order", "kind", "k")
    columns: dict[str, object] = {name: [getattr(lesion, name) for lesion in lesions] for name in about}
    columns |= {"batchnorm": batchnorm, "unit": "batch" if samples is None else "sample", "samples": count}
    totals = torch.zeros(means.shape[1:], dtype=torch.double)
    for mean, size in zip(means, sizes, strict=True):
        totals += mean * size
    for name, total, values in zip(NAMES, totals, (means if samples is None else samples).unbind(1), strict=False):
        columns[name] = (total[:-1] / count).numpy()
        columns[f"{name}_change"] = ((total[:-1] - total[-1]) / count).numpy()
        weights = sizes if samples is None else torch.ones(len(values), dtype=torch.double)
        low, high = intervals(values[:, :-1] - values[:, -1:], weights, seed)
        columns |= {f"{name}_change_low": low, f"{name}_change_high": high}
    return pd.DataFrame(columns)
