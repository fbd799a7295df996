"""Is the gate of an LSTM the same idea as a skip connection?

A recurrent network is deep along time: each step is a layer. `rnn` (Elman 1990) has no shortcut around a step.
`residual-rnn` has an identity shortcut and no other difference. `lstm`, `gru`, `highway-rnn` and `min-gru` have a
shortcut that is multiplied by a gate. `lstm-forget-0` starts with its forget gates half open instead of nearly open
(`forget_bias` 0 instead of 1). `lstm-no-carry` is an LSTM trained without the gated shortcut. The causal `transformer`
reaches every step in one.

Hypothesis: without a shortcut the gradient vanishes or explodes exponentially through time (Hochreiter and Schmidhuber
1997, §3.1; Pascanu et al. 2013, arXiv:1211.5063, §2.1). The cell state of an LSTM prevents this as an identity does in
depth. Highway layers are that gate in depth (Srivastava et al. 2015, arXiv:1505.00387, §2), but a factor on a shortcut
makes the gradient decay again (He et al. 2016, arXiv:1603.05027, §3).

Measured, at initialization and after training: ‖∂loss of the last step/∂x_t‖ by the number of steps from t to the last
step, also in the plain network (the same weights without the shortcuts); the error; and the skip connections that
`find` reports in the unrolled network.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from skiplab.analysis.finder import find
from skiplab.data import DataSet, Split, adding, copying, pixels
from skiplab.errors import UsageError
from skiplab.graph.capture import capture
from skiplab.models.recurrent_networks import gru, highway_rnn, lstm, min_gru, residual_rnn, rnn
from skiplab.models.sequence import transformer_encoder
from skiplab.report.figure_spec import TEST_ERROR, Axis, Figure, lines, points
from skiplab.stats.intervals import paired, student
from skiplab.study.by_seed import difference, distinct, values_by_seed
from skiplab.study.charts import CURVES, NETWORK
from skiplab.study.claims import Claim, agreement, equivalence
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import RunContext, build_with_seed, train_network
from skiplab.study.sentences import Sign, compare_shares, format_difference, format_percent, group_by_sign
from skiplab.training.objectives import chance, task_of
from skiplab.training.recipe import Recipe

VARIANTS: dict[str, tuple[Any, dict[str, Any]]] = {  # builder and its options
    "rnn": (rnn, {}),
    "residual-rnn": (residual_rnn, {}),
    "lstm": (lstm, {"forget_bias": 1.0}),
    "lstm-forget-0": (lstm, {"forget_bias": 0.0}),
    "lstm-no-carry": (lstm, {"forget_bias": 1.0, "skip": False}),
    "gru": (gru, {}),
    "highway-rnn": (highway_rnn, {}),
    "min-gru": (min_gru, {}),
    "transformer": (transformer_encoder, {"depth": 1, "heads": 2, "causal": True}),
}
PLAIN, IDENTITY, GATE = "rnn", "residual-rnn", "lstm"
WITHOUT_SHORTCUT = (PLAIN, "lstm-no-carry")  # these are plain themselves
WIDTH = 24
TRAIN_SAMPLES, TEST_SAMPLES = 1440, 360  # as many as in the digits data
EQUIVALENT = 0.05  # errors that differ by less count as equal
GRADIENT_SAMPLES = 128  # sequences on which the gradient is measured
RECIPE = Recipe(
    epochs=20,
    batch_size=32,
    learning_rate=0.01,
    weight_decay=0.0,
    optimizer="adamw",
    clip=1.0,
    eval_samples=TEST_SAMPLES,
)
SHORT = ("pixels", "adding-20", "copying-10")
GRIDS = {
    "quick": Grid(
        axes={"task": SHORT},
        recipe=replace(RECIPE, epochs=5),
        variants=("rnn", "residual-rnn", "lstm", "lstm-forget-0", "gru", "highway-rnn", "min-gru", "transformer"),
    ),
    "default": Grid(axes={"task": SHORT}, recipe=RECIPE),
    "full": Grid(axes={"task": SHORT}, seeds=5, recipe=RECIPE),
}


def make_data(task: str) -> DataSet:
    """The data of "pixels", "adding-LENGTH" or "copying-LAG" (three symbols out of four)."""
    name, number = _parse_task(task)
    if name == "pixels":
        return pixels()
    if name == "adding":
        return adding(number, TRAIN_SAMPLES, TEST_SAMPLES)
    return copying(number, symbols=3, alphabet=4, count=TRAIN_SAMPLES, tests=TEST_SAMPLES)


def _parse_task(task: str) -> tuple[str, int]:
    name, _, number = task.partition("-")
    if task != "pixels" and (name not in ("adding", "copying") or not number.isdecimal() or int(number) < 2):
        raise UsageError(f"unknown task {task!r}: choose pixels, adding-LENGTH or copying-LAG, such as adding-50")
    return name, int(number or 0)


def build(variant: str, data: DataSet, **options: Any) -> nn.Module:
    """The network for a task, with initial weights from torch's random state."""
    make, own = VARIANTS[variant]
    per_step = data.train.y.ndim == 2 and data.classes is not None
    steps, inputs = data.train.x.shape[1:]
    positions = {"length": steps} if make is transformer_encoder else {}
    shape = {"inputs": inputs, "num_classes": data.classes or 1, "width": WIDTH, **positions}
    return make(**shape, readout="steps" if per_step else "last", **own | options)


def gradient_by_lag(model: nn.Module, split: Split) -> pd.DataFrame:
    """‖∂L/∂x_t‖ for each step t of the sequence, where L is the loss of the last step's output.

    Root mean square over sequences of each sequence's norm, in float64, since it may be very small. Unit: that of the
    loss per unit of input. Columns: lag (steps from t to the last), gradient_norm, relative (to lag 0).
    """
    model = deepcopy(model).double().eval()
    x, y = split.x[:GRADIENT_SAMPLES].double().requires_grad_(), split.y[:GRADIENT_SAMPLES]
    output = model(x)
    last, target = (output[..., -1:], y[:, -1:]) if output.ndim == 3 else (output, y)
    loss = task_of(split).loss(last, target.double() if target.is_floating_point() else target)
    (slope,) = torch.autograd.grad(loss, x)
    norms = (slope.square().sum((0, 2)) * len(x)).sqrt().flip(0)
    rows = {"lag": range(len(norms)), "gradient_norm": norms.tolist(), "relative": (norms / norms[0]).tolist()}
    return pd.DataFrame(rows)


def decay_factor(norms: Sequence[float]) -> float:
    """The factor by which the gradient norm changes per step back in time; 1 is no decay.

    It is e to the least-squares slope of the norm's logarithm; 0 if no gradient arrives beyond the last step.
    """
    values = np.asarray(norms, dtype=float)
    if not np.isfinite(values).all():
        return math.nan
    (there,) = np.nonzero(values)
    return float(np.exp(np.polyfit(there, np.log(values[there]), 1)[0])) if len(there) > 1 else 0.0


def lag_table(model: nn.Module, variant: str, data: DataSet, when: str) -> pd.DataFrame:
    """`gradient_by_lag` of the network and, if it has a shortcut, of the plain network with the same weights."""
    networks = {"original": model}
    if variant not in WITHOUT_SHORTCUT:
        options = {} if variant == IDENTITY else {"skip": False}
        plain = build_with_seed(lambda: build(PLAIN if variant == IDENTITY else variant, data, **options), 0)
        plain.load_state_dict(model.state_dict())
        networks["plain"] = plain
    return pd.concat(
        [gradient_by_lag(each, data.test).assign(when=when, network=name) for name, each in networks.items()]
    )


def decay_table(lag: pd.DataFrame) -> pd.DataFrame:
    """The decay factor of each network: columns when, network, kept."""
    rows = [
        {"when": when, "network": network, "kept": decay_factor(own["gradient_norm"].tolist())}
        for (when, network), own in lag.groupby(["when", "network"], sort=False)
    ]
    return pd.DataFrame(rows)


def shortcut_table(model: nn.Module, data: DataSet) -> pd.DataFrame:
    """The skip connections that `find` reports in the unrolled network: number per kind, and number of steps."""
    x = data.train.x[:2]
    kinds = Counter((skip.combine, skip.shortcut) for skip in find(capture(model, (x,)))) or {("none", "none"): 0}
    rows = [{"combine": a, "shortcut": b, "skips": n, "steps": x.shape[1]} for (a, b), n in kinds.items()]
    return pd.DataFrame(rows)


def work(run: RunContext) -> Tables:
    """Train and measure the network of one variant, task and seed."""
    variant, data = run.settings["variant"], make_data(run.settings["task"])
    model = build_with_seed(lambda: build(variant, data), run.settings["seed"])
    lag = lag_table(model, variant, data, "initialization")
    shortcuts = {} if run.settings["seed"] else {"found": shortcut_table(model, data)}  # equal for all seeds
    run.report(0.05, "training")
    tables, trained = train_network(model, data, run)
    if trained is not None:
        lag = pd.concat([lag, lag_table(trained, variant, data, "trained")])
    decay = decay_table(lag)
    own = decay[decay["network"] == "original"].set_index("when")["kept"]
    recurrent = dict(model.named_parameters()).get("recurrent.weight_hh_l0") if variant == PLAIN else None
    tables["runs"] = tables["runs"].assign(
        chance=chance(data.test),
        kept_initialization=own["initialization"],
        kept_trained=own.get("trained", math.nan),
        singular=math.nan if recurrent is None else float(torch.linalg.matrix_norm(recurrent.detach(), 2)),
    )
    return {**tables, "lag": lag, "decay": decay, **shortcuts}


def is_valid(settings: Settings) -> bool:
    """True; raises `UsageError` for an unknown task."""
    _parse_task(settings["task"])
    return True


def estimated_cost(settings: Settings) -> float:
    """Proportional to the number of unrolled steps and to the operations in each."""
    name, number = _parse_task(settings["task"])
    steps = {"pixels": 64, "adding": number, "copying": number + 6}[name]
    work = {PLAIN: 1, IDENTITY: 1, "min-gru": 1.5}.get(settings["variant"], 3)
    return steps * work * settings["recipe"]["epochs"]


def sentences(tables: Tables) -> Iterator[str]:
    """The gradient through time on the task with the most steps, and the errors on every task."""
    runs = tables["runs"]
    variants, tasks = (distinct(runs, name) for name in ("variant", "task"))
    longest = _longest_task(tables)
    yield from _answer_sentences(tables, longest)
    for when, moment in (("initialization", "At initialization"), ("trained", "After training")):
        parts = [
            f"{format_percent(student(values_by_seed(runs, f'kept_{when}', {'variant': variant, 'task': longest})))} "
            f"in {variant}"
            for variant in variants
        ]
        yield (
            f"{moment}, share of the gradient that one step back in time keeps ({longest}; 100 %: no decay, above: "
            f"growth): {', '.join(parts)}."
        )
        yield from _ablation_sentences(tables["decay"], variants, longest, when)
    yield _shortcut_sentence(tables["found"], variants, longest)
    for task in tasks:
        yield from _error_sentences(runs, variants, task)
    for other in ("lstm-no-carry", "lstm-forget-0"):
        for task in tasks if {GATE, other} <= set(variants) else ():
            first, second = ({"variant": name, "task": task} for name in (other, GATE))
            yield compare_shares(runs, first, second, "test_error", "test error")


def _longest_task(tables: Tables) -> str:
    """The task with the most steps."""
    return str(tables["lag"].groupby("task", sort=False)["lag"].max().idxmax())


def _answer_sentences(tables: Tables, task: str) -> Iterator[str]:
    """Whether the gate of an LSTM preserves the gradient, and whether it does so like an identity."""
    own, plain = (
        _decay_by_seed(tables["decay"], GATE, task, "initialization", network) for network in ("original", "plain")
    )
    change = paired(own, plain)
    if not len(own) or not change.known:
        return
    found = tables["found"]
    found = found[(found["variant"] == GATE) & (found["task"] == task) & (found["shortcut"] == "gated")]
    numbers = (
        f"at initialization one step back in time keeps {format_percent(student(own))} of the gradient, and "
        f"{format_percent(student(plain))} without the shortcut (same weights): {format_difference(change)} `find` "
        f"reports {int(found['skips'].sum())} gated shortcuts in {GATE} on {task}."
    )
    if change.low > 0:
        yield f"Yes, for the gradient: an LSTM's gate preserves it as a skip connection does; {numbers}"
    else:
        yield f"No clear benefit of an LSTM's gate for the gradient; {numbers}"
    identity = _decay_by_seed(tables["decay"], IDENTITY, task, "initialization", "original")
    change = paired(own, identity)
    if change.known:
        kept = student(identity)
        trend = "grows" if kept.low > 1 else "decays" if kept.high < 1 else "neither clearly grows nor decays"
        yield (
            f"The gate is not an identity, with which the gradient {trend}: one step back in time keeps "
            f"{format_percent(student(own))} in {GATE}, {format_percent(kept)} in {IDENTITY}; "
            f"{format_difference(change)}"
        )


def _ablation_sentences(decay: pd.DataFrame, variants: list[str], task: str, when: str) -> Iterator[str]:
    """How the gradient's decay changes if the shortcuts are removed and the weights stay the same."""
    found = []
    for variant in variants:
        own, plain = (_decay_by_seed(decay, variant, task, when, network) for network in ("original", "plain"))
        change = paired(plain, own)
        if change.known:
            shares = f"{format_percent(student(plain))} instead of {format_percent(student(own))}"
            found.append((change, f"{variant} ({shares})"))
    words: dict[Sign, str] = {"below": "less in", "above": "more in", "neither": "no clear difference in"}
    if groups := group_by_sign(found, words):
        moment = "at initialization" if when == "initialization" else "after training"
        yield f"Without the shortcuts (same weights, {moment}), one step back in time keeps: {groups}."


def _shortcut_sentence(found: pd.DataFrame, variants: list[str], task: str) -> str:
    own = found[found["task"] == task]
    rows = {name: own[own["variant"] == name].to_dict("records") for name in variants}
    kinds = [
        f"{' and '.join(_format_kind(row) for row in each)} in {name}" if each else f"unknown in {name}"
        for name, each in rows.items()
    ]
    return f"Skip connections that `find` reports, unrolled over {int(own['steps'].max())} steps: {', '.join(kinds)}."


def _format_kind(row: dict[Any, Any]) -> str:
    return f"{row['skips']} {row['combine']}/{row['shortcut']}" if row["skips"] else "none"


def _error_sentences(runs: pd.DataFrame, variants: list[str], task: str) -> Iterator[str]:
    """Test errors of all networks on one task, compared with the network without shortcuts."""
    own = runs[runs["task"] == task]
    errors = {name: values_by_seed(own, "test_error", {"variant": name}) for name in variants}
    baseline = format_percent(student(own["chance"]))
    if PLAIN not in errors:
        parts = ", ".join(f"{format_percent(student(each))} in {name}" for name, each in errors.items())
        yield f"Test error on {task} (chance {baseline}): {parts}."
        return
    found = [
        (paired(each, errors[PLAIN]), f"{name} ({format_percent(student(each))})")
        for name, each in errors.items()
        if name != PLAIN
    ]
    groups = group_by_sign(found, {"below": "lower in", "above": "higher in", "neither": "no clear difference in"})
    plain = format_percent(student(errors[PLAIN]))
    yield f"Test error on {task} (chance {baseline}), compared with {PLAIN} ({plain}): {groups}."


def _decay_by_seed(decay: pd.DataFrame, variant: str, task: str, when: str, network: str) -> pd.Series:
    return values_by_seed(decay, "kept", {"variant": variant, "task": task, "when": when, "network": network})


def claims(tables: Tables) -> Iterator[Claim]:
    """Claims about the gradient on the task with the most steps, and about errors on every task."""
    runs, decay = tables["runs"], tables["decay"]
    variants, tasks = set(runs["variant"]), distinct(runs, "task")
    task = _longest_task(tables)
    own = {name: _decay_by_seed(decay, name, task, "initialization", "original") for name in variants}
    if PLAIN in variants:
        yield from _vanishing_claims(runs, own[PLAIN], task)
    for gated in [name for name in (GATE, "gru", "highway-rnn", "min-gru") if name in variants]:
        if IDENTITY in variants:
            found = paired(own[gated], own[IDENTITY])
            yield Claim(
                claim="A factor on the shortcut, such as a gate, hampers propagation; the identity does not.",
                source="He et al. 2016, arXiv:1603.05027, §3, in depth",
                found=f"share of the gradient kept per step on {task} at initialization, {gated} minus {IDENTITY}: "
                f"{format_difference(found)}",
                agrees=agreement(found, "below"),
            )
    if {PLAIN, "highway-rnn"} <= variants:
        found = paired(own["highway-rnn"], own[PLAIN])
        yield Claim(
            claim="With gates like those of an LSTM, signals and gradients pass many layers without attenuation.",
            source="Srivastava et al. 2015, arXiv:1505.00387, §1 and §2, in depth",
            found=f"share of the gradient kept per step on {task} at initialization, highway-rnn minus {PLAIN}: "
            f"{format_difference(found)}",
            agrees=agreement(found, "above"),
        )
    yield from _task_claims(runs, variants, tasks)


def _vanishing_claims(runs: pd.DataFrame, own: pd.Series, task: str) -> Iterator[Claim]:
    found = student(own)
    yield Claim(
        claim="In a conventional recurrent network the error signal vanishes or explodes exponentially back in time.",
        source="Hochreiter and Schmidhuber 1997, §3.1",
        found=f"{PLAIN} keeps {format_percent(found)} of the gradient per step on {task} at initialization",
        agrees="yes" if found.excludes(1) else "not shown",
    )
    largest = values_by_seed(runs, "singular", {"variant": PLAIN, "task": task})
    change = paired(own, largest)
    yield Claim(
        claim="The largest singular value of the recurrent weights, times the activation's largest slope (1 for tanh), "
        "bounds the share kept per step: below 1 is sufficient for vanishing, above 1 necessary for exploding.",
        source="Pascanu et al. 2013, arXiv:1211.5063, §2.1",
        found=f"{PLAIN} keeps {format_percent(student(own))} with a largest singular value of "
        f"{student(largest).mean:.2f}: {format_difference(change)}",
        agrees=agreement(change, "below"),
    )


def _task_claims(runs: pd.DataFrame, variants: set[str], tasks: list[str]) -> Iterator[Claim]:
    """Claims about errors, for each task."""
    for task in tasks:
        network = {name: {"variant": name, "task": task} for name in variants}
        if {"lstm-forget-0", GATE} <= variants:
            found = difference(runs, "test_error", network["lstm-forget-0"], network[GATE])
            yield Claim(
                claim="A bias of 1 in the LSTM's forget gate improves it, so that it equals the GRU.",
                source="Jozefowicz et al. 2015, abstract",
                found=f"test error on {task}, bias 0 minus bias 1: {format_difference(found)}",
                agrees=agreement(found, "above"),
            )
        if {"min-gru", "gru"} <= variants:
            found = difference(runs, "test_error", network["min-gru"], network["gru"])
            yield Claim(
                claim="A minGRU, whose gate does not depend on the state, is about as good as a GRU (here: within 5 "
                "points).",
                source="Feng et al. 2024, arXiv:2410.01201, §4",
                found=f"test error on {task}, min-gru minus gru: {format_difference(found)}",
                agrees=equivalence(found, EQUIVALENT),
            )


LAG, RELATIVE = Axis("lag", "steps to the last step"), Axis("relative", "‖∂loss/∂x‖ / that at the last step", "log")
KEPT = Axis("kept", "decay factor per step")
FIGURES = (
    Figure(
        name="gradient-by-lag",
        heading="Gradient by time lag, at initialization",
        how="Gradient of the last step's loss with respect to the input at an earlier step, relative to that of the "
        "last step's own input. Thin lines are seeds, the thick line is their geometric mean, the band its 95 % "
        "interval. A straight line decays by the same factor at each step; a flat line does not decay.",
        **lines("lag", LAG, RELATIVE, panel="task", where={"when": "initialization", "network": "original"}),
    ),
    Figure(
        name="gradient-by-lag-trained",
        heading="Gradient by time lag, after training",
        how="As above. Training may remove a dependence that the task does not need: a decay here is not a defect.",
        **lines("lag", LAG, RELATIVE, panel="task", where={"when": "trained", "network": "original"}),
    ),
    Figure(
        name="kept",
        heading="Decay per step, with and without the shortcut",
        how="Factor by which the gradient changes per step back in time at initialization (from the slope of its "
        "logarithm); 1 is no decay. The plain network has the same weights without the shortcuts in time; in the "
        "transformer, without those around attention and MLP.",
        **points("decay", NETWORK, KEPT, by="network", panel="task", where={"when": "initialization"}),
    ),
    Figure(
        name="error-by-network",
        heading="Test error",
        how="One point per seed; the tick is their mean, the line its 95 % interval (Student's t). Of classes the "
        "share of wrong predictions; of the adding problem the unexplained share of the variance (100 %: as good as "
        "predicting the mean).",
        **points("runs", NETWORK, TEST_ERROR, panel="task"),
    ),
    Figure(
        name="shortcuts-found",
        heading="Skip connections found",
        how="What `find` reports in each network, unrolled over its steps.",
        chart="table",
        table="found",
    ),
    replace(CURVES, panel="task", folded=True),
)

STUDY = Study.from_module(
    __name__,
    outcomes=(
        TEST_ERROR,
        Axis("kept_initialization", "decay factor, untrained", "share"),
        Axis("kept_trained", "decay factor, trained", "share"),
    ),
    seed_invariant=("found",),
    is_valid=is_valid,
    estimated_cost=estimated_cost,
)
