"""Do deep blocks learn features, or is what they add useful noise?

One network, ResNet v1, of which more or less learns; nothing else differs, the weights at the start included:

- `trained`: all of it.
- `deep-frozen`: the convolutions in the deeper half of the blocks keep their random initial weights.
- `frozen`: those in every block do. Stem, norms and head are trained, as they are in `deep-frozen`.
- `empty`: branches give zero, so that stem, shortcuts and head are all there is: what any branch, random or not,
  has to be held against.

Of each trained network, a branch is replaced as it enters its merge: by zeros, by its mean, by normal noise of its
own mean and variance in each channel, or by the branch of another sample, which has everything that a branch has
except that it speaks of this sample. A branch of useful noise would not be missed when other noise stands in; a
feature is worst when it is another sample's. Linear classifiers on the output of each block say where the classes
part. In `trained`, besides, the convolutions of one block at a time go back to their initial values, or to new
random ones, with all batch norm statistics estimated anew.

Hypotheses: some layers can go back to where they began without harm, others cannot (Zhang, Bengio and Singer 2019,
arXiv:1902.01996, §3); random layers whose norms alone are trained already do far better than chance, and deeper ones
better (Frankle, Schwab and Morcos 2020, arXiv:2003.00152, §4; they freeze stem and head too); classes part step by
step along the depth (Alain and Bengio 2016, arXiv:1610.01644, §4).
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pandas as pd
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from skiplab import measure
from skiplab.data import DataSet, batches, digits
from skiplab.measure.choices import Kind
from skiplab.models.residual import PlainBlock
from skiplab.models.resnet import ResNet, resnet
from skiplab.report.figure_spec import TEST_ERROR, TRAIN_ERROR, Axis, Figure
from skiplab.stats.intervals import paired, student
from skiplab.study.charts import CURVES
from skiplab.study.claims import Claim, agreement
from skiplab.study.grid import Report
from skiplab.study.networks import WIDTH, estimated_cost, is_valid, network_key
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import (
    SAMPLES,
    RunContext,
    build_with_seed,
    capture_and_find,
    error_rate,
    save_tables,
    train_network,
)
from skiplab.study.sentences import (
    compare_shares,
    format_difference,
    format_headline,
    format_points,
    select_rows,
    values_by_seed,
)
from skiplab.training.fit import Recipe, evaluate

TRAINED, DEEP_FROZEN, FROZEN, EMPTY = VARIANTS = ("trained", "deep-frozen", "frozen", "empty")
REPLACED: dict[Kind, str] = {"branch": "zeros", "mean": "mean", "noise": "noise", "shuffle": "another sample's"}
OTHER_SEED = 1000  # added to a seed for random weights that are not the initial ones
RECIPE = Recipe(epochs=10, batch_size=128, learning_rate=0.1)
GRIDS = {
    "quick": Grid(axes={"depth": (14, 32)}, recipe=replace(RECIPE, epochs=6)),
    "default": Grid(axes={"depth": (8, 20, 44)}, recipe=RECIPE),
    "full": Grid(axes={"depth": (8, 20, 56)}, seeds=5, recipe=replace(RECIPE, epochs=20)),
}


def build(variant: str, depth: int) -> ResNet:
    """The network, with what does not learn marked as such."""
    model = resnet(depth, width=WIDTH, in_channels=1)
    blocks = blocks_of(model)
    start = {TRAINED: len(blocks), DEEP_FROZEN: len(blocks) // 2}.get(variant, 0)
    for block in blocks[start:]:
        convolutions = convolutions_of(block)
        for convolution in convolutions:
            convolution.weight.requires_grad_(False)
        if variant == EMPTY:  # the norm after a zero gives its bias, which is zero and stays so
            nn.init.zeros_(convolutions[-1].weight)
            block.requires_grad_(False)
    return model


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks in order, whatever their stage."""
    return [module for module in model.modules() if isinstance(module, PlainBlock)]


def convolutions_of(block: nn.Module) -> list[nn.Conv2d]:
    return [module for module in block.modules() if isinstance(module, nn.Conv2d)]


def work(settings: Settings, folder: Path, report: Report) -> None:
    """One network: how much of it learns, its depth and seed."""
    variant, seed, data = settings["variant"], settings["seed"], digits()

    def built(seed: int) -> nn.Module:
        return build_with_seed(lambda: build(variant, settings["depth"]), seed)

    model = built(seed)
    tables, network = train_network(model, data, RunContext(settings, folder, report))
    learning = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    tables["runs"] = tables["runs"].assign(trained_parameters=learning)
    if network is not None:
        report(0.9, "measuring")
        tables |= measure_blocks(network, data)
        if variant == TRAINED:
            others = {"initial": model, "new random": built(seed + OTHER_SEED)}
            tables["reset"] = pd.concat([reset_table(network, other, data, name) for name, other in others.items()])
    save_tables(tables, folder)


def measure_blocks(model: nn.Module, data: DataSet) -> Tables:
    """Tables lesion and probe, as in `skiplab.measure`, with the number of the block, from 1, and its half."""
    program, skips = capture_and_find(model, data)
    test, learn = list(batches(data.test, SAMPLES)), list(batches(data.train, SAMPLES))
    lesion = measure.lesion(program, skips, test, F.cross_entropy, error_rate, kinds=list(REPLACED))
    lesion = lesion.rename(columns=lambda name: name.replace("metric", "error")).drop(columns="k")
    probe = measure.probe(program, skips, learn, test)
    probe = probe[~probe["id"].isin(["input", "output"])]  # of other features than a block's
    return {
        "lesion": with_block_number(lesion.assign(replaced_by=lesion["kind"].map(REPLACED))),
        "probe": with_block_number(probe),
    }


def with_block_number(table: pd.DataFrame) -> pd.DataFrame:
    """With the number of the block, from 1, and the half of the network in which it lies."""
    block = table["order"].rank(method="dense").astype(int)
    deep = block > block.max() // 2
    return table.assign(block=block, half=deep.map({False: "shallower", True: "deeper"}))


def reset_table(model: nn.Module, other: nn.Module, data: DataSet, to: str) -> pd.DataFrame:
    """Change of the test error when one block's convolutions get the weights that they have in `other`.

    Against the network as trained. Statistics of batch norms are estimated anew in both, on one batch of the
    training part: other weights give values of another scale, and that alone shall not count.
    """
    x, _ = next(batches(data.train, SAMPLES))
    theirs = blocks_of(other)

    def error(number: int | None) -> float:
        copy = deepcopy(model)
        if number is not None:
            for mine, its in zip(
                convolutions_of(blocks_of(copy)[number]), convolutions_of(theirs[number]), strict=True
            ):
                mine.load_state_dict(its.state_dict())
        update_bn([x], copy)
        return evaluate(copy, data.test)[1]

    whole, stage = error(None), len(theirs) // 3
    rows = [{"block": i + 1, "first_of_stage": i % stage == 0, "error": error(i)} for i in range(len(theirs))]
    table = pd.DataFrame(rows)
    return table.assign(reset_to=to, error_change=table["error"] - whole)


def sentences(tables: Tables) -> Iterator[str]:
    """Of the deepest networks of the grid: what the deeper blocks learn, what they carry, and where classes part."""
    runs, deepest = tables["runs"], int(tables["runs"]["depth"].max())
    yield from _learning_sentences(runs, deepest)
    if "lesion" in tables:
        yield from _replacement_sentences(tables["lesion"], deepest)
    for variant in (FROZEN, EMPTY):  # of the deeper half alone the first sentence speaks
        if {TRAINED, variant} <= set(runs["variant"]):
            yield compare_shares(
                runs, network_key(variant, deepest), network_key(TRAINED, deepest), "test_error", "test error"
            )
    if "probe" in tables:
        for variant in (TRAINED, FROZEN):
            yield from _probe_sentences(tables["probe"], variant, deepest)
    if "reset" in tables:
        yield from _reset_sentences(tables["reset"], deepest)


def _learning_sentences(runs: pd.DataFrame, depth: int) -> Iterator[str]:
    error = {name: values_by_seed(runs, "test_error", network_key(name, depth)) for name in runs["variant"].unique()}
    where = f"At {depth} layers"
    if {DEEP_FROZEN, TRAINED} <= error.keys():
        yield format_headline(
            paired(error[DEEP_FROZEN], error[TRAINED]),
            f"{where}, what the deeper half of the blocks learns counts: its weights left at random cost test error",
            f"{where}, the deeper half of the blocks is better left at random weights than trained",
            f"{where}, the deeper half of the blocks is not shown to learn what counts: test error with its weights "
            "left at random against trained",
        )
    if {FROZEN, EMPTY} <= error.keys():
        yield format_headline(
            paired(error[FROZEN], error[EMPTY]),
            f"{where}, random branches (`{FROZEN}`) are worse than none (`{EMPTY}`)",
            f"{where}, even random branches are useful: the test error with all weights in them left at random "
            f"(`{FROZEN}`) against no branches (`{EMPTY}`)",
            f"{where}, random branches (`{FROZEN}`) are not shown to differ from none (`{EMPTY}`)",
        )


def _replacement_sentences(lesion: pd.DataFrame, depth: int) -> Iterator[str]:
    """What stands in for a branch in the deeper half, on average over its blocks."""
    for variant in (TRAINED, FROZEN):
        place = {**network_key(variant, depth), "half": "deeper"}
        if select_rows(lesion, place).empty:
            continue
        change = {kind: values_by_seed(lesion, "error_change", {**place, "kind": kind}) for kind in REPLACED}
        told = ", ".join(f"{format_points(student(change[kind]))} with {name}" for kind, name in REPLACED.items())
        its = f"{variant}-{depth}, deeper half"
        yield format_headline(
            paired(change["shuffle"], change["branch"]),
            f"{its}: branches say something of their own sample, as features do: another sample's branch is worse than "
            "none",
            f"{its}: another sample's branch is better than none, so its being a branch counts more than its sample",
            f"{its}: another sample's branch is not shown to differ from none",
        )
        yield format_headline(
            paired(change["noise"], change["branch"]),
            f"{its}: noise of a branch's own mean and variance is worse than no branch, so it is not as noise that "
            "branches are of use",
            f"{its}: noise of a branch's own mean and variance is better than no branch",
            f"{its}: noise of a branch's own mean and variance is not shown to differ from no branch",
        )
        yield f"{its}: one branch replaced raises the test error by {told}."


def _probe_sentences(probe: pd.DataFrame, variant: str, depth: int) -> Iterator[str]:
    """What a linear classifier gains along the deeper half."""
    own = select_rows(probe, network_key(variant, depth))
    if own.empty:
        return
    deep = own[own["half"] == "deeper"]["block"]
    first, last = (values_by_seed(own, "accuracy", {"block": block}) for block in (deep.min() - 1, deep.max()))
    yield format_headline(
        paired(last, first),
        f"{variant}-{depth}: the deeper half of the blocks parts the classes further; held-out accuracy of a linear "
        "classifier behind its last block against the block before its first",
        f"{variant}-{depth}: behind the deeper half of the blocks a linear classifier tells the classes worse than "
        "before it",
        f"{variant}-{depth}: the deeper half of the blocks is not shown to part the classes further",
    )


def _reset_sentences(table: pd.DataFrame, depth: int) -> Iterator[str]:
    table = table[table["depth"] == depth]
    initial, new = (values_by_seed(table, "error_change", {"reset_to": to}) for to in ("initial", "new random"))
    yield (
        f"The convolutions of one block of trained-{depth} put back change the test error, on average over blocks, "
        f"by {format_points(student(initial))} with their initial weights and {format_points(student(new))} with new "
        "random ones."
    )


def claims(tables: Tables) -> Iterator[Claim]:
    runs, depths = tables["runs"], sorted(tables["runs"]["depth"].unique())
    deepest, shallowest = int(depths[-1]), int(depths[0])
    if "reset" in tables:
        yield from _reset_claims(tables["reset"][tables["reset"]["depth"] == deepest], deepest)
    if shallowest < deepest and FROZEN in set(runs["variant"]):
        deep, shallow = (
            values_by_seed(runs, "test_error", network_key(FROZEN, depth)) for depth in (deepest, shallowest)
        )
        found = paired(deep, shallow)
        yield Claim(
            claim="With random convolutions and trained norms, deeper ResNets do better (on CIFAR-10 up to 82 % "
            "right at 866 layers, norms alone being trained).",
            source="Frankle et al. 2020, arXiv:2003.00152, abstract and §4",
            found=f"test error of {FROZEN}, {deepest} layers against {shallowest}; stem and head are trained too here: "
            f"{format_difference(found)}",
            agrees=agreement(found, "below"),
        )
    own = select_rows(tables["probe"], network_key(TRAINED, deepest)) if "probe" in tables else pd.DataFrame()
    if len(own):
        ranks = own.groupby("seed")[["block", "accuracy"]].apply(lambda t: t["block"].corr(t["accuracy"], "spearman"))
        found = student(ranks)
        interval = f" (95 % interval {found.low:.2f} to {found.high:.2f})" if found.known else ""
        yield Claim(
            claim="How well a linear classifier separates the classes grows monotonically along the depth.",
            source="Alain and Bengio 2016, arXiv:1610.01644, abstract and §4",
            found=f"rank correlation of its accuracy with the number of the block {found.mean:.2f}{interval}; 1 "
            "would be monotone",
            agrees=agreement(found, "above"),
        )


def _reset_claims(table: pd.DataFrame, depth: int) -> Iterator[Claim]:
    initial, new = (values_by_seed(table, "error_change", {"reset_to": to}) for to in ("initial", "new random"))
    found = paired(new, initial)
    yield Claim(
        claim="Many layers can be put back to their initial weights without harm, and not to new random ones.",
        source="Zhang et al. 2019, arXiv:1902.01996, abstract and §3",
        found=f"trained-{depth}, convolutions of one block at new random against initial weights: "
        f"{format_difference(found)}",
        agrees=agreement(found, "above"),
    )
    first, later = (
        values_by_seed(table, "error_change", {"reset_to": "initial", "first_of_stage": is_so})
        for is_so in (True, False)
    )
    if len(later):
        found = paired(first, later)
        yield Claim(
            claim="In ResNets it is the first block of a stage whose initial weights do harm, not those after it.",
            source="Zhang et al. 2019, arXiv:1902.01996, §3",
            found=f"trained-{depth}, first blocks of stages against the others: {format_difference(found)}",
            agrees=agreement(found, "above"),
        )


_BLOCK, _RISE = Axis("block", "block, from the input"), Axis("error_change", "rise in test error", "change")
FIGURES = (
    Figure(
        name="error-by-depth",
        heading="Error, by how much of the network learns",
        how="One point a seed; the tick is their mean, the line its 95 % interval (Student's t). A cross is a run that "
        "diverged. Norms, stem and head learn in all but `empty`, whose branches give zero.",
        chart="points",
        table="runs",
        x=Axis("depth", "weight layers", "steps"),
        y=(TRAIN_ERROR, TEST_ERROR),
    ),
    *(
        Figure(
            name=f"replaced-{variant}",
            heading=f"A branch of the {variant} network replaced",
            how="Rise in test error when the branch of one block enters its merge as zeros, as its mean, as normal "
            "noise of its own mean and variance in each channel, or as that of another sample; nothing is retrained.",
            chart="lines",
            table="lesion",
            x=_BLOCK,
            y=(_RISE,),
            by="replaced_by",
            panel="depth",
            where={"variant": variant},
        )
        for variant in (TRAINED, FROZEN)
    ),
    Figure(
        name="probe-by-depth",
        heading="Where the classes part",
        how="Held-out accuracy of a linear classifier on the output of each block, averaged over positions. The "
        "number of channels doubles at each third of the blocks, which helps a classifier by itself.",
        chart="lines",
        table="probe",
        x=_BLOCK,
        y=(Axis("accuracy", "accuracy of a linear classifier", "share"),),
        panel="depth",
    ),
    Figure(
        name="reset",
        heading="One block's convolutions put back",
        how="Rise in test error of the trained network when the convolutions of one block get back their initial "
        "weights, or new random ones; norms keep their weights, and their statistics are estimated anew.",
        chart="lines",
        table="reset",
        x=_BLOCK,
        y=(_RISE,),
        by="reset_to",
        panel="depth",
    ),
    replace(CURVES, panel="depth"),
    Figure(
        name="replaced-numbers",
        heading="Replaced branches in numbers",
        how="One row a seed.",
        chart="table",
        table="lesion",
        folded=True,
    ),
)

STUDY = Study(
    name="noise",
    variants=VARIANTS,
    grids=GRIDS,
    work=work,
    sentences=sentences,
    figures=FIGURES,
    claims=claims,
    is_valid=is_valid,
    estimated_cost=estimated_cost,
    text=__doc__,
)
