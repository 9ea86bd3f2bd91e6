"""Whom to contact: the budget, the hold-out, and chances that are as often as the log says."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from seq_ml.business import Ads
from seq_ml.tasks.ads.decisions import chance_left_alone, decide


def pairs(count: int, contacted: int = 0) -> pl.DataFrame:
    """Users × two campaigns with falling gains; the first `contacted` were contacted already."""
    return pl.DataFrame(
        {
            "user_id": [f"u{n // 2}" for n in range(count)],
            "campaign_id": [f"c{n % 2}" for n in range(count)],
            "gain": [3.0 - 4.0 * n / count for n in range(count)],
            "p": [0.5] * count,
            "open": [n >= contacted for n in range(count)],
        }
    )


@pytest.mark.parametrize(
    ("budget", "explore"),
    [(None, 0.1), (None, 0.6), (0, 0.6), (3, 0.6), (15, 0.1), (15, 0.6), (50, 0.6)],
    ids=str,
)
def test_contacts_happen_as_often_as_the_logged_propensity_says(budget, explore):
    """Over 700 seeds; and no seed exceeds the budget."""
    frame, runs = pairs(40, contacted=4), 700
    ads = Ads(contact_cost=1.0, explore_share=explore, budget=budget)
    contacts = np.zeros(frame.height)
    for seed in range(runs):
        decided = decide(frame, ads, seed=seed)
        made = (decided["decision"] != "hold").to_numpy()
        assert budget is None or made.sum() <= budget
        contacts += made
    propensity = decided["propensity"].to_numpy()
    spread = np.sqrt(propensity * (1 - propensity) / runs)
    assert (np.abs(contacts / runs - propensity) <= 4.5 * spread + 1e-12).all()
    assert (propensity[:4] == 0).all()
    if explore and budget != 0:
        assert ((propensity[4:] > 0) & (propensity[4:] < 1)).all()


def test_the_budget_buys_the_best_across_campaigns():
    ads = Ads(contact_cost=1.0, explore_share=0.0, budget=5)
    decided = decide(pairs(40, contacted=2), ads, seed=1)
    sent = decided.with_row_index().filter(pl.col("decision") == "send")["index"].to_list()
    assert sent == [2, 3, 4, 5, 6]


def test_a_hold_out_stays_one_on_later_days():
    ads = Ads(contact_cost=1.0, explore_share=0.5)
    today = decide(pairs(200), ads, seed=3)
    held = today.filter((pl.col("gain") > 1) & (pl.col("decision") == "hold"))
    assert held.height > 10
    fewer = decide(pairs(200).sample(fraction=0.7, seed=1), ads, seed=3)
    both = fewer.join(today, on=["user_id", "campaign_id"])
    assert (both["decision"] == both["decision_right"]).all()


@pytest.mark.parametrize("budget", [None, 150], ids=str)
def test_the_chance_to_be_left_alone_is_as_often_as_it_happens(budget):
    """Five days on which gains change and nobody is asked twice, for 60 seeds.

    Weights 1 / chance of the pairs that were never contacted average 1, also among those that were
    worth a contact on some day and among the others.
    """
    ads = Ads(contact_cost=1.0, explore_share=0.5, budget=budget)
    frame = pairs(400)
    gains = np.random.default_rng(3).normal(0.3, 0.7, size=(5, frame.height))
    weights = np.zeros((60, frame.height))
    for seed in range(len(weights)):
        days = []
        contacted = np.zeros(frame.height, dtype=bool)
        for gain in gains:
            now = frame.with_columns(gain=pl.Series(gain), open=pl.Series(~contacted))
            days.append(decide(now, ads, seed=seed).with_row_index("row"))
            contacted |= (days[-1]["decision"] != "hold").to_numpy()
        chance = (
            pl.concat(days)
            .filter(pl.col("propensity") > 0)
            .group_by("row")
            .agg(chance=chance_left_alone())
            .sort("row")
        )
        weights[seed] = ~contacted / chance["chance"].to_numpy()
    worth = gains.max(axis=0) > 1
    assert 100 < worth.sum() < 300
    for chosen in (worth, ~worth):
        found = weights[:, chosen].ravel()
        assert abs(found.mean() - 1) < 4 * found.std() / np.sqrt(len(found))
