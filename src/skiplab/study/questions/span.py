"""Skip over one, two or three layers: does it matter?

All networks have the same layers and, for each seed, the same initial weights; what differs is around how many of
them each skip connection goes, and where the nonlinearities lie: `plain` (none), `span1-post` to `span3-post` (ResNet
v1, a ReLU after each merge) and `span1-pre` to `span3-pre` (ResNet v2, nothing after it). Where a stage has no whole
number of blocks of three layers, those variants are left out: depth 18n + 2 has them all.

`span1-post` is a case of its own. Its block is ReLU(x + Wx) = ReLU((1 + W)x): one layer with its ReLU, as in `plain`.
`find` therefore lists its sums as foldable and not as skip connections, and no path through it has fewer
nonlinearities. It can compute nothing that `plain` cannot; where it trains better, that is the parametrization alone:
weight decay and initial weights around the identity in place of zero, and a norm for W in place of 1 + W.

Hypotheses: a shortcut around a single layer, y = Wx + x, has not been observed to have advantages (He et al. 2016,
arXiv:1512.03385, §3.2); of blocks with one to four 3×3 convolutions, pre-activated, as many parameters in all, those
with two are best (Zagoruyko and Komodakis 2016, arXiv:1605.07146, §3 and Table 3).
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from skiplab.data import DataSet, digits
from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure
from skiplab.stats.intervals import paired, paired_ratio, student
from skiplab.study import networks
from skiplab.study.charts import CENSUS, CURVES, GRADIENT, HOW_POINTS
from skiplab.study.claims import Claim, agreement
from skiplab.study.grid import Report
from skiplab.study.networks import digit_network, estimated_cost, network_key
from skiplab.study.question import Grid, Settings, Study, Tables, network_name
from skiplab.study.run_cell import (
    STRUCTURE,
    RunContext,
    capture_and_find,
    measure_gradients,
    measure_structure,
    save_tables,
    split_gradient,
    train_network,
)
from skiplab.study.sentences import (
    format_difference,
    format_headline,
    format_percent,
    format_ratio,
    select_rows,
    values_by_seed,
)
from skiplab.training.fit import Recipe

PLAIN, LINEAR = "plain", "span1-post"
VARIANTS: dict[str, Any] = {  # options of `resnet`
    PLAIN: {"skip": None},
    **{f"span{n}-{where}": {"span": n, "placement": where} for where in ("post", "pre") for n in (1, 2, 3)},
}
RECIPE = Recipe(epochs=10, batch_size=128, learning_rate=0.1)
GRIDS = {
    "quick": Grid(axes={"depth": (20, 38)}, recipe=replace(RECIPE, epochs=5)),
    "default": Grid(axes={"depth": (20, 38)}, recipe=RECIPE),
    "full": Grid(axes={"depth": (20, 38, 56)}, seeds=5, recipe=RECIPE),
}


def work(settings: Settings, folder: Path, report: Report) -> None:
    """A network of one span, placement, depth and seed."""
    model = digit_network(settings, **VARIANTS[settings["variant"]])
    data = digits()
    tables = {
        "gradient": measure_gradients(model, data),
        **(shared_tables(model, data) if not settings["seed"] else {}),
    }
    trained, _ = train_network(model, data, RunContext(settings, folder, report))
    save_tables({**tables, **trained}, folder)


def shared_tables(model: nn.Module, data: DataSet) -> Tables:
    """What every seed has alike, so that the first one's is enough; census with the number of foldable sums."""
    tables = measure_structure(model, data)
    foldable = sum(apart.reason == "foldable" for apart in capture_and_find(model, data)[1].non_skips)
    return {**tables, "census": tables["census"].assign(foldable=foldable)}


def is_valid(settings: Settings) -> bool:
    """Whether a stage has a whole number of blocks; UsageError for a depth that no network has."""
    networks.is_valid(settings)
    return (settings["depth"] - 2) // 3 % VARIANTS[settings["variant"]].get("span", 1) == 0


def sentences(tables: Tables) -> Iterator[str]:
    """For the deepest networks of the grid: spans against each other, then each against plain."""
    runs = tables["runs"]
    deepest = int(runs["depth"].max())
    there = list(dict.fromkeys(runs[runs["depth"] == deepest]["variant"]))
    for where in ("post", "pre"):
        yield from _span_sentences(runs, [name for name in there if name.endswith(where)], deepest)
    yield from _linear_sentences(tables, there, deepest)
    for other in there if PLAIN in there else ():
        if other not in (PLAIN, LINEAR):
            yield _plain_sentence(runs, other, deepest)
    if PLAIN in there and len(there) > 1:
        yield _gradient_sentence(tables["gradient"], [name for name in there if name != PLAIN], deepest)


def _span_sentences(runs: pd.DataFrame, variants: list[str], depth: int) -> Iterator[str]:
    """All pairs of spans of one placement."""
    if len(variants) < 2:
        return
    errors = {name: values_by_seed(runs, "test_error", network_key(name, depth)) for name in variants}
    reached = ", ".join(f"{format_percent(student(error))} with {_span_name(name)}" for name, error in errors.items())
    pairs = [(a, b) for i, a in enumerate(variants) for b in variants[i + 1 :]]
    changes = {pair: paired(errors[pair[0]], errors[pair[1]]) for pair in pairs}
    shown = [pair for pair, change in changes.items() if change.excludes(0)]
    answer = "matters" if shown else "is not shown to matter"
    where = "post" if variants[0].endswith("post") else "pre"
    yield f"The span of {where}-activation skips at {depth} layers {answer} for the test error: {reached}."
    for a, b in pairs:
        sentence = f"{_span_name(a)} against {_span_name(b)} ({where}-activation, {depth} layers)"
        change = changes[a, b]
        yield format_headline(
            change, f"{sentence} is worse", f"{sentence} is better", f"{sentence} is not shown to differ"
        )


def _linear_sentences(tables: Tables, there: list[str], depth: int) -> Iterator[str]:
    """What the special case shows: a network that is plain once it is folded."""
    if LINEAR not in there:
        return
    census = select_rows(tables["census"], network_key(LINEAR, depth)).iloc[0]
    text = (
        f"{LINEAR}-{depth} has {int(census['skips'])} skip connections: its {int(census['foldable'])} sums are linear "
        "before their ReLU, and each is a single layer in disguise"
    )
    if PLAIN not in there:
        yield f"{text}."
        return
    plain = select_rows(tables["census"], network_key(PLAIN, depth)).iloc[0]
    yield (
        f"{text}; its lightest path has {int(census['fewest'])} nonlinearities, {PLAIN}-{depth}'s "
        f"{int(plain['fewest'])}. So, once trained, {LINEAR} computes nothing that {PLAIN} could not."
    )
    for column, what in (("test_error", "test error"), ("train_error", "training error")):
        own, other = (values_by_seed(tables["runs"], column, network_key(name, depth)) for name in (LINEAR, PLAIN))
        reached = f"{what} {format_percent(student(own))} against {format_percent(student(other))}"
        yield format_headline(
            paired(own, other),
            f"Yet it trains worse than {PLAIN}, {reached}",
            f"Yet it trains better than {PLAIN}, which its other parametrization alone can explain, {reached}",
            f"Nor is it shown to train otherwise than {PLAIN}, {reached}",
        )


def _plain_sentence(runs: pd.DataFrame, other: str, depth: int) -> str:
    own, plain = (values_by_seed(runs, "test_error", network_key(name, depth)) for name in (other, PLAIN))
    names = f"{network_name(network_key(other, depth))} against {PLAIN}-{depth}, {format_percent(student(plain))}"
    return format_headline(paired(own, plain), f"{names}: worse", f"{names}: better", f"{names}: not shown to differ")


def _gradient_sentence(gradient: pd.DataFrame, others: list[str], depth: int) -> str:
    rows = gradient[gradient["order"] == gradient["order"].min()]
    plain = values_by_seed(rows, "gradient_norm", network_key(PLAIN, depth))
    ratios = {
        name: paired_ratio(plain, values_by_seed(rows, "gradient_norm", network_key(name, depth))) for name in others
    }
    told = ", ".join(f"{format_ratio(ratio)} that in {name}" for name, ratio in ratios.items())
    return f"At initialization, the first layer's gradient in {PLAIN}-{depth} is {told}."


def _span_name(variant: str) -> str:
    """ "span1-post" is a span of 1."""
    return f"span {variant[len('span')]}"


def claims(tables: Tables) -> Iterator[Claim]:
    runs = tables["runs"]
    deepest = int(runs["depth"].max())
    there = set(runs[runs["depth"] == deepest]["variant"])
    if {PLAIN, LINEAR} <= there:
        change = paired(*(values_by_seed(runs, "test_error", network_key(name, deepest)) for name in (LINEAR, PLAIN)))
        yield Claim(
            claim="A shortcut around a single layer, y = Wx + x, has no observed advantage.",
            source="He et al. 2016, arXiv:1512.03385, §3.2",
            found=f"test error of {LINEAR} against {PLAIN} at {deepest} layers: {format_difference(change)}",
            agrees=agreement(change, "above"),
        )
    for span, theirs in ((1, "6.69"), (3, "5.65")):
        if {f"span{span}-pre", "span2-pre"} <= there:
            errors = [values_by_seed(runs, "test_error", network_key(f"span{n}-pre", deepest)) for n in (span, 2)]
            change = paired(*errors)
            yield Claim(
                claim=f"Blocks of two 3×3 convolutions are better than of {span} (WRN-40-2 on CIFAR-10, median of "
                f"five runs: 5.43 % against {theirs} %).",
                source="Zagoruyko and Komodakis 2016, arXiv:1605.07146, Table 3",
                found=f"test error of span {span} against 2, pre-activation, {deepest} layers: "
                f"{format_difference(change)}",
                agrees=agreement(change, "above"),
            )


FIGURES = (
    Figure(
        name="error-by-span",
        heading="Error by span",
        how=HOW_POINTS,
        chart="points",
        table="runs",
        x=Axis("depth", "weight layers", "steps"),
        y=(TRAIN_ERROR, TEST_ERROR),
    ),
    replace(CURVES, panel="depth"),
    GRADIENT,
    *CENSUS[1:],
)

STUDY = Study(
    name="span",
    variants=tuple(VARIANTS),
    grids=GRIDS,
    work=work,
    sentences=sentences,
    figures=FIGURES,
    claims=claims,
    seed_invariant=STRUCTURE,
    postprocess=split_gradient,
    is_valid=is_valid,
    estimated_cost=estimated_cost,
    text=__doc__,
)
