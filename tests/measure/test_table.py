"""The result of a measure is a DataFrame that answers, draws itself, and explains its columns."""

import pickle

import pandas as pd
import pytest
import torch
import torch.nn.functional as F

import skiplab
from oracles.tower import Tower, samples
from skiplab.errors import UsageError
from skiplab.measure import contribution, estimate, gradient, layers, lengths, lesion, together
from skiplab.measure.protocol import MeasureInputs
from skiplab.measure.registry import NAMES, load
from skiplab.measure.table import MeasureTable


@pytest.fixture(scope="module")
def tower() -> tuple:
    torch.manual_seed(0)
    program = skiplab.capture(Tower(), (torch.randn(4, 6, dtype=torch.double),))
    return program, skiplab.find(program)


@pytest.fixture(scope="module")
def table(tower: tuple) -> MeasureTable:
    program, skips = tower
    return contribution(program, skips, samples(4, 3))


def test_a_result_answers_and_draws_its_chart(table: MeasureTable) -> None:
    assert isinstance(table, pd.DataFrame)
    assert table.sentences() == list(load("contribution").sentences(pd.DataFrame(table)))
    assert table.answer() == " ".join(table.sentences())
    assert "‖F(x)‖ / ‖x‖" in table.plot().to_json(ensure_ascii=False)


def test_copies_pickles_and_selections_are_results_too(table: MeasureTable) -> None:
    for other in (table.copy(), pickle.loads(pickle.dumps(table)), table[table["ratio"] > 0], table.assign(more=1)):
        assert isinstance(other, MeasureTable)
        assert other.answer() == table.answer()
    pd.testing.assert_frame_equal(pickle.loads(pickle.dumps(table)), table)
    assert table.iloc[:1].answer() != table.answer()


def test_tables_put_together_are_no_result(table: MeasureTable) -> None:
    both = pd.concat([table, table])
    assert isinstance(both, MeasureTable)
    for ask in (both.answer, both.plot, both.describe_columns):
        with pytest.raises(UsageError, match="put together from others"):
            ask()


def test_attrs_stay(tower: tuple) -> None:
    program, skips = tower
    table = estimate(program, skips, samples(4, 3), F.cross_entropy, exact=3)
    assert table.attrs["checked"] == 3
    assert "without an interval" in table.answer()


def test_a_loss_by_name_is_torchs(tower: tuple) -> None:
    program, skips = tower
    batches = samples(4, 3)
    for measure in (gradient, lesion, lengths, estimate):
        pd.testing.assert_frame_equal(
            measure(program, skips, batches, "cross-entropy"), measure(program, skips, batches, F.cross_entropy)
        )
    pd.testing.assert_frame_equal(layers(program, batches, "cross-entropy"), layers(program, batches, F.cross_entropy))
    pd.testing.assert_frame_equal(
        together(program, skips, batches, "cross-entropy")["gradient"],
        gradient(program, skips, batches, F.cross_entropy),
    )
    with pytest.raises(UsageError, match="loss 'cross': choose cross-entropy, mse, bce"):
        lesion(program, skips, batches, "cross")


@pytest.mark.parametrize("name", NAMES)
def test_every_column_is_explained(tower: tuple, name: str) -> None:
    program, skips = tower
    inputs = MeasureInputs(
        program=program, skips=skips, batches=samples(8, 4), loss=F.cross_entropy, metric=F.cross_entropy
    )
    table = load(name)(inputs)
    explained = set(table.describe_columns().index)
    columns = set(map(str, table))
    assert explained <= columns
    assert {column for column in columns - explained if column.rpartition("_")[0] not in explained} == set()
