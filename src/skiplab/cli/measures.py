"""Every measure in one table: how it is called, what of it is shown, and which sentences it answers with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab import measure
from skiplab.cli import answers
from skiplab.cli.losses import Function, Named
from skiplab.cli.subject import Subject
from skiplab.measure.fast import deviation, faster
from skiplab.sources import Batches, quartered
from skiplab.terminal import Shown

Progress = Callable[[int, int | None], None]  # how much is done, of how much


@dataclass(frozen=True)
class LesionOptions:
    """What `--what lesion` is told."""

    kinds: tuple[Any, ...] = ("branch",)
    groups: Any = 1  # or "pairs"
    reorder: int = 0
    reestimate: bool = False
    fast: bool = False
    memory: float | None = None  # GiB
    estimate: bool = False

    def numbers(self) -> dict[str, Any]:
        """Those on which the numbers depend."""
        return {name: value for name, value in asdict(self).items() if name != "memory"}


@dataclass(frozen=True)
class Options:
    """What single measures are told."""

    lesion: LesionOptions = LesionOptions()
    networks: tuple[str, ...] = ()  # of gradient and shattering; their own default where there is none


@dataclass(frozen=True)
class Work:
    """What a measure may ask for."""

    subject: Subject
    batches: Batches
    loss: Function
    metric: Function | None
    options: Options
    progress: Progress
    folder: Path | None  # where a measure that takes long keeps what it has


@dataclass(frozen=True)
class Measure:
    """One measure.

    Attributes:
        call: how it is called.
        targets: whether it needs targets.
        answer: its sentences.
        shown: the columns that are printed.
        rows: which rows are printed.
        own_progress: whether it tells how far it is itself, rather than by the batches that it takes.
    """

    call: Callable[[Work], pd.DataFrame]
    targets: bool
    answer: Callable[[pd.DataFrame], Iterator[str]]
    shown: tuple[Shown, ...]
    rows: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table
    own_progress: bool = False


def _plain(name: str) -> Callable[[Work], pd.DataFrame]:
    def call(work: Work) -> pd.DataFrame:
        return getattr(measure, name)(work.subject.program, work.subject.skips, work.batches)

    return call


def _of_loss(name: str) -> Callable[[Work], pd.DataFrame]:
    def call(work: Work) -> pd.DataFrame:
        return getattr(measure, name)(work.subject.program, work.subject.skips, work.batches, work.loss)

    return call


def _lesion(work: Work) -> pd.DataFrame:
    options, exact, skips = work.options.lesion, work.subject.program, work.subject.skips
    program = faster(exact) if options.fast else exact
    table = measure.lesion(
        program,
        skips,
        work.batches,
        work.loss,
        metric=work.metric,
        kinds=options.kinds,
        groups=options.groups,
        reorder=options.reorder,
        reestimate=options.reestimate,
        memory=options.memory,
        progress=work.progress,
        folder=work.folder,
    )
    if options.fast:
        table.attrs["deviation"] = deviation(exact, program, skips, work.batches, work.loss)
    return table


def _layers(work: Work) -> pd.DataFrame:
    options, program = work.options.lesion, work.subject.program
    return measure.layers(
        program,
        work.batches,
        work.loss,
        metric=work.metric,
        reestimate=options.reestimate,
        memory=options.memory,
        progress=work.progress,
        folder=work.folder,
    )


def _gradient(work: Work) -> pd.DataFrame:
    networks = work.options.networks or ("as it is",)
    return measure.gradient(work.subject.program, work.subject.skips, work.batches, work.loss, networks)


def _shattering(work: Work) -> pd.DataFrame:
    networks = work.options.networks or ("as it is", "twin")
    return measure.shattering(work.subject.program, work.subject.skips, work.batches, networks)


def _estimate(work: Work) -> pd.DataFrame:
    probe = work.loss.probe if isinstance(work.loss, Named) else None
    return measure.estimate(work.subject.program, work.subject.skips, work.batches, work.loss, probe=probe)


def _probe(work: Work) -> pd.DataFrame:
    learnt, held = quartered(work.subject.program, work.batches)
    return measure.probe(work.subject.program, work.subject.skips, learnt, held)


def _way_of_skips(table: pd.DataFrame) -> pd.DataFrame:
    """Skips alone: a network has many more weight layers than anybody reads."""
    skips = table[table["what"] == "skip"]
    return skips if len(skips) else table


_ID = Shown("skip", "id")
MEASURES: Mapping[str, Measure] = {
    "contribution": Measure(
        _plain("contribution"),
        False,
        answers.contribution,
        (_ID, Shown("‖F‖/‖x‖", "ratio", "std"), Shown("cosine", "cosine", "std"), Shown("growth", "growth", "std")),
    ),
    "clipping": Measure(
        _plain("clipping"),
        False,
        answers.clipping,
        (
            _ID,
            Shown("then", "activation", "text"),
            Shown("entries removed", "entries", "share"),
            Shown("energy removed", "energy", "share"),
            Shown("left of route", "route_kept"),
        ),
    ),
    "gradient": Measure(
        _gradient,
        True,
        answers.gradient,
        (
            Shown("skip", "name"),
            Shown("network", "network", "text"),
            Shown("‖∂loss‖ at merge", "gradient_norm", "std"),
            Shown("by shortcut", "shortcut_norm"),
            Shown("by branch", "branch_norm"),
        ),
        _way_of_skips,
    ),
    "lesion": Measure(
        _lesion,
        True,
        answers.lesion,
        (
            _ID,
            Shown("deleted", "kind", "text"),
            Shown("batch norm", "batchnorm", "text"),
            Shown("loss change", "loss_change", "interval"),
            Shown("metric change", "metric_change", "interval"),
        ),
        own_progress=True,
    ),
    "layers": Measure(
        _layers,
        True,
        answers.lesion,
        (
            Shown("layer", "id"),
            Shown("batch norm", "batchnorm", "text"),
            Shown("loss change", "loss_change", "interval"),
            Shown("metric change", "metric_change", "interval"),
        ),
        own_progress=True,
    ),
    "estimate": Measure(
        _estimate,
        True,
        answers.estimate,
        (
            _ID,
            Shown("loss change", "loss_change"),
            Shown("first order", "first_order"),
            Shown("curvature", "curvature"),
        ),
    ),
    "lengths": Measure(
        _of_loss("lengths"),
        True,
        answers.lengths,
        (
            Shown("branches on the path", "length"),
            Shown("share of gradient", "weight", "share"),
            Shown("share of paths", "path_share", "share"),
        ),
    ),
    "shattering": Measure(
        _shattering,
        False,
        answers.shattering,
        (
            Shown("network", "network", "text"),
            Shown("distance", "distance"),
            Shown("correlation", "correlation", "std"),
        ),
    ),
    "similarity": Measure(
        _plain("similarity"),
        False,
        answers.similarity,
        (Shown("from", "id"), Shown("to", "other"), Shown("CKA", "cka")),
        answers.neighbours,
    ),
    "probe": Measure(
        _probe,
        True,
        answers.probe,
        (_ID, Shown("accuracy", "accuracy", "interval"), Shown("on what it learnt", "train_accuracy")),
    ),
    "spectrum": Measure(
        _plain("spectrum"),
        False,
        answers.spectrum,
        (
            _ID,
            Shown("network", "network", "text"),
            Shown("largest", "largest"),
            Shown("smallest", "smallest"),
            Shown("mean square", "mean_square", "std"),
            Shown("condition", "condition"),
        ),
    ),
    "linearity": Measure(
        _plain("linearity"),
        False,
        answers.linearity,
        (
            _ID,
            Shown("not linear", "nonlinearity", "share"),
            Shown("bend", "bend"),
            Shown("from identity", "distance_from_identity"),
        ),
    ),
    "cost": Measure(
        _plain("cost"),
        False,
        answers.cost,
        (
            _ID,
            Shown("held", "held_bytes", "bytes"),
            Shown("over ops", "held_ops"),
            Shown("branch ms", "branch_ms"),
            Shown("shortcut ms", "shortcut_ms"),
            Shown("of time", "share_of_time", "share"),
        ),
    ),
}
ONE_PASS = ("contribution", "clipping", "gradient")
