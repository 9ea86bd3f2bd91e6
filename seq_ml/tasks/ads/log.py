"""What became of the decisions about campaigns: the log that uplift and off-policy need.

The contract: a published decision of `ad_predictions` (send, explore, hold) is carried out, and a
contact shows as an exposure (`ad_impression`) of the campaign. Two questions are put to the log,
and a user who was held back at first and contacted on a later day answers them differently:

- What is a policy worth (`seq_ml.metrics.off_policy`)? A row is the first decision about a pair
  of user and campaign, in the first snapshot that decided about the campaign. All that followed,
  later contacts too, is its outcome: the propensity is that of the first decision, whatever was
  done later, so no row may be left out.
- What does a contact change (`seq_ml.tasks.ads.uplift`)? The contacted are compared with those that
  no snapshot ever contacted. Who was contacted later belongs to neither. A later snapshot chose
  them, they are not like the others; so those that stay weigh 1 / P(left alone in all snapshots):
  inverse probability of censoring weights (Robins and Finkelstein 2000), here known by design.

A business may log its own decisions, beside those that Seqline published: exposures with the
`propensity` with which they were shown, and a behaviour of another role (`held_back`) with the same
propensity where they were not. Its draws count as independent of each other.

What was decided and not done is another matter. Such rows stay as they were decided, as in any
randomised trial, for leaving them out would choose by what happened; where there are many, the log
is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.tasks.ads.decisions import chance_left_alone
from seq_ml.tasks.ads.features import ad_features, first_touch

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.ads.features import AdHistory
    from seq_ml.tasks.data import TaskData

SMALLEST_COMPLIANCE = 0.95
"""Share of the contacts, and of the pairs left alone, that must have been carried out."""
KEY = ["user_id", "campaign_id"]


class NoLogError(ValueError):
    """There are no logged decisions to learn from; the message says why, in one sentence."""


def decided_pairs(
    data: TaskData, history: AdHistory, as_of: datetime, *, since: datetime | None = None
) -> pl.DataFrame:
    """Return the first decisions about campaigns that were over by `as_of`, with what followed.

    since: only decisions from then on. Columns: user_id, campaign_id, origin (as_of of the
    decision), end_at, contacted (as decided), propensity (f64, of a contact), alone (no snapshot
    decided a contact), p_alone (f64, probability of that), impression (was contacted), label (1 =
    responded between the decision and the end of the campaign), FEATURES at the origin. Pairs
    without a choice (propensity 0 or 1) are left out. Raises NoLogError.
    """
    log = _first_decisions(data, as_of)
    if since is not None:
        log = log.filter(pl.col("origin") >= since)
    if not log.height:
        raise NoLogError(
            "No campaign ended yet for which decisions with propensities had been published "
            + ("after the model was fitted" if since else "before")
            + ", or logged: of exposures, and of users who were held back."
        )
    missing = log["propensity"].null_count()
    if missing:
        raise NoLogError(f"{missing} of {log.height} logged decisions have no propensity.")
    log = _with_outcomes(log, history)
    _check_carried_out(log)
    log = log.filter((pl.col("propensity") > 0) & (pl.col("propensity") < 1))
    if not log.height:
        raise NoLogError(
            "Nothing was decided by chance: every logged propensity is 0 or 1; set "
            "ads.explore_share above 0."
        )
    # as if each campaign began with the decision
    campaigns = log.with_columns(start_at="origin")
    features = pl.concat(
        ad_features(history, group["user_id"], [group.row(0, named=True)]).drop("campaign_type")
        for _, group in campaigns.group_by("campaign_id", "origin", maintain_order=True)
    )
    return log.join(features, on=[*KEY, "origin"], how="inner").sort(
        "origin", "campaign_id", "user_id"
    )


def _first_decisions(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """Rows of each campaign's first snapshot, with what all its snapshots decided about the pair.

    The first snapshot is the first one in which a contact about the campaign had a chance.
    """
    over = data.campaigns.filter(pl.col("end_at") <= as_of)
    decisions = (
        data.ad_decisions.rename({"as_of": "origin"})
        .filter(pl.col("origin") < as_of)
        .join(over.select("campaign_id", "campaign_type", "end_at").lazy(), on="campaign_id")
    )
    own = _own_decisions(data, as_of, over, decisions)
    first = decisions.group_by("campaign_id").agg(pl.col("origin").min())
    of_all = decisions.group_by(KEY).agg(
        alone=(pl.col("decision") == "hold").all(), p_alone=chance_left_alone()
    )
    published = (
        decisions.join(first, on=["campaign_id", "origin"], how="semi")
        .join(of_all, on=KEY)
        .with_columns(
            contacted=pl.col("decision") != "hold",
            propensity=pl.col("propensity").cast(pl.Float64),
        )
        .drop("decision")
    )
    return pl.concat([published, own.select(published.collect_schema().names())]).collect()


def _own_decisions(
    data: TaskData, as_of: datetime, over: pl.DataFrame, published: pl.LazyFrame
) -> pl.LazyFrame:
    """First decisions that the business logged itself, from the midnight before them on.

    Of campaigns about which Seqline published none, and in which somebody was held back.
    """
    shown = data.business.of_role("exposure")
    day = pl.col("event_time").dt.convert_time_zone(data.business.timezone).dt.truncate("1d")
    return (
        data.events_before(as_of)
        .filter(pl.col("propensity").is_not_null())
        .join(over.select("campaign_id", "campaign_type", "end_at").lazy(), on="campaign_id")
        .join(published.select("campaign_id"), on="campaign_id", how="anti")
        .filter(pl.col("event_time") < pl.col("end_at"))
        .sort("event_time", "event_id")
        .group_by(*KEY, "campaign_type", "end_at")
        .agg(
            origin=day.first().dt.convert_time_zone("UTC"),
            contacted=shown.first(),
            propensity=pl.col("propensity").first(),
            alone=(~shown).all(),
            p_alone=(1 - pl.col("propensity")).product(),
        )
        .filter((~pl.col("contacted")).any().over("campaign_id"))
    )


def _with_outcomes(log: pl.DataFrame, history: AdHistory) -> pl.DataFrame:
    """Add impression (was contacted) and label (responded), from the origin on.

    Whoever was contacted or had responded before the decision is left out: nothing was to decide.
    """
    window = (pl.col("at") >= pl.col("origin")) & (pl.col("at") < pl.col("end_at"))

    def seen(touches: pl.DataFrame, name: str) -> pl.DataFrame:
        return (
            touches.join(log.select(*KEY, "origin", "end_at"), on=KEY)
            .filter(window)
            .select(KEY)
            .unique()
            .with_columns(pl.lit(value=True).alias(name))
        )

    earlier = pl.concat(
        [first_touch(history.impressions, "at"), first_touch(history.responses, "at")]
    ).join(log.select(*KEY, "origin"), on=KEY)
    return (
        log.join(earlier.filter(pl.col("at") < pl.col("origin")), on=KEY, how="anti")
        .join(seen(history.impressions, "impression"), on=KEY, how="left")
        .join(seen(history.responses, "response"), on=KEY, how="left")
        .with_columns(
            impression=pl.col("impression").fill_null(value=False),
            label=pl.col("response").fill_null(value=False).cast(pl.Float64),
        )
        .drop("response")
        .sort("origin", *reversed(KEY))
    )


def _check_carried_out(log: pl.DataFrame) -> None:
    """Refuse a log of which much was not done, each action for itself: one may be rare."""
    for action, done, what in (
        ("contacted", "impression", "contacts that were decided show as an exposure"),
        ("alone", "not_contacted", "users that were to be left alone had no exposure"),
    ):
        rows = log.with_columns(not_contacted=~pl.col("impression")).filter(pl.col(action))
        followed = int(rows[done].sum())
        if followed < SMALLEST_COMPLIANCE * rows.height:
            raise NoLogError(
                f"Only {followed} of {rows.height} {what} of the campaign: what was done is not "
                "what was decided, so the propensities do not describe it."
            )
