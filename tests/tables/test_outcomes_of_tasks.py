"""Outcomes of single tasks: expected spend, and campaigns whose contacts come at other times."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
import pytest

from seq_ml.schema import (
    AD_PREDICTIONS,
    CAMPAIGNS,
    EVENTS,
    PREDICTION_OUTCOMES,
    USER_PROFILES,
)
from seq_ml.tables.outcomes import Round, judge_outcomes
from seq_ml.tables.outcomes_page import outcomes_page
from seq_ml.tasks.registered import TASKS
from tests.tables.quiet import FIRST, WEEKS, clean, judged

if TYPE_CHECKING:
    from seq_ml.tasks.data import TaskData

SPEND = next(entry for entry in TASKS if entry.name == "spend")


def profile_rows(data: TaskData, as_of: datetime) -> pl.DataFrame:
    """user_profiles of everybody seen before, with a spend forecast for all but the first."""
    users = data.events_before(as_of).select(pl.col("user_id").unique().sort()).collect()
    n = users.height
    schema = USER_PROFILES.polars_schema()
    known = users.with_columns(
        as_of=pl.lit(as_of),
        created_at=pl.lit(as_of),
        model_version=pl.lit("none"),
        source=pl.lit("rules"),
        clv_source=pl.lit("own_rate"),
        clv_horizon_days=pl.lit(56),
        clv_expected=pl.Series([None, *np.linspace(10, 900, n - 1)]),
        clv_p10=pl.Series([None, *np.linspace(0, 300, n - 1)]),
        clv_p90=pl.Series([None, *np.linspace(300, 2000, n - 1)]),
    )
    return known.select(
        (pl.col(name) if name in known.columns else pl.lit(None)).cast(dtype).alias(name)
        for name, dtype in schema.items()
    )


def test_the_spend_that_profiles_expect_is_judged(objects, tables, data):
    clean(tables, data)
    profiles = profile_rows(data, FIRST)
    tables.append(USER_PROFILES.name, profiles)
    waiting = judge_outcomes(objects, data, FIRST + WEEKS - timedelta(hours=1), [SPEND])
    assert waiting.closes == {"spend": FIRST + WEEKS}
    found = judge_outcomes(objects, data, FIRST + WEEKS, [SPEND])
    outcomes = judged(tables)
    assert found.judged == {("spend", FIRST): outcomes.height}
    assert outcomes.height == 2 * (profiles.height - 1)
    assert set(outcomes["source"]) == {"own_rate"}, "what made the forecast, not the profile"
    window = data.events_between(FIRST, FIRST + WEEKS).filter(event_type="purchase").collect()
    spent = {}
    for user, quantity, price in window.select("user_id", "quantity", "unit_price").rows():
        spent[user] = spent.get(user, 0.0) + quantity * (price or 0.0)
    by_user = {row["user_id"]: row for row in profiles.iter_rows(named=True)}
    assert spent, "nobody bought: the test shows nothing"
    for row in outcomes.iter_rows(named=True):
        mine, profile = spent.get(row["user_id"], 0.0), by_user[row["user_id"]]
        if row["target"] == "clv_expected":
            assert row["predicted"] == profile["clv_expected"]
            assert row["realised"] == pytest.approx(mine, abs=0.01)
        else:
            assert (row["target"], row["predicted"]) == ("clv_interval", 0.8)
            assert row["realised"] == (profile["clv_p10"] <= mine <= profile["clv_p90"])
    version = tables.version(PREDICTION_OUTCOMES.name)
    assert judge_outcomes(objects, data, FIRST + 2 * WEEKS, [SPEND]).judged == {}
    assert tables.version(PREDICTION_OUTCOMES.name) == version
    page = outcomes_page(outcomes.lazy(), found, FIRST + WEEKS)
    titles = [section.title for section in page.sections]
    assert titles == ["spend: clv_expected", "spend: clv_interval"]
    amounts, inside = page.sections
    assert amounts.rows[0][-2:] == ("error", "saved")
    assert inside.rows[1][4] == "0.8"
    assert len(inside.figures) == 1, "a constant has no curve"


def ad_events(*contacts: tuple[str, str, datetime]) -> pl.DataFrame:
    """clean_events of contacts (user, campaign, instant), each answered a day later."""
    day = timedelta(days=1)
    touches = [
        (user, campaign, at + n * day, kind)
        for user, campaign, at in contacts
        for n, kind in enumerate(("ad_impression", "coupon_redeem"))
    ]
    return pl.DataFrame(
        [
            {
                **dict.fromkeys(EVENTS.names),
                "event_id": f"{campaign}{n}",
                "user_id": user,
                "campaign_id": campaign,
                "event_time": at,
                "event_type": kind,
                "event_date": at.date(),
            }
            for n, (user, campaign, at, kind) in enumerate(touches)
        ],
        schema=EVENTS.polars_schema(),
    )


def test_a_campaign_whose_contacts_come_later_than_another_ones_is_judged_too(
    objects, tables, data
):
    ads = next(entry for entry in TASKS if entry.name == "ads")
    week = timedelta(weeks=1)
    campaigns = pl.DataFrame(
        [
            dict.fromkeys(CAMPAIGNS.names)
            | {"campaign_id": name, "start_at": FIRST + start * week, "end_at": FIRST + end * week}
            for name, start, end in (("early", 0, 2), ("late", 2, 4))
        ],
        schema=CAMPAIGNS.polars_schema(),
    )
    names = AD_PREDICTIONS.polars_schema()
    row = dict.fromkeys(names) | {
        "user_id": "u",
        "as_of": FIRST,
        "created_at": FIRST,
        "model_version": "v1",
        "source": "logistic",
        "p_response": 0.25,
        "response_type": "coupon_redeem",
    }
    both = [row | {"campaign_id": name} for name in ("early", "late")]
    tables.append(AD_PREDICTIONS.name, pl.DataFrame(both, schema=names))
    early = ad_events(("u", "early", FIRST + timedelta(days=1)))
    late = ad_events(("u", "late", FIRST + 2 * week))

    def judge_ads(events: pl.DataFrame, until: datetime) -> Round:
        known = replace(data, events=events.lazy(), campaigns=campaigns)
        return judge_outcomes(objects, known, until, [ads])

    tables.append(EVENTS.name, early, partition_by=EVENTS.partition_by)
    assert judge_ads(early, FIRST + week).closes == {"ads": FIRST + 2 * week}
    assert judge_ads(early, FIRST + 2 * week).closes == {"ads": FIRST + 4 * week}
    assert judged(tables)["campaign_id"].to_list() == ["early"]
    tables.append(EVENTS.name, late, partition_by=EVENTS.partition_by)
    assert judge_ads(pl.concat([early, late]), FIRST + 4 * week).closes == {}
    assert judged(tables)["campaign_id"].to_list() == ["early", "late"]
