"""A published table beside synthetic runs: with its order, with that order turned around, with none, and with gaps."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from skiplab.study import paper_table
from skiplab.study.paper_table import FAILED, PaperTable
from skiplab.study.questions import placement, shortcuts

TABLE = PaperTable(
    source="A paper, Table 1",
    network="a network",
    reference="a",
    errors={"a": 5.0, "b": 6.0, "c": 9.0, "d": FAILED, "e": FAILED},
    failed=20,
)
STUDIES = {"shortcuts": shortcuts, "placement": placement}


def runs(
    table: PaperTable, error: Callable[[int, str], float], seeds: int = 4, lost: tuple[str, ...] = (), depth: int = 20
) -> pd.DataFrame:
    """Errors whose mean over seeds is what is given for each variant and its number; all runs of `lost` diverged."""
    rng = np.random.default_rng(0)
    rows = []
    for i, name in enumerate(table.errors):
        luck = rng.normal(0, 0.0005, seeds)
        for seed in range(seeds):
            value = np.nan if name in lost else error(i, name) + (luck[seed] - luck.mean())
            row = {"variant": name, "depth": depth, "seed": seed, "status": "diverged" if name in lost else "ok"}
            rows.append({**row, "test_error": value, "train_error": value, "parameters": 100})
    return pd.DataFrame(rows)


def as_published(table: PaperTable) -> Callable[[int, str], float]:
    return lambda _, name: min(table.errors[name], 30) / 100


def turned_around(table: PaperTable) -> Callable[[int, str], float]:
    return lambda _, name: 0.4 - min(table.errors[name], 30) / 100


def said(table: PaperTable, frame: pd.DataFrame) -> list[str]:
    return list(paper_table.sentences(table, paper_table.add_paper_tables(table, {"runs": frame})))


def test_every_pair_that_the_paper_orders_is_there_once() -> None:
    found = paper_table.pair_table(TABLE, runs(TABLE, as_published(TABLE)))
    assert set(zip(found["better"], found["worse"], strict=True)) == {
        *(("a", each) for each in "bcde"),
        *(("b", each) for each in "cde"),
        *(("c", each) for each in "de"),
    }  # d and e both failed, of which none is called better
    assert set(found["order"]) == {"as in the paper"}
    gap = found[(found["better"] == "a") & (found["worse"] == "c")].iloc[0]
    assert gap["difference"] == pytest.approx(0.04)
    assert gap["low"] < 0.04 < gap["high"]
    assert gap["paper_worse"] == "9.00"


def test_an_order_turned_around_is_called_so() -> None:
    frame = runs(TABLE, turned_around(TABLE))
    assert set(paper_table.pair_table(TABLE, frame)["order"]) == {"opposite"}
    lines = said(TABLE, frame)
    assert "better: b (-1.0 points), c (-4.0 points)" in lines[0]
    assert "is reversed overall" in lines[1]
    assert lines[2].endswith("a is worse than b, c, d, e; b is worse than c, d, e; c is worse than d, e.")
    assert {claim.agrees for claim in paper_table.reference_claims(TABLE, frame)} == {"no"}


def test_the_papers_order_is_borne_out() -> None:
    frame = runs(TABLE, as_published(TABLE))
    lines = said(TABLE, frame)
    assert len(lines) == 2  # none of pairs in the opposite order
    assert "test error: 5.0 % ± 0.0 for a. Compared with it, worse: b (+1.0 points), c" in lines[0]
    assert "holds overall: of 9 pairs, 9 are in the paper's order, 0 in the opposite order" in lines[1]
    assert "Rank correlation 0.9" in lines[1]
    assert lines[0].endswith("No variant is better.")
    assert [claim.agrees for claim in paper_table.reference_claims(TABLE, frame)] == ["yes"] * 4
    assert "fail (> 20 %) against 5.00 %" in list(paper_table.reference_claims(TABLE, frame))[2].claim


def test_no_effect_shows_no_order() -> None:
    frame = runs(TABLE, lambda _i, _name: 0.05, seeds=8)
    assert set(paper_table.pair_table(TABLE, frame)["order"]) == {"not shown"}
    lines = said(TABLE, frame)
    assert "no clear difference: b, c, d, e" in lines[0]
    assert "is not clear overall" in lines[1]
    assert "95 % interval -" in lines[1]


@pytest.mark.parametrize(
    ("low", "high", "held"),
    [(0.8, 1.0, "holds overall"), (0.2, 0.4, "holds in part"), (-0.6, -0.2, "is reversed overall")],
)
def test_an_order_that_holds_weakly_is_not_said_to_hold(low: float, high: float, held: str) -> None:
    counts = {"as in the paper": 5, "opposite": 2, "not shown": 2, "depth": 20, "seeds": 3}
    sentence = paper_table._order_sentence({**counts, "rank_correlation": (low + high) / 2, "low": low, "high": high})
    assert held in sentence


def test_one_seed_claims_nothing() -> None:
    frame = runs(TABLE, as_published(TABLE), seeds=1)
    assert set(paper_table.pair_table(TABLE, frame)["order"]) == {"not shown"}
    lines = said(TABLE, frame)
    assert lines[0].endswith("too few finished runs for an interval: b, c, d, e.")
    assert "20 layers: unknown" in lines[1]
    assert not any("95 %" in line for line in lines)
    assert {claim.agrees for claim in paper_table.reference_claims(TABLE, frame)} == {"not shown"}


def test_correlation_is_spearmans() -> None:
    frame = runs(TABLE, lambda i, _: (3, 1, 4, 1.5, 9)[i] / 100)
    found = paper_table.rank_correlation(TABLE, frame, 20)
    paper = [min(error, 99.0) for error in TABLE.errors.values()]
    each = [
        stats.spearmanr(paper, seed["test_error"]).statistic  # type: ignore[attr-defined]
        for _, seed in frame.groupby("seed")
    ]
    assert found.mean == pytest.approx(np.mean(each))
    assert found.count == 4


def test_a_run_that_diverged_is_behind_all_others() -> None:
    best_lost = runs(TABLE, as_published(TABLE), lost=("a",))
    worst_lost = runs(TABLE, as_published(TABLE), lost=("e",))
    assert (
        paper_table.rank_correlation(TABLE, worst_lost, 20).mean
        > 0.9
        > paper_table.rank_correlation(TABLE, best_lost, 20).mean
    )
    table = paper_table.add_paper_tables(TABLE, {"runs": best_lost})["paper"]
    assert list(table["diverged"]) == ["4 of 4", *["0 of 4"] * 4]
    assert "too few finished runs for an interval: b, c, d, e" in said(TABLE, best_lost)[0]


def test_two_variants_give_no_correlation_and_equal_errors_none_either() -> None:
    frame = runs(TABLE, as_published(TABLE))
    assert paper_table.rank_correlation(TABLE, frame[frame["variant"].isin(["a", "b"])], 20).count == 0
    assert paper_table.rank_correlation(TABLE, frame.assign(test_error=0.0), 20).count == 0
    without = frame[frame["variant"] != "a"]  # the reference was not run
    assert list(paper_table.reference_claims(TABLE, without)) == []
    assert said(TABLE, without)[0].startswith("The paper's order")


@pytest.mark.parametrize("name", STUDIES)
def test_deepest_first_and_every_depth(name: str) -> None:
    study = STUDIES[name]
    frame = pd.concat(
        [
            runs(study.TABLE, as_published(study.TABLE), depth=56),
            runs(study.TABLE, turned_around(study.TABLE), depth=8),
        ]
    )
    names = list(dict.fromkeys(frame["variant"]))
    census = pd.DataFrame({"variant": names, "depth": 56, "fewest": range(len(names))})
    lines = list(study.sentences(study.postprocess({"runs": frame, "census": census})))
    assert lines[0].startswith("56 layers")
    assert lines[1].startswith("8 layers")
    assert any("order at 56 layers holds" in line for line in lines)
    assert any("order at 8 layers is reversed" in line for line in lines)


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_is_in_the_papers_table_and_shown(name: str) -> None:
    table, study = STUDIES[name].TABLE, STUDIES[name].STUDY
    assert tuple(table.errors) == study.variants
    assert all(set(shown) == set(table.errors) for shown in table.columns.values())
    for figure in study.figures:
        assert figure.table in {"runs", "paper", "ordering", "pairs", "curves", "census"}
