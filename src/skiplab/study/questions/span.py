"""Skip over one, two or three layers: does it matter?

All networks have the same layers and, for each seed, the same initial weights. They differ in the number of layers
that a skip connection spans, and in the place of the nonlinearities: `plain` (no skip connections), `span1-post` to
`span3-post` (ResNet v1, a ReLU after each merge) and `span1-pre` to `span3-pre` (ResNet v2, none after it). Variants
whose blocks do not divide a stage evenly are left out; at depth 18n + 2 all exist.

`span1-post` is special. Its block is ReLU(x + Wx) = ReLU((1 + W)x): one layer with its ReLU, as in `plain`. So `find`
lists its sums as foldable and not as skip connections, and no path through it has fewer nonlinearities. It can compute
nothing that `plain` cannot. If it trains better, the reason is the parametrization alone: weight decay and initial
weights around the identity instead of zero, and a norm of W instead of 1 + W.

Hypotheses: a shortcut around a single layer, y = Wx + x, has shown no advantage (He et al. 2016, arXiv:1512.03385,
§3.2); of pre-activation blocks with one to four 3×3 convolutions, at the same number of parameters, those with two are
best (Zagoruyko and Komodakis 2016, arXiv:1605.07146, §3 and Table 3).
"""

import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pandas as pd
from torch import nn

from skiplab.data import DataSet, digits
from skiplab.stats.intervals import paired, student
from skiplab.study import networks
from skiplab.study.by_seed import depth_range, difference, distinct, ratio, select_rows, values_by_seed
from skiplab.study.charts import CENSUS_TABLES, CURVES_BY_DEPTH, GRADIENT, errors
from skiplab.study.claims import Claim, agreement
from skiplab.study.networks import RECIPE, digit_network, estimated_cost, network_key
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import (
    STRUCTURE,
    RunContext,
    capture_and_find,
    measure_gradients,
    measure_structure,
    split_gradient,
    train_network,
)
from skiplab.study.sentences import compare_shares, format_difference, format_headline, format_percent, format_ratio

PLAIN, LINEAR = "plain", "span1-post"
VARIANTS: dict[str, Any] = {  # options of `resnet`
    PLAIN: {"skip": None},
    **{f"span{n}-{where}": {"span": n, "placement": where} for where in ("post", "pre") for n in (1, 2, 3)},
}
GRIDS = {
    "quick": Grid(axes={"depth": (20, 38)}, recipe=replace(RECIPE, epochs=5)),
    "default": Grid(axes={"depth": (20, 38)}, recipe=RECIPE),
    "full": Grid(axes={"depth": (20, 38, 56)}, seeds=5, recipe=RECIPE),
}


def work(run: RunContext) -> Tables:
    """Train and measure the network of one span, placement, depth and seed."""
    model, data = digit_network(run.settings, **VARIANTS[run.settings["variant"]]), digits()
    gradient = measure_gradients(model, data)
    shared = {} if run.settings["seed"] else shared_tables(model, data)
    trained, _ = train_network(model, data, run)
    return {"gradient": gradient, **shared, **trained}


def shared_tables(model: nn.Module, data: DataSet) -> Tables:
    """The seed-invariant tables; census with the number of foldable sums."""
    tables = measure_structure(model, data)
    foldable = sum(place.reason == "foldable" for place in capture_and_find(model, data)[1].non_skips)
    return {**tables, "census": tables["census"].assign(foldable=foldable)}


def is_valid(settings: Settings) -> bool:
    """Whether blocks divide a stage evenly; raises `UsageError` for a depth that no network has."""
    networks.is_valid(settings)
    return (settings["depth"] - 2) // 3 % VARIANTS[settings["variant"]].get("span", 1) == 0


def sentences(tables: Tables) -> Iterator[str]:
    """For the deepest networks of the grid: spans compared with each other, then each compared with plain."""
    runs = tables["runs"]
    _, deepest = depth_range(runs)
    there = distinct(runs[runs["depth"] == deepest], "variant")
    for where in ("post", "pre"):
        yield from _span_sentences(runs, [name for name in there if name.endswith(where)], deepest)
    yield from _linear_sentences(tables, there, deepest)
    for other in there if PLAIN in there else ():
        if other not in (PLAIN, LINEAR):
            yield compare_shares(
                runs, network_key(other, deepest), network_key(PLAIN, deepest), "test_error", "test error"
            )
    if PLAIN in there and len(there) > 1:
        yield _gradient_sentence(tables["gradient"], [name for name in there if name != PLAIN], deepest)


def _span_sentences(runs: pd.DataFrame, variants: list[str], depth: int) -> Iterator[str]:
    """Whether the span matters for one placement, then all pairs of spans."""
    if len(variants) < 2:
        return
    error = {name: values_by_seed(runs, "test_error", network_key(name, depth)) for name in variants}
    values = ", ".join(f"{format_percent(student(each))} with {_span_name(name)}" for name, each in error.items())
    changes = {(a, b): paired(error[a], error[b]) for a, b in itertools.combinations(variants, 2)}
    clear = any(change.excludes(0) for change in changes.values())
    answer = "the span matters" if clear else "no clear effect of the span"
    where = "post" if variants[0].endswith("post") else "pre"
    yield f"{where.capitalize()}-activation, {depth} layers: {answer}; test error {values}."
    for (a, b), change in changes.items():
        names = f"{_span_name(a)} against {_span_name(b)}"
        yield format_headline(
            change,
            f"{where.capitalize()}-activation, {depth} layers, {names}: worse",
            f"{where.capitalize()}-activation, {depth} layers, {names}: better",
            f"{where.capitalize()}-activation, {depth} layers, {names}: no clear difference",
        )


def _linear_sentences(tables: Tables, there: list[str], depth: int) -> Iterator[str]:
    """The special case: a network that is plain once its sums are folded."""
    if LINEAR not in there:
        return
    census = select_rows(tables["census"], network_key(LINEAR, depth)).iloc[0]
    text = (
        f"{LINEAR}-{depth} has {int(census['skips'])} skip connections: its {int(census['foldable'])} sums are "
        "linear up to the ReLU, so each can be folded into a single layer"
    )
    if PLAIN not in there:
        yield f"{text}."
        return
    plain = select_rows(tables["census"], network_key(PLAIN, depth)).iloc[0]
    yield (
        f"{text}. Its most linear path has {int(census['fewest'])} nonlinearities, that of {PLAIN}-{depth} "
        f"{int(plain['fewest'])}; once trained, {LINEAR} computes nothing that {PLAIN} could not."
    )
    for column, what in (("test_error", "test error"), ("train_error", "training error")):
        own, other = (values_by_seed(tables["runs"], column, network_key(name, depth)) for name in (LINEAR, PLAIN))
        values = f"{what} {format_percent(student(own))} against {format_percent(student(other))}"
        yield format_headline(
            paired(own, other),
            f"{LINEAR} trains worse than {PLAIN}, {values}",
            f"{LINEAR} trains better than {PLAIN}, by its parametrization alone, {values}",
            f"{LINEAR} and {PLAIN} show no clear difference in training, {values}",
        )


def _gradient_sentence(gradient: pd.DataFrame, others: list[str], depth: int) -> str:
    rows = gradient[gradient["order"] == gradient["order"].min()]
    ratios = [ratio(rows, "gradient_norm", network_key(PLAIN, depth), network_key(name, depth)) for name in others]
    parts = ", ".join(f"{format_ratio(each)} that in {name}" for name, each in zip(others, ratios, strict=True))
    return f"At initialization, the first layer's gradient in {PLAIN}-{depth} is {parts}."


def _span_name(variant: str) -> str:
    """ "span 1" for "span1-post"."""
    return f"span {variant[len('span')]}"


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims about a span of one and about the best span, for the deepest networks."""
    runs = tables["runs"]
    _, deepest = depth_range(runs)
    there = set(runs[runs["depth"] == deepest]["variant"])
    if {PLAIN, LINEAR} <= there:
        change = difference(runs, "test_error", network_key(LINEAR, deepest), network_key(PLAIN, deepest))
        yield Claim(
            claim="A shortcut around a single layer, y = Wx + x, has no observed advantage.",
            source="He et al. 2016, arXiv:1512.03385, §3.2",
            found=f"test error of {LINEAR} minus {PLAIN} at {deepest} layers: {format_difference(change)}",
            agrees=agreement(change, "above"),
        )
    for span, theirs in ((1, "6.69"), (3, "5.65")):
        if {f"span{span}-pre", "span2-pre"} <= there:
            own, two = (network_key(f"span{n}-pre", deepest) for n in (span, 2))
            change = difference(runs, "test_error", own, two)
            yield Claim(
                claim=f"Blocks of two 3×3 convolutions are better than of {span} (WRN-40-2 on CIFAR-10, median of "
                f"five runs: 5.43 % against {theirs} %).",
                source="Zagoruyko and Komodakis 2016, arXiv:1605.07146, Table 3",
                found=f"test error of span {span} minus span 2, pre-activation, {deepest} layers: "
                f"{format_difference(change)}",
                agrees=agreement(change, "above"),
            )


FIGURES = (
    errors("error-by-span", "Error by span"),
    CURVES_BY_DEPTH,
    GRADIENT,
    *CENSUS_TABLES,
)

STUDY = Study.from_module(
    __name__, seed_invariant=STRUCTURE, postprocess=split_gradient, is_valid=is_valid, estimated_cost=estimated_cost
)
