"""What moved a prediction, and what the candidates of the reports are in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import polars as pl

from seq_ml.tasks.models.examples import _spans

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Array = NDArray[np.float64]


CANDIDATES = {
    # recommendations
    "popularity_28d": "What most users bought in the last 28 days, the same for everybody.",
    "own_frequency_decayed": "How often the user bought it, old purchases counting less.",
    "tifu_knn": "What the user and similar users bought, old purchases counting less (TIFU-kNN).",
    "ease": "What goes with the user's purchases: a linear item-to-item model (EASE).",
    "ranker": "Boosted trees over all of the above and when the user bought it last.",
    "ranker_with_encoder": "The ranker, which also reads the sequence encoder's score.",
    # churn
    "recency": "Days since the last order.",
    "rfm_logistic": "Logistic regression on recency, orders and spend.",
    "bg_nbd": "Probability of no order from each user's own rhythm (BG/NBD).",
    "logistic": "Logistic regression on all features.",
    "trees": "Boosted trees on all features (LightGBM).",
    "blend": "Mean of the logistic regression and of other models that err differently.",
    "logistic_encoder": "Logistic regression on all features and the sequence encoder's vector.",
    "encoder": "Logistic regression on the sequence encoder's vector alone.",
    # ads
    "campaign_type_rate": "How often such campaigns were answered, the same for everybody.",
    "user_rate": "How often the user answered campaigns before.",
    "logistic_4_features": "Logistic regression on four features.",
    # inventory
    "past_sums": "Quantiles of what the item sold over as many weeks in the last 26.",
    "ma8_negative_binomial": "Mean of the last 8 weeks, negative binomial spread.",
    "ma13_normal": "Mean of the last 13 weeks, normal spread: the textbook's way.",
    "tsb_negative_binomial": "Size and chance of a sale, both smoothed (TSB), for rare sellers.",
    "croston_sba_negative_binomial": "Size and gap of sales, both smoothed (Croston, SBA).",
    "seasonal_naive_negative_binomial": "The same weeks of last year, negative binomial spread.",
    "ses_negative_binomial": "Exponential smoothing of the weeks, negative binomial spread.",
    "boosted_count": "Boosted trees on the item's past, negative binomial spread.",
    "boosted_count_due_buyers": "The same, which also reads how many buyers are due.",
    "boosted_count_promo_plan": "The same, which also reads the promotion plan where it is known.",
}
"""By the name of the candidate; one that is not here stands without a word."""


class Explained(Protocol):
    """A fitted candidate that can explain itself."""

    def contributions(self, examples: pl.DataFrame) -> dict[str, Array]:
        """Return {feature: effect on the log-odds against the average example [n]}."""
        ...


def by_feature(effects: Array, examples: pl.DataFrame, features: Sequence[str]) -> dict[str, Array]:
    """Split effects [n, columns] by feature, an embedding's columns added up."""
    summed = np.add.reduceat(effects, _spans(examples, features), axis=1)
    return {name: summed[:, i] for i, name in enumerate(features)}


def top_reasons(
    model: Explained, examples: pl.DataFrame, *, count: int = 3
) -> list[list[dict[str, Any]]]:
    """Return for each example its strongest features, strongest first.

    Each is {"feature", "value" (None for an embedding or when missing), "effect" (log-odds against
    the average example)}: the dtype "reason" of `seq_ml.schema`.
    """
    effects = model.contributions(examples)
    names = list(effects)
    table = np.column_stack([effects[name] for name in names])
    strongest = np.argsort(-np.abs(table), axis=1, kind="stable")[:, :count]
    values = {
        name: [None] * examples.height
        if examples.schema[name].is_nested()
        else examples[name].cast(pl.Float64).to_list()
        for name in names
    }
    return [
        [
            {
                "feature": names[column],
                "value": values[names[column]][row],
                "effect": float(table[row, column]),
            }
            for column in columns
        ]
        for row, columns in enumerate(strongest)
    ]
