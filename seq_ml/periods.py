"""How far Seqline looks back and ahead: `Periods`, by one rule from the rhythm of the business.

Rhythm = usual days between two conversions of a user (`seq_ml.sequences.cutoffs` measures it). A
grocer's weeks (13 that features read, 8 without an order, 12 whose spend is compared) hold wherever
people come back every 4 to 28 days. Who comes less often needs longer windows, who comes daily
needs shorter ones: `WINDOWS` says within how many usual gaps each stays. A history that is too
short for all of it shrinks window and horizons in proportion, down to one usual gap and to ten
weeks of history. What the business sets holds as it stands, and the rest makes room for it. Whole
weeks wherever possible, so that every weekday counts as often as the others.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, fields, replace
from math import ceil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq_ml.business import Business

RECENT_DAYS = 28
WINDOW_DAYS = 91
YEAR_DAYS = 365
SPANS = (RECENT_DAYS, WINDOW_DAYS, YEAR_DAYS)
"""Spans of the counts in a profile: calendar facts, the same for every business."""
LONG_DAYS = 364
"""What is rare (coupons, answers to campaigns) is counted over 52 weeks at least."""
MEMORY_WEEKS = 26
"""Weeks of its own sales that an item's demand is forecast from; sold within them, it is in the
range."""

WINDOWS = {
    "window": (13, 3, 26),
    "silence": (8, 2, 16),
    "decline": (12, 2, 24),
    "value": (13, 1, None),
    "recent": (4, 1, 8),
}
"""A grocer's weeks, and the fewest and the most usual gaps that they may hold."""
LEAST_WINDOW, LEAST_HORIZON = 4, 3
"""Weeks below which nothing shrinks: with two horizons they are the ten weeks of the least history.
"""
LEAST_HISTORY_DAYS = 7 * (LEAST_WINDOW + 2 * LEAST_HORIZON)
MOST_WINDOW, MOST_HORIZON = 104, 52
"""Weeks above which nothing grows, however rarely people come."""
RECOMMEND_DAYS, RECOMMEND_LEAST = 30, 7
RATE_DAYS = 56
"""A rate of spend is taken over so many days at least: a first basket is no habit."""


@dataclass(frozen=True)
class Periods:
    """Windows and horizons of one business, by default a grocer's; days unless said otherwise.

    rhythm_days: usual gap between two conversions, None unknown. history_days: from the first
    conversion to as_of, None unknown. window_days: what features read of the past, the same at
    every origin, so that a feature means the same in the first training window and on the day of
    serving; never less than what makes a user eligible. recent_days: what happened lately, and who
    is new. silence_active_weeks, silence_weeks, decline_active_orders, decline_weeks: the
    definitions of churn (`Business.churn`). origin_step_days: between two training origins.
    value_days: over which spend is expected. rate_days: fewest days that a rate of spend is taken
    over. recommend_days: within which a recommended item should be bought. test_days: the encoder
    is fitted before as_of minus these, so that it saw no task's test window.
    """

    rhythm_days: float | None = None
    history_days: int | None = None
    window_days: int = WINDOW_DAYS
    recent_days: int = RECENT_DAYS
    silence_active_weeks: int = 13
    silence_weeks: int = 8
    decline_active_orders: int = 3
    decline_weeks: int = 12
    origin_step_days: int = 14
    value_days: int = WINDOW_DAYS
    rate_days: int = RATE_DAYS
    recommend_days: int = RECOMMEND_DAYS
    test_days: int = WINDOW_DAYS

    @property
    def spans(self) -> dict[str, int]:
        """Spans of the counts among the features, in days, by the end of the features' names."""
        recent, window = self.recent_days, self.window_days
        return {
            "newest": max(recent // 4, 1),
            "newer": max(recent // 2, 1),
            "recent": recent,
            "late": min(2 * recent, window),
            "window": window,
            "long": max(LONG_DAYS, window),
        }

    @property
    def pace(self) -> float:
        """How many times a grocer's usual gap this business's is: stretches the half-lives.

        1 wherever a grocer's windows hold, below for daily habits, above where people come rarely.
        """
        rhythm = self.rhythm_days
        if rhythm is None:
            return 1.0
        least, most = (gaps for gaps in WINDOWS["window"][1:] if gaps is not None)
        weeks = 7.0 * WINDOWS["window"][0]
        return max(least * rhythm, min(weeks, most * rhythm)) / weeks

    def named(self, feature: str) -> str:
        """Return a feature's name with its days, as people read it.

        >>> Periods().named("orders_window"), Periods(recent_days=98).named("spend_recent")
        ('orders_91d', 'spend_98d')
        """
        return re.sub(
            r"_(newest|newer|recent|late|window|long)$",
            lambda end: f"_{self.spans[end[1]]}d",
            feature,
        )

    def like(self, other: Periods) -> bool:
        """Tell whether windows and half-lives are the same, whatever they were derived from."""
        derived = replace(other, rhythm_days=self.rhythm_days, history_days=self.history_days)
        return self == derived and self.pace == other.pace

    def as_json(self) -> dict[str, Any]:
        """Return all values, as a version's lineage keeps them."""
        return asdict(self)

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Periods:
        """Take back what `as_json` returned; values that this code does not know are left out."""
        known = {part.name for part in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def said(self) -> str:
        """Say the rule's answer in a sentence or two."""
        rhythm = (
            "Nobody's rhythm is known yet: a grocer's windows"
            if self.rhythm_days is None
            else f"People come back every {self.rhythm_days:.3g} days (median user)"
        )
        history = "" if self.history_days is None else f", {self.history_days} days of history"
        return (
            f"{rhythm}{history}. Features read {self.window_days} days, {self.recent_days} of them "
            f"as lately. Silence: an order in {self.silence_active_weeks} weeks, none in the next "
            f"{self.silence_weeks}. Decline: {self.decline_active_orders} orders in "
            f"{self.window_days} days, the next {self.decline_weeks} weeks compared. Spend is "
            f"expected over {self.value_days} days, recommended items within "
            f"{self.recommend_days}."
        )


GROCER = Periods()


def choose_periods(
    business: Business, rhythm_days: float | None = None, history_days: int | None = None
) -> Periods:
    """Apply the rule.

    rhythm_days: None takes a grocer's. history_days: None shrinks nothing.
    """
    churn, own = business.churn, business.windows
    rhythm = None if rhythm_days is None else min(max(rhythm_days, 1.0), 365.0)

    def weeks(what: str, least: int, most: int) -> int:
        grocer, fewest, highest = WINDOWS[what]
        if rhythm is None:
            return grocer
        below = grocer if highest is None else min(grocer, _weeks(highest * rhythm))
        return min(max(_weeks(fewest * rhythm), below, least), most)

    one_gap = _weeks(rhythm or 1.0)
    least_window, least_horizon = max(LEAST_WINDOW, one_gap), max(LEAST_HORIZON, one_gap)
    window = weeks("window", LEAST_WINDOW, MOST_WINDOW)
    silence = weeks("silence", LEAST_HORIZON, MOST_HORIZON)
    decline = weeks("decline", LEAST_HORIZON, MOST_HORIZON)
    value = weeks("value", LEAST_HORIZON, MOST_HORIZON)
    recommend = _recommend_days(rhythm)
    if history_days is not None:
        there, needed = history_days // 7, window + 2 * silence
        silence = max(min(silence, there * silence // needed), min(least_horizon, MOST_HORIZON))
        if churn.silence_weeks is None:
            window = min(window, there * window // needed)
        horizon = churn.silence_weeks or silence
        window = max(min(window, there - 2 * horizon), least_window)
        decline = min(decline, max((there - window) // 2, least_horizon), MOST_HORIZON)
        value = max(min(value, there * value // (3 * value + 8), (there - 4) // 3), 2)
        if recommend > history_days // 4:
            recommend = max(7 * (history_days // 28), RECOMMEND_LEAST)
    silence, decline = churn.silence_weeks or silence, churn.decline_weeks or decline
    window_days = own.window_days or 7 * window
    active = churn.silence_active_weeks or window_days // 7
    window_days = max(window_days, 7 * active)
    recent = own.recent_days or 7 * max(min(weeks("recent", 1, MOST_HORIZON), window_days // 14), 1)
    value_days = own.value_days or 7 * value
    recommend = business.recommendations.horizon_days or recommend
    few = window_days < 6 * (rhythm or 7.0)
    rate_days, test_days = RATE_DAYS, max(value_days, 7 * silence, 7 * decline, recommend)
    if history_days is not None:
        rest = 7 * ((history_days - 3 * value_days) // 7)
        rate_days = max(min(RATE_DAYS, rest), 7 * LEAST_WINDOW)
        test_days = min(test_days, history_days // 2)
    return Periods(
        rhythm_days=rhythm_days,
        history_days=history_days,
        window_days=window_days,
        recent_days=min(recent, window_days),
        silence_active_weeks=active,
        silence_weeks=silence,
        decline_active_orders=churn.decline_active_orders or (2 if few else 3),
        decline_weeks=decline,
        origin_step_days=own.origin_step_days or 7 * max(2 * window_days // 91, 1),
        value_days=value_days,
        rate_days=rate_days,
        recommend_days=recommend,
        test_days=test_days,
    )


def _weeks(days: float) -> int:
    """Whole weeks that hold so many days."""
    return ceil(round(days, 6) / 7)


def _recommend_days(rhythm: float | None) -> int:
    """Return a month; else the weeks that hold a longer usual gap, or ten gaps of daily habits."""
    if rhythm is None or RECOMMEND_DAYS / 10 <= rhythm <= RECOMMEND_DAYS:
        return RECOMMEND_DAYS
    return 7 * min(_weeks(rhythm if rhythm > RECOMMEND_DAYS else 10 * rhythm), MOST_HORIZON)
