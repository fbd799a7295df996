"""Recall and precision of `find` on random networks: all that was planted is found, and nothing else."""

from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import skiplab
from cases import by_kind
from planted import FORMS, Piece, network, plans, planted


def check(form: str, pieces: tuple[Piece, ...], *, train: bool) -> None:
    torch.manual_seed(0)
    model = network(pieces, FORMS[form])
    skips = skiplab.find(skiplab.capture(model, (torch.randn(FORMS[form].shape),), train=train))
    wanted, apart, long = planted(pieces)
    assert by_kind(skips) == dict(wanted)
    assert Counter(each.reason for each in skips.non_skips) == apart
    assert sum(skip.long for skip in skips) == long


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data(), train=st.booleans())
def test_finds_all_that_was_planted_and_no_decoys(form: str, data: st.DataObject, train: bool) -> None:
    check(form, data.draw(plans(FORMS[form])), train=train)
