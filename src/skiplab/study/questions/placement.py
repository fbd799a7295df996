"""Where should norm and ReLU stand around the addition? Table 2 of He et al. 2016 at a size that this machine trains.

Residual networks with the same weight layers and identity shortcuts. They differ in the place of batch norm and ReLU:
both around the addition as in ResNet v1 (`post`); the norm after the addition too (`bn-after`); both at the end of the
branch (`relu-before`); and before the weight layers, the ReLU alone (`relu-only`) or both (`pre`, ResNet v2).

Hypothesis: an operation after the addition is on every path through the network, and a ReLU at the end of a branch
restricts what the branch can add, so both are best before the weight layers: He et al. 2016, "Identity Mappings in Deep
Residual Networks", arXiv:1603.05027, §4.1 with Table 2 (ResNet-110 and -164 on CIFAR-10). Measured: the test error, its
order compared with that table, the training error, and the nonlinearities on the most linear path.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import get_args

from skiplab.data import digits
from skiplab.models.placement import Placement
from skiplab.study import paper_table
from skiplab.study.by_seed import depth_range
from skiplab.study.charts import CURVES_BY_DEPTH, PATHS
from skiplab.study.claims import Claim
from skiplab.study.networks import RECIPE, digit_network, is_valid, network_key
from skiplab.study.question import Grid, Settings, Study, Tables
from skiplab.study.run_cell import RunContext, measure_structure, train_network
from skiplab.study.sentences import most_linear_path_sentence

VARIANTS = get_args(Placement)  # the paper's order of rows
PAPER_RECIPE = replace(RECIPE, epochs=24, warmup_epochs=1.0, eval_samples=256)  # warm-up: the paper's appendix
GRIDS = {
    "quick": Grid(axes={"depth": (8, 32)}, recipe=replace(PAPER_RECIPE, epochs=12)),
    "default": Grid(axes={"depth": (20, 56)}, recipe=PAPER_RECIPE),
    "full": Grid(axes={"depth": (20, 56)}, seeds=5, recipe=PAPER_RECIPE),
}


def work(run: RunContext) -> Tables:
    """Train the network of one variant, depth and seed; take its census for the first seed only."""
    model, data = digit_network(run.settings, placement=run.settings["variant"]), digits()
    census = {} if run.settings["seed"] else {"census": measure_structure(model, data)["census"]}
    trained, _ = train_network(model, data, run)
    return {**census, **trained}


TABLE = paper_table.PaperTable(
    source="He et al. 2016, arXiv:1603.05027, §4.1 and Table 2",
    network="ResNet-110 on CIFAR-10",
    reference="post",
    errors={"post": 6.61, "bn-after": 8.17, "relu-before": 7.84, "relu-only": 6.71, "pre": 6.37},
    columns={
        "in the paper": {
            "post": "original",
            "bn-after": "BN after addition",
            "relu-before": "ReLU before addition",
            "relu-only": "ReLU-only pre-activation",
            "pre": "full pre-activation",
        },
        "paper %, ResNet-164 on CIFAR-10": {
            "post": "5.93",
            "bn-after": "6.50",
            "relu-before": "6.14",
            "relu-only": "5.91",
            "pre": "5.46",
        },
    },
)


def estimated_cost(settings: Settings) -> float:
    """Proportional to depth and epochs."""
    return settings["depth"] * settings["recipe"]["epochs"]


def postprocess(tables: Tables) -> Tables:
    """Add the comparison with the paper's table."""
    return paper_table.add_paper_tables(TABLE, tables)


def sentences(tables: Tables) -> Iterator[str]:
    """The order of the paper's table, then training error and most linear path of the deepest networks."""
    yield from paper_table.sentences(TABLE, tables)
    runs = tables["runs"]
    _, deepest = depth_range(runs)
    networks = [network_key(name, deepest) for name in VARIANTS if name in set(runs["variant"])]
    yield from paper_table.reference_sentences(TABLE, runs, "train_error", "training error")
    yield most_linear_path_sentence(tables["census"], networks)


def claims(tables: Tables) -> Iterator[Claim]:
    """The paper's errors, each variant compared with its reference."""
    return paper_table.reference_claims(TABLE, tables["runs"])


FIGURES = (
    *paper_table.figures("error-by-placement", "Error by placement of norm and ReLU", "placement"),
    PATHS,
    CURVES_BY_DEPTH,
)

STUDY = Study.from_module(
    __name__,
    outcomes=paper_table.OUTCOMES,
    seed_invariant=("census",),
    postprocess=postprocess,
    is_valid=is_valid,
    estimated_cost=estimated_cost,
)
