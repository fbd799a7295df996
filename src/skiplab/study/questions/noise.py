"""Do deep blocks learn features, or is what they add useful noise?

One network, ResNet v1, of which more or fewer weights are trained; nothing else differs, and the initial weights are
the same:

- `trained`: all weights.
- `deep-frozen`: the convolutions in the deeper half of the blocks keep their random initial weights.
- `frozen`: the convolutions in every block do. Stem, norms and head are trained, as in `deep-frozen`.
- `empty`: branches give zero, so only stem, shortcuts and head remain: the baseline for any branch, random or not.

In each trained network, the value of a branch at its merge is replaced: by zeros, by its mean, by normal noise with its
mean and variance in each channel, or by the branch of another sample, which has all properties of a branch except that
it belongs to another input. If branches added useful noise, other noise would do as well. If they add features, those
of another sample do the most harm. Linear classifiers on the output of each block measure where classes separate. In
`trained`, the convolutions of one block at a time are also reset to their initial values, or to new random ones, with
all batch norm statistics re-estimated.

Hypotheses: some layers can be reset to their initial weights without harm, others cannot (Zhang, Bengio and Singer
2019, arXiv:1902.01996, §3); random layers with trained norms do far better than chance, and deeper networks of them
better (Frankle, Schwab and Morcos 2020, arXiv:2003.00152, §4; they freeze stem and head too); classes separate step by
step along the depth (Alain and Bengio 2016, arXiv:1610.01644, §4).
"""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace

import pandas as pd
from torch import nn
from torch.nn import functional as F
from torch.optim.swa_utils import update_bn

from skiplab import measure
from skiplab.data import DataSet, batches, digits
from skiplab.measure.lesion import Kind
from skiplab.models.residual import PlainBlock
from skiplab.models.resnet import ResNet, resnet
from skiplab.report.figure_spec import Axis, Figure, lines
from skiplab.stats.intervals import paired, student
from skiplab.study.by_seed import depth_range, difference, select_rows, values_by_seed
from skiplab.study.charts import CURVES_BY_DEPTH, HOW_POINTS, errors, numbers
from skiplab.study.claims import Claim, agreement
from skiplab.study.networks import RECIPE, WIDTH, estimated_cost, is_valid, network_key
from skiplab.study.question import Grid, Study, Tables
from skiplab.study.run_cell import (
    SAMPLES,
    RunContext,
    build_with_seed,
    capture_and_find,
    error_rate,
    train_network,
)
from skiplab.study.sentences import compare_shares, format_difference, format_headline, format_points
from skiplab.training.fit import evaluate

TRAINED, DEEP_FROZEN, FROZEN, EMPTY = VARIANTS = ("trained", "deep-frozen", "frozen", "empty")
REPLACED: dict[Kind, str] = {"branch": "zeros", "mean": "mean", "noise": "noise", "shuffle": "another sample's"}
OTHER_SEED = 1000  # added to a seed for random weights that are not the initial ones
GRIDS = {
    "quick": Grid(axes={"depth": (14, 32)}, recipe=replace(RECIPE, epochs=6)),
    "default": Grid(axes={"depth": (8, 20, 44)}, recipe=RECIPE),
    "full": Grid(axes={"depth": (8, 20, 56)}, seeds=5, recipe=replace(RECIPE, epochs=20)),
}


def build(variant: str, depth: int) -> ResNet:
    """The network, with its frozen weights marked by `requires_grad`."""
    model = resnet(depth, width=WIDTH, in_channels=1)
    blocks = blocks_of(model)
    start = {TRAINED: len(blocks), DEEP_FROZEN: len(blocks) // 2}.get(variant, 0)
    for block in blocks[start:]:
        convolutions = convolutions_of(block)
        for convolution in convolutions:
            convolution.weight.requires_grad_(False)
        if variant == EMPTY:  # the norm after a zero gives its bias, which is zero and stays zero
            nn.init.zeros_(convolutions[-1].weight)
            block.requires_grad_(False)
    return model


def blocks_of(model: nn.Module) -> list[nn.Module]:
    """The blocks of all stages, in order."""
    return [module for module in model.modules() if isinstance(module, PlainBlock)]


def convolutions_of(block: nn.Module) -> list[nn.Conv2d]:
    """The convolutions of a block, in order."""
    return [module for module in block.modules() if isinstance(module, nn.Conv2d)]


def work(run: RunContext) -> Tables:
    """Train and measure the network of one variant, depth and seed."""
    variant, seed, data = run.settings["variant"], run.settings["seed"], digits()

    def built(seed: int) -> nn.Module:
        return build_with_seed(lambda: build(variant, run.settings["depth"]), seed)

    model = built(seed)
    tables, network = train_network(model, data, run)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    tables["runs"] = tables["runs"].assign(trained_parameters=trained)
    if network is not None:
        run.report(0.9, "measuring")
        tables |= measure_blocks(network, data)
        if variant == TRAINED:
            others = {"initial": model, "new random": built(seed + OTHER_SEED)}
            tables["reset"] = pd.concat([reset_table(network, other, data, name) for name, other in others.items()])
    return tables


def measure_blocks(model: nn.Module, data: DataSet) -> Tables:
    """Tables lesion and probe as in `skiplab.measure`, with the number and the half of each block."""
    program, skips = capture_and_find(model, data)
    test, learn = list(batches(data.test, SAMPLES)), list(batches(data.train, SAMPLES))
    lesion = measure.lesion(program, skips, test, F.cross_entropy, error_rate, kinds=list(REPLACED))
    lesion = lesion.rename(columns=lambda name: name.replace("metric", "error")).drop(columns="k")
    probe = measure.probe(program, skips, learn, test)
    probe = probe[~probe["id"].isin(["input", "output"])]  # these are no blocks
    return {
        "lesion": with_block_number(lesion.assign(replaced_by=lesion["kind"].map(REPLACED))),
        "probe": with_block_number(probe),
    }


def with_block_number(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the number of the block, from 1, and the half of the network that contains it."""
    block = table["order"].rank(method="dense").astype(int)
    deep = block > block.max() // 2
    return table.assign(block=block, half=deep.map({False: "shallower", True: "deeper"}))


def reset_table(model: nn.Module, other: nn.Module, data: DataSet, to: str) -> pd.DataFrame:
    """Change of the test error when one block's convolutions get their weights in `other`.

    Compared with the trained network. Batch norm statistics are re-estimated in both, on one batch of the training
    part, since other weights give values of another scale, and the scale alone should have no effect.
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
    """What the deeper blocks of the deepest networks learn and carry, and where classes separate."""
    runs, (_, deepest) = tables["runs"], depth_range(tables["runs"])
    yield from _learning_sentences(runs, deepest)
    if "lesion" in tables:
        yield from _replacement_sentences(tables["lesion"], deepest)
    for variant in (FROZEN, EMPTY):  # the first sentence is about DEEP_FROZEN
        if {TRAINED, variant} <= set(runs["variant"]):
            networks = [network_key(name, deepest) for name in (variant, TRAINED)]
            yield compare_shares(runs, networks[0], networks[1], "test_error", "test error")
    if "probe" in tables:
        for variant in (TRAINED, FROZEN):
            yield from _probe_sentences(tables["probe"], variant, deepest)
    if "reset" in tables:
        yield from _reset_sentences(tables["reset"], deepest)


def _learning_sentences(runs: pd.DataFrame, depth: int) -> Iterator[str]:
    error = {name: values_by_seed(runs, "test_error", network_key(name, depth)) for name in runs["variant"].unique()}
    if {DEEP_FROZEN, TRAINED} <= error.keys():
        yield format_headline(
            paired(error[DEEP_FROZEN], error[TRAINED]),
            f"{depth} layers: training the deeper half of the blocks helps; test error with its weights left random "
            "minus trained",
            f"{depth} layers: the deeper half of the blocks is better with random weights than trained; test error",
            f"{depth} layers: no clear effect of training the deeper half of the blocks; test error with its weights "
            "left random minus trained",
        )
    if {FROZEN, EMPTY} <= error.keys():
        yield format_headline(
            paired(error[FROZEN], error[EMPTY]),
            f"{depth} layers: random branches (`{FROZEN}`) are worse than none (`{EMPTY}`); test error",
            f"{depth} layers: even random branches (`{FROZEN}`) are better than none (`{EMPTY}`); test error",
            f"{depth} layers: no clear difference between random branches (`{FROZEN}`) and none (`{EMPTY}`); test "
            "error",
        )


def _replacement_sentences(lesion: pd.DataFrame, depth: int) -> Iterator[str]:
    """The effect of each replacement of a branch in the deeper half, mean over its blocks."""
    for variant in (TRAINED, FROZEN):
        rows = {**network_key(variant, depth), "half": "deeper"}
        if select_rows(lesion, rows).empty:
            continue
        change = {kind: values_by_seed(lesion, "error_change", {**rows, "kind": kind}) for kind in REPLACED}
        changes = ", ".join(f"{format_points(student(change[kind]))} with {name}" for kind, name in REPLACED.items())
        half = f"{variant}-{depth}, deeper half"
        yield format_headline(
            paired(change["shuffle"], change["branch"]),
            f"{half}: branches depend on their own sample, as features do; another sample's branch is worse than none",
            f"{half}: another sample's branch is better than none, so the presence of a branch matters more than its "
            "sample",
            f"{half}: no clear difference between another sample's branch and none",
        )
        yield format_headline(
            paired(change["noise"], change["branch"]),
            f"{half}: branches are not useful as noise; noise with their mean and variance is worse than no branch",
            f"{half}: noise with a branch's mean and variance is better than no branch",
            f"{half}: no clear difference between noise with a branch's mean and variance and no branch",
        )
        yield f"{half}, rise of the test error when one branch is replaced: {changes}."


def _probe_sentences(probe: pd.DataFrame, variant: str, depth: int) -> Iterator[str]:
    """How the accuracy of a linear classifier changes along the deeper half."""
    own = select_rows(probe, network_key(variant, depth))
    if own.empty:
        return
    deep = own[own["half"] == "deeper"]["block"]
    first, last = (values_by_seed(own, "accuracy", {"block": block}) for block in (deep.min() - 1, deep.max()))
    what = "held-out accuracy of a linear classifier after its last block minus before its first"
    yield format_headline(
        paired(last, first),
        f"{variant}-{depth}: the deeper half of the blocks separates the classes further; {what}",
        f"{variant}-{depth}: the deeper half of the blocks separates the classes less; {what}",
        f"{variant}-{depth}: no clear effect of the deeper half of the blocks on the separation of classes; {what}",
    )


def _reset_sentences(table: pd.DataFrame, depth: int) -> Iterator[str]:
    table = table[table["depth"] == depth]
    initial, new = (values_by_seed(table, "error_change", {"reset_to": to}) for to in ("initial", "new random"))
    yield (
        f"Resetting the convolutions of one block of trained-{depth} changes the test error, mean over blocks, by "
        f"{format_points(student(initial))} with their initial weights and {format_points(student(new))} with new "
        "random ones."
    )


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims about reset blocks, frozen networks and linear classifiers."""
    runs = tables["runs"]
    shallowest, deepest = depth_range(runs)
    if "reset" in tables:
        yield from _reset_claims(tables["reset"][tables["reset"]["depth"] == deepest], deepest)
    if shallowest < deepest and FROZEN in set(runs["variant"]):
        found = difference(runs, "test_error", network_key(FROZEN, deepest), network_key(FROZEN, shallowest))
        yield Claim(
            claim="With random convolutions and trained norms, deeper ResNets do better (on CIFAR-10 up to 82 % "
            "accuracy at 866 layers, with only the norms trained).",
            source="Frankle et al. 2020, arXiv:2003.00152, abstract and §4",
            found=f"test error of {FROZEN}, {deepest} layers minus {shallowest}; stem and head are trained too here: "
            f"{format_difference(found)}",
            agrees=agreement(found, "below"),
        )
    own = select_rows(tables["probe"], network_key(TRAINED, deepest)) if "probe" in tables else pd.DataFrame()
    if len(own):
        ranks = own.groupby("seed")[["block", "accuracy"]].apply(lambda t: t["block"].corr(t["accuracy"], "spearman"))
        found = student(ranks)
        interval = f" (95 % interval {found.low:.2f} to {found.high:.2f})" if found.known else ""
        yield Claim(
            claim="The accuracy of a linear classifier grows monotonically along the depth.",
            source="Alain and Bengio 2016, arXiv:1610.01644, abstract and §4",
            found=f"rank correlation of its accuracy with the number of the block: {found.mean:.2f}{interval}; 1 is "
            "monotone",
            agrees=agreement(found, "above"),
        )


def _reset_claims(table: pd.DataFrame, depth: int) -> Iterator[Claim]:
    found = difference(table, "error_change", {"reset_to": "new random"}, {"reset_to": "initial"})
    yield Claim(
        claim="Many layers can be reset to their initial weights without harm, but not to new random ones.",
        source="Zhang et al. 2019, arXiv:1902.01996, abstract and §3",
        found=f"trained-{depth}, convolutions of one block, new random minus initial weights: "
        f"{format_difference(found)}",
        agrees=agreement(found, "above"),
    )
    initial = {"reset_to": "initial"}
    first, later = ({**initial, "first_of_stage": is_first} for is_first in (True, False))
    if len(select_rows(table, later)):
        found = difference(table, "error_change", first, later)
        yield Claim(
            claim="In ResNets, resetting the first block of a stage to its initial weights does harm; resetting "
            "later ones does not.",
            source="Zhang et al. 2019, arXiv:1902.01996, §3",
            found=f"trained-{depth}, first blocks of stages minus the others: {format_difference(found)}",
            agrees=agreement(found, "above"),
        )


BLOCK, RISE = Axis("block", "block, from the input"), Axis("error_change", "rise in test error", "change")
ACCURACY = Axis("accuracy", "accuracy of a linear classifier", "share")
FIGURES = (
    errors(
        "error-by-depth",
        "Error by trained part of the network",
        how=f"{HOW_POINTS} Norms, stem and head are trained in all but `empty`, whose branches give zero.",
    ),
    *(
        Figure(
            name=f"replaced-{variant}",
            heading=f"One branch of the {variant} network replaced",
            how="Rise of the test error when the value of one block's branch at its merge is replaced: by zeros, by "
            "its mean, by normal noise with its mean and variance in each channel, or by that of another sample. "
            "Nothing is retrained.",
            **lines("lesion", BLOCK, RISE, by="replaced_by", panel="depth", where={"variant": variant}),
        )
        for variant in (TRAINED, FROZEN)
    ),
    Figure(
        name="probe-by-depth",
        heading="Separation of classes by block",
        how="Held-out accuracy of a linear classifier on the output of each block, averaged over positions. The "
        "number of channels doubles at each third of the blocks, which helps a classifier by itself.",
        **lines("probe", BLOCK, ACCURACY, panel="depth"),
    ),
    Figure(
        name="reset",
        heading="One block's convolutions reset",
        how="Rise of the test error of the trained network when the convolutions of one block are reset to their "
        "initial weights, or to new random ones. Norms keep their weights; their statistics are re-estimated.",
        **lines("reset", BLOCK, RISE, by="reset_to", panel="depth"),
    ),
    CURVES_BY_DEPTH,
    numbers("replaced-numbers", "Replaced branches in numbers", "lesion"),
)

STUDY = Study.from_module(__name__, is_valid=is_valid, estimated_cost=estimated_cost)
