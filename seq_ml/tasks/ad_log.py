"""What became of the decisions that were published: the log that uplift and off-policy need.

The contract: a published decision of `ad_predictions` (send, explore, hold) is carried out, and a
contact shows as an `ad_impression` of the campaign. Each campaign's first snapshot is used, where
every pair of user and campaign was decided for the first time with its propensity; what came later
(a hold that became a contact) belongs to the outcome of that first decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.tasks.ad_features import ad_features, first_touch

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tasks.ad_features import AdHistory
    from seq_ml.tasks.task import TaskData

SMALLEST_COMPLIANCE = 0.95
"""Share of decisions that must have been carried out for their propensities to mean anything."""


class NoLogError(ValueError):
    """There are no logged decisions to learn from; the message says why, in one sentence."""


def decided_pairs(
    data: TaskData, history: AdHistory, as_of: datetime, *, since: datetime | None = None
) -> pl.DataFrame:
    """Return the logged decisions whose campaign was over by `as_of`, with what followed.

    since: only decisions from then on. Columns: user_id, campaign_id, origin (as_of of the
    decision), end_at, contacted (as decided), propensity (f64), label (1 = responded between the
    decision and the end of the campaign), FEATURES at the origin. Pairs without a choice
    (propensity 0 or 1) are left out. Raises NoLogError.
    """
    log = (
        data.ad_decisions.collect()
        .rename({"as_of": "origin"})
        .join(data.campaigns.select("campaign_id", "campaign_type", "end_at"), on="campaign_id")
    )
    log = log.filter((pl.col("origin") < as_of) & (pl.col("end_at") <= as_of))
    if since is not None:
        log = log.filter(pl.col("origin") >= since)
    if not log.height:
        raise NoLogError(
            "No campaign ended yet for which decisions with propensities had been published "
            + ("after the model was fitted." if since else "before.")
        )
    missing = log["propensity"].null_count()
    if missing:
        raise NoLogError(f"{missing} of {log.height} logged decisions have no propensity.")
    log = _with_outcomes(log, data, history, as_of)
    followed = float((log["contacted"] == log["impression"]).mean())  # type: ignore[arg-type]
    if followed < SMALLEST_COMPLIANCE:
        raise NoLogError(
            f"Only {followed:.0%} of {log.height} logged decisions were carried out (a contact is "
            "an ad_impression of the campaign), so their propensities do not describe what was "
            "done."
        )
    log = log.filter((pl.col("propensity") > 0) & (pl.col("propensity") < 1))
    if not log.height:
        raise NoLogError(
            "Nothing was decided by chance: every logged propensity is 0 or 1; set "
            "ads.explore_share above 0."
        )
    parts = []
    for (campaign_id, origin), group in log.group_by("campaign_id", "origin", maintain_order=True):
        campaign = {
            "campaign_id": campaign_id,
            "campaign_type": group["campaign_type"][0],
            "start_at": origin,
            "end_at": group["end_at"][0],
        }
        parts.append(ad_features(history, group["user_id"], campaign).drop("campaign_type"))
    return log.join(pl.concat(parts), on=["user_id", "campaign_id", "origin"], how="inner").sort(
        "origin", "campaign_id", "user_id"
    )


def _with_outcomes(
    log: pl.DataFrame, data: TaskData, history: AdHistory, as_of: datetime
) -> pl.DataFrame:
    """Add contacted (decided), impression (was contacted), label (responded), from the origin on.

    Whoever was contacted or had responded before the decision is left out: nothing was to decide.
    """
    impressions = (
        data.events_before(as_of)
        .filter((pl.col("event_type") == "ad_impression") & pl.col("campaign_id").is_not_null())
        .select("user_id", "campaign_id", at="event_time")
        .collect()
    )
    key = ["user_id", "campaign_id"]
    window = (pl.col("at") >= pl.col("origin")) & (pl.col("at") < pl.col("end_at"))

    def seen(touches: pl.DataFrame, name: str) -> pl.DataFrame:
        return (
            touches.join(log.select(*key, "origin", "end_at"), on=key)
            .filter(window)
            .select(*key)
            .unique()
            .with_columns(pl.lit(value=True).alias(name))
        )

    earlier = pl.concat(
        [first_touch(impressions, "at"), first_touch(history.responses, "at")]
    ).join(log.select(*key, "origin"), on=key)
    return (
        log.join(earlier.filter(pl.col("at") < pl.col("origin")), on=key, how="anti")
        .join(seen(impressions, "impression"), on=key, how="left")
        .join(seen(history.responses, "response"), on=key, how="left")
        .with_columns(
            contacted=pl.col("decision") != "hold",
            impression=pl.col("impression").fill_null(value=False),
            label=pl.col("response").fill_null(value=False).cast(pl.Float64),
            propensity=pl.col("propensity").cast(pl.Float64),
        )
        .drop("decision", "response")
        .sort("origin", "campaign_id", "user_id")
    )
