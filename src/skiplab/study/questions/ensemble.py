"""Does a residual network behave like many shallow networks?

A network of n blocks has 2ⁿ paths from input to output. If the paths work like an ensemble, losing some of them costs
little: deleting a block removes half of the paths and leaves the others unchanged. In a plain network every layer is on
the only path. `post-activation`, `pre-activation` and `plain` networks, trained in the same way from the same initial
weights, are changed without retraining: one block is deleted (in the plain network one layer, which is less), k random
blocks are deleted together, or k random pairs of blocks are swapped.

Hypothesis: the error rises smoothly with k, deleting one layer destroys the plain network, and short paths carry the
gradient (Veit et al. 2016, arXiv:1605.06431, §4 and §5, on CIFAR-10).

The effect is given in points of test error, and as a share of the margin, which is the chance error minus the error of
the intact network: 0 % is the intact network, 100 % is chance.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from torch.nn import functional as F

from skiplab import measure
from skiplab.analysis.equal_blocks import exchangeable_pairs
from skiplab.analysis.skips import Skips
from skiplab.data import DataSet, batches, digits
from skiplab.graph.program import Program
from skiplab.report.figure_spec import TEST_ERROR, Axis, Figure, lines, points
from skiplab.stats.intervals import paired, student
from skiplab.study.by_seed import distinct, select_rows, values_by_seed
from skiplab.study.charts import CURVES_BY_DEPTH, path_lengths
from skiplab.study.claims import Claim, agreement
from skiplab.study.networks import PLAIN, RECIPE, VARIANTS, digit_network, is_valid, network_key
from skiplab.study.question import Grid, Settings, Study, Tables, network_name
from skiplab.study.run_cell import RunContext, capture_and_find, error_rate, train_network
from skiplab.study.sentences import format_difference, format_number, format_percent, format_points

CHANCE = 0.9  # the error of a guess among ten classes
HARMLESS = 0.01  # less than one point
MIN_MARGIN = 0.1  # below this margin no share of it is computed
RUINED, HARDLY_ANY = 0.5, 0.1  # shares of the margin
DRAWS = 5  # random choices of blocks to delete, and of pairs to swap, for each k
SWAPS = 10  # pairs at most
GRIDS = {
    "quick": Grid(axes={"depth": (20, 56)}, recipe=replace(RECIPE, epochs=6)),
    "default": Grid(axes={"depth": (20, 56)}, seeds=5, recipe=RECIPE),
    "full": Grid(axes={"depth": (20, 56, 110)}, seeds=5, recipe=replace(RECIPE, epochs=15)),
}
OUTCOMES = ("one", "harmless", "half", "swap", "mean_length", "relative_length")


def work(run: RunContext) -> Tables:
    """Train the network of one variant, depth and seed, then delete and swap its blocks."""
    data, model = digits(), digit_network(run.settings, **VARIANTS[run.settings["variant"]])
    tables, trained = train_network(model, data, run)
    outcome = dict.fromkeys(OUTCOMES, float("nan"))
    if trained is not None:
        run.report(0.9, "deleting and swapping")
        lesions = lesion_tables(trained, data, run.settings["seed"])
        outcome |= outcomes(lesions)
        tables |= lesions
    return {**tables, "runs": tables["runs"].assign(**outcome)}


def lesion_tables(model: nn.Module, data: DataSet, seed: int) -> Tables:
    """Tables lesions and, for a network with skips, lengths.

    lesions has one row per changed network: what ("deletion" or "swap"), k (0: the intact network), id, position (of a
    single deletion, from 0 to 1), batchnorm, error and error_change (shares), lost (error_change over the margin, NaN
    if the margin is at most `MIN_MARGIN`).
    """
    program, skips = capture_and_find(model, data)
    test = list(batches(data.test, len(data.test)))
    if len(skips):
        options: dict[str, Any] = {"groups": deletion_groups([skip.id for skip in skips], seed)}
        if pairs := len(exchangeable_pairs(program, skips)):
            options |= {"reorder": min(pairs, SWAPS), "draws": DRAWS}
        several = measure.lesion(program, skips, test, F.cross_entropy, error_rate, seed=seed, **options)
        single = measure.lesion(program, skips, test, F.cross_entropy, error_rate, reestimate=True)
        tables = {"lengths": _length_table(program, skips, data)}
    else:
        several = pd.DataFrame()
        single, tables = measure.layers(program, test, F.cross_entropy, error_rate, reestimate=True), {}
    single["position"] = single.groupby("batchnorm")["order"].rank() / single.groupby("batchnorm")["order"].transform(
        "size"
    )
    table = pd.concat([single, several], ignore_index=True)
    table["what"] = np.where(table["kind"] == "reorder", "swap", "deletion")
    table = table.rename(columns={"metric": "error", "metric_change": "error_change"})
    whole = table["error"] - table["error_change"]
    margin = CHANCE - whole
    table["lost"] = table["error_change"] / margin.where(margin > MIN_MARGIN)
    columns = ["what", "k", "id", "position", "batchnorm", "error", "error_change", "lost"]
    intact = {
        "what": list(dict.fromkeys(table["what"])),
        "k": 0,
        "id": "",
        "batchnorm": "as trained",
        "error_change": 0.0,
        "lost": 0.0,
    }
    start = pd.DataFrame({**intact, "position": float("nan"), "error": whole.iloc[0]})
    return {"lesions": pd.concat([start, table])[columns], **tables}


def deletion_groups(ids: list[str], seed: int) -> list[list[str]]:
    """For several k from 2 to the number of blocks: `DRAWS` random choices of k blocks, without duplicates."""
    generator, drawn = np.random.default_rng(seed), dict[tuple[str, ...], None]()
    steps = dict.fromkeys(round(2 ** (i / 2)) for i in range(2, 40))
    for k in [*(step for step in steps if 1 < step < len(ids)), len(ids)]:
        for _ in range(DRAWS):
            drawn[tuple(ids[i] for i in sorted(generator.choice(len(ids), k, replace=False)))] = None
    return [list(group) for group in drawn]


def _length_table(program: Program, skips: Skips, data: DataSet) -> pd.DataFrame:
    part = [(data.test.x[:128], data.test.y[:128])]
    return measure.lengths(program, skips, part, F.cross_entropy)


def outcomes(tables: Tables) -> dict[str, float]:
    """The outcomes of a run, from its lesions.

    one: rise of the test error after deleting one block, mean over blocks; harmless: share of blocks that cost less
    than a point; half: number of blocks deleted together that costs half of the margin; swap: rise of the test error
    after one swap; mean_length, relative_length: branches on the paths that carry the input's gradient, and as a share
    of all branches.
    """
    table = tables["lesions"][tables["lesions"]["batchnorm"] == "as trained"]
    deleted, swapped = table[table["what"] == "deletion"], table[(table["what"] == "swap") & (table["k"] == 1)]
    one = deleted.loc[deleted["k"] == 1, "error_change"]
    row = {"one": one.mean(), "harmless": (one < HARMLESS).mean(), "swap": swapped["error_change"].mean()}
    if "lengths" in tables:
        lengths = tables["lengths"]
        mean = float((lengths["length"] * lengths["weight"]).sum())
        by_k = deleted.groupby("k")["lost"].mean()
        row |= {"half": crossing(by_k, 0.5), "mean_length": mean, "relative_length": mean / lengths["length"].max()}
    return {name: float(value) for name, value in row.items()}


def crossing(curve: pd.Series, level: float) -> float:
    """The index at which a curve first reaches a level, linearly interpolated; NaN if it does not."""
    places, values = curve.index.to_numpy(float), curve.to_numpy(float)
    above = np.flatnonzero(values >= level)
    if not len(above) or above[0] == 0:
        return float("nan") if not len(above) else float(places[0])
    i = int(above[0])
    share = (level - values[i - 1]) / (values[i] - values[i - 1])
    return float(places[i - 1] + share * (places[i] - places[i - 1]))


def estimated_cost(settings: Settings) -> float:
    """Training, and lesions that are quadratic in depth."""
    depth = settings["depth"]
    return depth * settings["recipe"]["epochs"] + (0 if settings["variant"] == PLAIN else depth**2 / 12)


def sentences(tables: Tables) -> Iterator[str]:
    """Single deletions at each depth; several deletions, swaps and path lengths in the deepest networks."""
    runs = tables["runs"]
    if "lesions" not in tables:
        return
    variants = distinct(runs, "variant")
    residual = [variant for variant in variants if variant != PLAIN]
    depths = sorted(set(runs["depth"]))
    for depth in reversed(depths):
        for variant in variants:
            yield _single_sentence(tables, network_key(variant, depth))
    for depth in reversed(depths) if PLAIN in variants else ():
        for variant in residual:
            plain, network = network_key(PLAIN, depth), network_key(variant, depth)
            change = format_difference(paired(_loss_by_seed(tables, plain), _loss_by_seed(tables, network)))
            what = f"one layer of {network_name(plain)} minus one block of {network_name(network)}"
            yield f"Share of the margin lost, {what}: {change}"
    networks = [network_key(variant, depths[-1]) for variant in residual]
    for network in networks:
        yield from _several_sentences(tables, network)
    for network in networks:
        yield from _path_sentences(tables, network)


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims of Veit et al.: about a layer of the shallowest plain network, and blocks of the deepest residual ones."""
    runs = tables["runs"]
    if "lesions" not in tables:
        return
    variants, depths = distinct(runs, "variant"), sorted(set(runs["depth"]))
    for variant in variants:
        if variant == PLAIN:
            yield _layer_claim(tables, network_key(variant, depths[0]))
            continue
        network = network_key(variant, depths[-1])
        yield _block_claim(tables, network)
        yield _rank_claim(tables, network, "deletion", "deleted", "§4.2 and Fig. 5a")
        yield _rank_claim(tables, network, "swap", "swapped", "§4.3 and Fig. 5b")
        yield _length_claim(tables, network)


def _layer_claim(tables: Tables, network: dict[str, Any]) -> Claim:
    lost = student(_loss_by_seed(tables, network))
    return Claim(
        claim="Deleting any one layer of a plain network (VGG) brings it to chance.",
        source="Veit et al. 2016, arXiv:1605.06431, §4.1 and Fig. 3",
        found=f"deleting one layer of {network_name(network)} costs {format_percent(lost)} of the margin, mean over "
        f"layers (yes: above {100 * RUINED:g} %)",
        agrees=agreement(lost, "above", RUINED),
    )


def _block_claim(tables: Tables, network: dict[str, Any]) -> Claim:
    lost = student(_loss_by_seed(tables, network))
    harmless = student(values_by_seed(tables["runs"], "harmless", network))
    return Claim(
        claim="Deleting one block of a residual network hardly changes its error (110 layers; blocks that change "
        "the resolution excepted).",
        source="Veit et al. 2016, arXiv:1605.06431, §4.1 and Fig. 3",
        found=f"deleting one block of {network_name(network)} costs {format_percent(lost)} of the margin (yes: below "
        f"{100 * HARDLY_ANY:g} %); {format_percent(harmless)} of the blocks cost less than a point",
        agrees=agreement(lost, "below", HARDLY_ANY),
    )


def _rank_claim(tables: Tables, network: dict[str, Any], kind: str, what: str, section: str) -> Claim:
    rank = student(_rank_correlations(tables, network, kind))
    half = student(values_by_seed(tables["runs"], "half", network))
    more = f"; half of the margin is lost after {format_number(half)} blocks" if kind == "deletion" else ""
    return Claim(
        claim=f"The error rises with the number of blocks that are {what}.",
        source=f"Veit et al. 2016, arXiv:1605.06431, {section}",
        found=f"rank correlation of error and number in {network_name(network)}: {format_number(rank)} (1: always "
        f"rises){more}",
        agrees=agreement(rank, "above", 0.0),
    )


def _length_claim(tables: Tables, network: dict[str, Any]) -> Claim:
    length = student(values_by_seed(tables["runs"], "relative_length", network))
    return Claim(
        claim="Short paths carry the gradient of a trained residual network: of 54 blocks, those through 5 to 17.",
        source="Veit et al. 2016, arXiv:1605.06431, §5 and Fig. 6",
        found=f"its paths go through {format_number(length)} of all branches of {network_name(network)} on average; "
        "0.5 if all paths carried equal shares",
        agrees=agreement(length, "below", 0.5),
    )


def _single_sentence(tables: Tables, network: dict[str, Any]) -> str:
    """The effect of one deletion."""
    runs, part = tables["runs"], "layer" if network["variant"] == PLAIN else "block"
    one, harmless = (student(values_by_seed(runs, name, network)) for name in ("one", "harmless"))
    if not one.count:
        return f"No run of {network_name(network)} finished, so nothing was deleted."
    lost, again = (student(_loss_by_seed(tables, network, each)) for each in ("as trained", "re-estimated"))
    share = f"{format_percent(lost)} of the margin ({format_percent(again)} with batch norm re-estimated)"
    if not lost.count:
        share = f"no margin, since the network is less than {100 * MIN_MARGIN:g} points better than chance"
    unclear = " (no clear change)" if one.known and not one.excludes(0) else ""
    return (
        f"Deleting one {part} of {network_name(network)} changes its error by {format_points(one)}{unclear}: "
        f"{share}. {format_percent(harmless)} of its {part}s cost less than a point."
    )


def _several_sentences(tables: Tables, network: dict[str, Any]) -> Iterator[str]:
    """The effect of several deletions or swaps at once."""
    runs, name = tables["runs"], network_name(network)
    half, blocks = student(values_by_seed(runs, "half", network)), _block_count(tables, network)
    yield (
        f"{name} loses half of its margin when {format_number(half)} of its {blocks} blocks are deleted together; "
        f"{_format_rank(tables, network, 'deletion')}."
    )
    swap = student(values_by_seed(runs, "swap", network))
    if not np.isnan(swap.mean):
        unclear = " (no clear change)" if swap.known and not swap.excludes(0) else ""
        yield (
            f"Swapping one random pair of blocks of {name} changes its error by {format_points(swap)}{unclear}; "
            f"{_format_rank(tables, network, 'swap')}."
        )


def _format_rank(tables: Tables, network: dict[str, Any], kind: str) -> str:
    rank = student(_rank_correlations(tables, network, kind))
    unclear = "" if rank.excludes(0) else ", no clear rise"
    return f"rank correlation of error and number of {kind}s {format_number(rank)}{unclear}"


def _path_sentences(tables: Tables, network: dict[str, Any]) -> Iterator[str]:
    """The number of branches on the paths that carry the gradient, and the share of such paths."""
    own = select_rows(tables["lengths"], network)
    if own.empty:
        return
    mean = own.groupby("length", as_index=False)[["weight", "path_share"]].mean()
    low, high = measure.band(mean)
    share = float(mean.loc[mean["length"].between(low, high), "path_share"].sum())
    value = student(values_by_seed(tables["runs"], "mean_length", network))
    yield (
        f"Paths through {format_number(value)} of {_block_count(tables, network)} branches on average carry the "
        f"input's gradient in trained {network_name(network)}; 95 % of it comes by paths through {low} to {high}, "
        f"which are {100 * share:.2g} % of all paths."
    )


def _block_count(tables: Tables, network: dict[str, Any]) -> int:
    return int(select_rows(tables["lesions"], network)["k"].max())


def _loss_by_seed(tables: Tables, network: dict[str, Any], batchnorm: str = "as trained") -> pd.Series:
    """The share of the margin that one deletion costs, by seed."""
    return values_by_seed(tables["lesions"], "lost", {**network, "what": "deletion", "k": 1, "batchnorm": batchnorm})


def _rank_correlations(tables: Tables, network: dict[str, Any], what: str) -> pd.Series:
    """Spearman's rank correlation of error and number of changes, for each seed with at least three numbers."""
    own = select_rows(tables["lesions"], {**network, "what": what, "batchnorm": "as trained"})
    several = {seed: rows for seed, rows in own.groupby("seed") if rows["k"].nunique() > 2}
    ranks = {seed: rows["k"].corr(rows["error"], method="spearman") for seed, rows in several.items()}
    return pd.Series(ranks, dtype=float)


DELETIONS = {"what": "deletion", "batchnorm": "as trained"}
ERROR, LOST = Axis("error", "test error", "share"), Axis("lost", "share of the margin lost", "share")
POSITION = Axis("position", "position in the network")
STATISTICS = Axis("batchnorm", "statistics of batch norm", "steps")
FIGURES = (
    Figure(
        name="deleted",
        heading="Several blocks deleted",
        how="Test error when k random blocks are deleted together, without retraining; in the plain network one "
        "layer. Thin lines are seeds, the thick line is their mean, the band its 95 % interval; 90 % is chance.",
        **lines("lesions", Axis("k", "blocks deleted"), ERROR, panel="depth", where=DELETIONS),
    ),
    Figure(
        name="one-deleted",
        heading="One block deleted, by its position",
        how="Share of the margin that deleting one block (in the plain network one layer) costs: 0 % is the intact "
        "network, 100 % is chance. From input (0) to output (1).",
        **lines("lesions", POSITION, LOST, panel="depth", where={**DELETIONS, "k": 1}),
    ),
    Figure(
        name="statistics",
        heading="With batch norm statistics re-estimated",
        how="A deletion shifts the inputs of later batch norms. One point per deleted block or layer and seed, with "
        "means and 95 % intervals over seeds: with the statistics of the trained network, and with those "
        "re-estimated in the changed network.",
        **points("lesions", STATISTICS, LOST, panel="depth", where={"what": "deletion", "k": 1}),
    ),
    Figure(
        name="swapped",
        heading="Blocks swapped",
        how="Test error when k random pairs of blocks of the same shape are swapped, without retraining.",
        **lines("lesions", Axis("k", "pairs swapped"), ERROR, panel="depth", where={**DELETIONS, "what": "swap"}),
    ),
    path_lengths(
        "Share of the input's gradient (by norm) carried by all paths with a given number of branches, in the trained "
        "network; computed exactly."
    ),
    CURVES_BY_DEPTH,
)

STUDY = Study.from_module(
    __name__,
    outcomes=(
        TEST_ERROR,
        Axis("one", "one deleted, rise", "share"),
        Axis("harmless", "harmless", "share"),
        Axis("half", "half lost at"),
    ),
    is_valid=is_valid,
    estimated_cost=estimated_cost,
)
