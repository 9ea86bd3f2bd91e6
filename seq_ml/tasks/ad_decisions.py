"""Whom to contact: best expected profit first while the budget lasts, and a little by chance.

Every pair of user and campaign has two lots, drawn once from the seed and the two ids, so that a
hold-out stays one on every later day of the campaign. With e = `explore_share`:

- the greedy pairs (profitable, best first, as many as the budget pays for) are contacted ("send")
  unless their first lot is below e/2 ("hold": the hold-out that shows what a contact changes);
- of the other pairs those whose second lot is below e/2 are contacted ("explore"), lowest lots
  first, with the contacts that the budget has left and those that the hold-out freed.

So the budget is never exceeded, and the probability of a contact (the propensity, Horvitz and
Thompson 1952) is known exactly: 1 − e/2 for greedy pairs; for the n others E[min(M, s + K)] / n,
where M ~ Binomial(n, e/2) lots are low, K ~ Binomial(greedy, e/2) are held out and s contacts are
left. Without a budget that is e/2.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.business import Ads


def decide(pairs: pl.DataFrame, ads: Ads, *, seed: int) -> pl.DataFrame:
    """Add decision and propensity to pairs of user and campaign, in their order.

    pairs: user_id, campaign_id, gain (revenue expected of a contact, currency units; null where it
    is unknown), p (orders pairs of equal or unknown gain), contacted (already contacted: one
    contact per campaign, so never again, propensity 0). A pair of unknown gain is worth a contact
    only under a budget, which says that contacts are wanted.
    """
    ranked = (
        pairs.with_row_index("row")
        .with_columns(
            pays=pl.col("gain").gt(ads.contact_cost).fill_null(ads.budget is not None)
            & ~pl.col("contacted")
        )
        .sort(
            "pays",
            "gain",
            "p",
            "campaign_id",
            "user_id",
            descending=[True, True, True, False, False],
            nulls_last=True,
        )
    )
    wanted = int(ranked["pays"].sum())
    greedy_count = wanted if ads.budget is None else min(wanted, ads.budget)
    greedy = np.arange(ranked.height) < greedy_count
    other = ~greedy & ~ranked["contacted"].to_numpy()
    half = ads.explore_share / 2
    first, second = _lots(ranked, seed)
    held = greedy & (first < half)
    low = np.flatnonzero(other & (second < half))
    left = None if ads.budget is None else ads.budget - greedy_count
    slots = len(low) if left is None else left + int(held.sum())
    explored = np.zeros(ranked.height, dtype=bool)
    explored[low[np.argsort(second[low], kind="stable")][:slots]] = True
    chance = _chance_of_others(int(other.sum()), greedy_count, left, half)
    return (
        ranked.with_columns(
            decision=pl.when(pl.Series(explored))
            .then(pl.lit("explore"))
            .when(pl.Series(greedy & ~held))
            .then(pl.lit("send"))
            .otherwise(pl.lit("hold")),
            propensity=pl.when(pl.Series(greedy))
            .then(1 - half)
            .when(pl.Series(other))
            .then(chance)
            .otherwise(0.0),
        )
        .sort("row")
        .drop("row", "pays")
    )


def _lots(pairs: pl.DataFrame, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two numbers in [0, 1) per pair that depend on nothing but the seed and the two ids."""
    digests = b"".join(
        hashlib.blake2b(f"{seed}\n{campaign}\n{user}".encode(), digest_size=16).digest()
        for user, campaign in pairs.select("user_id", "campaign_id").iter_rows()
    )
    numbers = np.frombuffer(digests, dtype="<u8").reshape(-1, 2) / 2.0**64
    return numbers[:, 0], numbers[:, 1]


def _chance_of_others(others: int, greedy: int, left: int | None, half: float) -> float:
    """P(contact) of a pair that is not greedy: E[min(M, left + K)] / others."""
    if left is None or not others or not half:
        return half
    from scipy.stats import binom

    # E[min(A, B)] = Σ_j P(A > j) P(B > j); beyond the mean + 12 deviations nothing is left of it.
    mean = others * half
    j = np.arange(min(others, int(mean + 12 * np.sqrt(mean) + 50)))
    expected = np.sum(binom.sf(j, others, half) * binom.sf(j - left, greedy, half))
    return float(expected / others)
