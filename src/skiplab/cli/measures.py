"""Every measure in one table: how it is called, what of it is shown, and which sentences it answers with."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab import measure
from skiplab.cli.session import Subject
from skiplab.data.sources import Batches, quartered
from skiplab.measure import summaries
from skiplab.measure.accelerate import deviation, faster
from skiplab.measure.losses import Function, Named
from skiplab.stats.columns import Column

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
    shown: tuple[Column, ...]
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
    networks = work.options.networks or ("original",)
    return measure.gradient(work.subject.program, work.subject.skips, work.batches, work.loss, networks)


def _shattering(work: Work) -> pd.DataFrame:
    networks = work.options.networks or ("original", "plain")
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


_ID = Column("skip", "id")
MEASURES: Mapping[str, Measure] = {
    "contribution": Measure(
        _plain("contribution"),
        False,
        summaries.contribution,
        (_ID, Column("‖F‖/‖x‖", "ratio", "std"), Column("cosine", "cosine", "std"), Column("growth", "growth", "std")),
    ),
    "clipping": Measure(
        _plain("clipping"),
        False,
        summaries.clipping,
        (
            _ID,
            Column("then", "activation", "text"),
            Column("entries removed", "entries", "share"),
            Column("energy removed", "energy", "share"),
            Column("left of route", "route_kept"),
        ),
    ),
    "gradient": Measure(
        _gradient,
        True,
        summaries.gradient,
        (
            Column("skip", "name"),
            Column("network", "network", "text"),
            Column("‖∂loss‖ at merge", "gradient_norm", "std"),
            Column("by shortcut", "shortcut_norm"),
            Column("by branch", "branch_norm"),
        ),
        _way_of_skips,
    ),
    "lesion": Measure(
        _lesion,
        True,
        summaries.lesion,
        (
            _ID,
            Column("deleted", "kind", "text"),
            Column("batch norm", "batchnorm", "text"),
            Column("loss change", "loss_change", "interval"),
            Column("metric change", "metric_change", "interval"),
        ),
        own_progress=True,
    ),
    "layers": Measure(
        _layers,
        True,
        summaries.lesion,
        (
            Column("layer", "id"),
            Column("batch norm", "batchnorm", "text"),
            Column("loss change", "loss_change", "interval"),
            Column("metric change", "metric_change", "interval"),
        ),
        own_progress=True,
    ),
    "estimate": Measure(
        _estimate,
        True,
        summaries.estimate,
        (
            _ID,
            Column("loss change", "loss_change"),
            Column("first order", "first_order"),
            Column("curvature", "curvature"),
        ),
    ),
    "lengths": Measure(
        _of_loss("lengths"),
        True,
        summaries.lengths,
        (
            Column("branches on the path", "length"),
            Column("share of gradient", "weight", "share"),
            Column("share of paths", "path_share", "share"),
        ),
    ),
    "shattering": Measure(
        _shattering,
        False,
        summaries.shattering,
        (
            Column("network", "network", "text"),
            Column("distance", "distance"),
            Column("correlation", "correlation", "std"),
        ),
    ),
    "similarity": Measure(
        _plain("similarity"),
        False,
        summaries.similarity,
        (Column("from", "id"), Column("to", "other"), Column("CKA", "cka")),
        summaries.neighbours,
    ),
    "probe": Measure(
        _probe,
        True,
        summaries.probe,
        (_ID, Column("accuracy", "accuracy", "interval"), Column("on what it learnt", "train_accuracy")),
    ),
    "spectrum": Measure(
        _plain("spectrum"),
        False,
        summaries.spectrum,
        (
            _ID,
            Column("network", "network", "text"),
            Column("largest", "largest"),
            Column("smallest", "smallest"),
            Column("mean square", "mean_square", "std"),
            Column("condition", "condition"),
        ),
    ),
    "linearity": Measure(
        _plain("linearity"),
        False,
        summaries.linearity,
        (
            _ID,
            Column("not linear", "nonlinearity", "share"),
            Column("bend", "bend"),
            Column("from identity", "distance_from_identity"),
        ),
    ),
    "cost": Measure(
        _plain("cost"),
        False,
        summaries.cost,
        (
            _ID,
            Column("held", "held_bytes", "bytes"),
            Column("over ops", "held_ops"),
            Column("branch ms", "branch_ms"),
            Column("shortcut ms", "shortcut_ms"),
            Column("of time", "share_of_time", "share"),
        ),
    ),
}
ONE_PASS = ("contribution", "clipping", "gradient")
