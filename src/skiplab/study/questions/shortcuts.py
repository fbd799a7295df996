"""Is the identity the best shortcut? Table 1 of He et al. 2016 at a size that this machine trains.

Residual networks (ResNet v1) that differ in the operation on the shortcut of every block: none (the identity), a
constant factor, a gate, a 1×1 convolution, dropout, or no shortcut at all. All else is equal, except that gates and
convolutions add weights; the page gives the number of parameters.

Hypothesis: a factor on the shortcut multiplies over all blocks and weakens the signal, so the identity is best, and a
shortcut is worse the more it differs from it: He et al. 2016, "Identity Mappings in Deep Residual Networks",
arXiv:1603.05027, §3 and §3.1 with Table 1 (ResNet-110 on CIFAR-10). Measured: the test error, its order compared with
that table, and the training error, since the paper attributes the differences to optimization (§3.2).
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from skiplab.data import digits
from skiplab.study import paper_table
from skiplab.study.claims import Claim
from skiplab.study.networks import RECIPE, digit_network, is_valid
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import RunContext, train_network

VARIANTS: dict[str, Any] = {  # options of `resnet`
    "identity": {},
    "half": {"combine": "half"},
    "average": {"combine": "average"},
    "gate-0": {"combine": "gate", "gate_bias": 0.0},
    "gate-6": {"combine": "gate", "gate_bias": -6.0},
    "shortcut-gate-0": {"combine": "shortcut-gate", "gate_bias": 0.0},
    "shortcut-gate-6": {"combine": "shortcut-gate", "gate_bias": -6.0},
    "convolution": {"skip": "C"},
    "dropout": {"combine": "shortcut-dropout"},
    "plain": {"skip": None},
}
IDENTITY = "identity"
PAPER_RECIPE = replace(RECIPE, epochs=12, warmup_epochs=1.0, eval_samples=256)  # warm-up: the paper's appendix
GRIDS = {
    "quick": Grid(axes={"depth": (8, 32)}, recipe=replace(PAPER_RECIPE, epochs=7)),
    "default": Grid(axes={"depth": (20, 56)}, recipe=PAPER_RECIPE),
    "full": Grid(axes={"depth": (20, 56)}, seeds=5, recipe=replace(PAPER_RECIPE, epochs=16)),
}


def work(run: RunContext) -> Tables:
    """Train the network of one variant, depth and seed."""
    tables, _ = train_network(digit_network(run.settings, **VARIANTS[run.settings["variant"]]), digits(), run)
    return tables


TABLE = paper_table.PaperTable(
    source="He et al. 2016, arXiv:1603.05027, §3.1 and Table 1",
    network="ResNet-110 on CIFAR-10",
    reference=IDENTITY,
    errors={
        "identity": 6.61,
        "half": paper_table.FAILED,
        "average": 12.35,
        "gate-0": paper_table.FAILED,
        "gate-6": 8.70,
        "shortcut-gate-0": 12.86,
        "shortcut-gate-6": 6.91,
        "convolution": 12.22,
        "dropout": paper_table.FAILED,
        "plain": paper_table.FAILED,
    },
    failed=20,
    columns={
        "on the shortcut": {
            "identity": "1",
            "half": "0.5",
            "average": "0.5",
            "gate-0": "1 − g(x), bias 0",
            "gate-6": "1 − g(x), bias −6",
            "shortcut-gate-0": "1 − g(x), bias 0",
            "shortcut-gate-6": "1 − g(x), bias −6",
            "convolution": "1×1 convolution",
            "dropout": "dropout 0.5",
            "plain": "0",
        },
        "on the branch": {**dict.fromkeys(VARIANTS, "1"), "average": "0.5", "gate-0": "g(x)", "gate-6": "g(x)"},
    },
)


def estimated_cost(settings: Settings) -> float:
    """Gates and convolutions on every shortcut take about a third more time."""
    extra = 1.3 if "gate" in settings["variant"] or settings["variant"] == "convolution" else 1.0
    return settings["depth"] * settings["recipe"]["epochs"] * extra


def postprocess(tables: Tables) -> Tables:
    """Add the comparison with the paper's table."""
    return paper_table.add_paper_tables(TABLE, tables)


def sentences(tables: Tables) -> Iterator[str]:
    """The order of the paper's table, then the training errors."""
    yield from paper_table.sentences(TABLE, tables)
    yield from paper_table.reference_sentences(TABLE, tables["runs"], "train_error", "training error")


def claims(tables: Tables) -> Iterator[Claim]:
    """The paper's errors, each variant compared with its reference."""
    return paper_table.reference_claims(TABLE, tables["runs"])


FIGURES = paper_table.figures("error-by-shortcut", "Error by shortcut", "shortcut")

STUDY = Study.from_module(
    __name__, outcomes=paper_table.OUTCOMES, postprocess=postprocess, is_valid=is_valid, estimated_cost=estimated_cost
)
