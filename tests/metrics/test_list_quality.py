"""The quality of whole lists: coverage, concentration, novelty."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seq_ml.metrics.list_quality import LIST_QUALITY, gini, list_quality
from tests.metrics.drawn import few

if TYPE_CHECKING:
    from seq_ml.metrics.estimate import Estimate

CATALOGUE = pl.DataFrame(
    {
        "item_id": ["milk", "bread", "tea", "caviar", "rusk"],
        "buyers": [8, 6, 4, 2, 0],
        "category": ["dairy", "bakery", "drinks", None, "bakery"],
    }
)


LISTS = pl.DataFrame(
    {
        "user_id": ["a", "a", "a", "b", "b", "c"],
        "item_id": ["milk", "bread", "rusk", "milk", "caviar", "milk"],
    }
)


def quality(lists: pl.DataFrame = LISTS) -> dict[str, Estimate]:
    return list_quality(lists, CATALOGUE, users=16, seed=1)


def test_lists_by_hand():
    found = quality()
    assert list(found) == list(LIST_QUALITY)
    value = {name: estimate.value for name, estimate in found.items()}
    assert value["coverage"] == pytest.approx(4 / 5)
    bits = {"milk": 1.0, "bread": math.log2(16 / 6), "caviar": 3.0, "rusk": 4.0}
    a, b, c = (bits["milk"] + bits["bread"] + 4) / 3, (1 + 3) / 2, 1.0
    assert value["novelty"] == pytest.approx((a + b + c) / 3)
    # bread and rusk are both bakery; the pair with caviar is unknown, one item has no pair
    assert value["diversity"] == pytest.approx(2 / 3)
    popularity = ((8 + 6 + 0) / 48, (8 + 2) / 32, 8 / 16)
    assert value["popularity"] == pytest.approx(sum(popularity) / 3)
    # of 20 purchases the last fifth is 4: caviar (2); tea would make 6
    assert value["tail_share"] == pytest.approx((1 / 3 + 1 / 2 + 0) / 3)
    assert math.isnan(found["coverage"].low)
    assert found["novelty"].low <= value["novelty"] <= found["novelty"].high


@few
@given(st.lists(st.integers(0, 20), min_size=1, max_size=12).filter(any))
def test_gini_by_its_definition(counts):
    pairs = [abs(a - b) for a, b in combinations(counts, 2)]
    expected = 2 * sum(pairs) / (2 * len(counts) ** 2 * np.mean(counts))
    assert gini(np.array(counts, dtype=float)) == pytest.approx(expected)


def test_gini_of_equals_and_of_one():
    assert gini(np.full(10, 3.0)) == pytest.approx(0)
    assert gini(np.array([0.0] * 9 + [5.0])) == pytest.approx(0.9)
    assert math.isnan(gini(np.zeros(4)))


def test_items_outside_the_catalogue_are_refused():
    with pytest.raises(ValueError, match=r"1 recommended items are not in the catalogue, .* beer"):
        quality(LISTS.with_columns(item_id=pl.lit("beer")))


def test_the_order_of_the_rows_changes_no_number():
    again = quality(LISTS.reverse())
    assert {k: str(v) for k, v in again.items()} == {k: str(v) for k, v in quality().items()}
