"""Whom to contact: best expected profit first while the budget lasts, and a little by chance.

A snapshot decides for its decision period: from `as_of` to the next business midnight, when the
next daily snapshot takes over. It decides about campaigns that run in that period, be it only from
its last hour on, and in it about users that were not contacted yet: their pairs are open. All other
pairs are "hold" with propensity 0 and use no budget; a campaign that starts later is decided in the
snapshot whose period holds its start.

Every pair of user and campaign has two lots, drawn once from the seed and the two ids, so that a
hold-out stays one on every later day of the campaign. With e = `explore_share`:

- the greedy pairs (profitable, best first, as many as the budget pays for) are contacted ("send")
  unless their first lot is below e/2 ("hold": the hold-out that shows what a contact changes);
- of the other pairs those whose second lot is below e/2 are contacted ("explore"), lowest lots
  first, with the contacts that the budget has left and those that the hold-out freed.

So the budget is never exceeded, and the probability of a contact (the propensity, Horvitz and
Thompson 1952) is known exactly: 1 − e/2 for greedy pairs; for the n others E[min(M, s + K)] / n,
where M ~ Binomial(n, e/2) lots are low, K ~ Binomial(greedy, e/2) are held out and s contacts are
left. Without a budget that is e/2. As lots stay, so do most decisions: `chance_left_alone` says how
likely a pair was never contacted in all of its snapshots.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.business import Ads, Business


def decision_end(business: Business, as_of: datetime) -> datetime:
    """Return the first instant that the snapshot of `as_of` does not decide about."""
    return business.midnight(business.day_of(as_of) + timedelta(days=1))


def decide(pairs: pl.DataFrame, ads: Ads, *, seed: int) -> pl.DataFrame:
    """Add decision and propensity to pairs of user and campaign, in their order.

    pairs: user_id, campaign_id, gain (revenue expected of a contact, currency units; null where it
    is unknown), p (orders pairs of equal or unknown gain), open (bool: there is something to
    decide; one contact per campaign, so never again). A pair of unknown gain is worth a contact
    only under a budget, which says that contacts are wanted.
    """
    ranked = (
        pairs.with_row_index("row")
        .with_columns(
            pays=pl.col("gain").gt(ads.contact_cost).fill_null(ads.budget is not None)
            & pl.col("open")
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
    # Greedy: what pays, best first, as far as the budget reaches. Others are open too, by chance.
    wanted = int(ranked["pays"].sum())
    greedy_count = wanted if ads.budget is None else min(wanted, ads.budget)
    greedy = np.arange(ranked.height) < greedy_count
    other = ~greedy & ranked["open"].to_numpy()
    half = ads.explore_share / 2
    # A lot below e/2 turns either kind around; two lots, so that neither tells of the other.
    first, second = _lots(ranked, seed)
    held = greedy & (first < half)
    low = np.flatnonzero(other & (second < half))
    # Contacts for exploring: what the budget has left, and what the hold-out freed.
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


def chance_left_alone() -> pl.Expr:
    """P(no snapshot of a campaign contacts a pair), aggregating the propensities of its open rows.

    For pairs that were not contacted. A greedy pair is left alone where its first lot is below the
    smallest 1 − propensity of its greedy days, any other where its second lot is above the largest
    propensity of its other days; the lots are independent. Exact without a budget; with one up to
    the lots of others that compete for the same contacts, by less than e/2.
    """
    held = 1 - pl.col("propensity").cast(pl.Float64)
    greedy = held < 0.5  # e/2 is below a half: above is 1 − e/2, below is a contact by chance
    return held.filter(greedy).min().fill_null(1.0) * held.filter(~greedy).min().fill_null(1.0)


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
