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
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from seq_ml.business import Business

RECENT_DAYS = 28
WINDOW_DAYS = 91
YEAR_DAYS = 365
SPANS = (RECENT_DAYS, WINDOW_DAYS, YEAR_DAYS)
"""Spans of the counts in a profile: calendar facts, the same for every business."""
FORESEEN_DAYS = (28, 84)
"""Spans whose conversions and spend the sequence model foresees."""
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

    wished = _Lengths(
        window=weeks("window", LEAST_WINDOW, MOST_WINDOW),
        silence=weeks("silence", LEAST_HORIZON, MOST_HORIZON),
        decline=weeks("decline", LEAST_HORIZON, MOST_HORIZON),
        value=weeks("value", LEAST_HORIZON, MOST_HORIZON),
        recommend_days=_recommend_days(rhythm),
    )
    if history_days is not None:
        one_gap = _weeks(rhythm or 1.0)
        wished = _shrunk(wished, history_days, one_gap, own_silence=churn.silence_weeks)
    window, silence, decline, value, recommend = wished
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
        test_days = min(test_days, max(history_days // 2, 1))
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


class _Lengths(NamedTuple):
    """What a history has to hold: in weeks but for the last."""

    window: int
    silence: int
    decline: int
    value: int
    recommend_days: int


def _shrunk(
    wished: _Lengths, history_days: int, one_gap: int, *, own_silence: int | None
) -> _Lengths:
    """Return the lengths that a history has room for, none longer than wished.

    one_gap: the usual gap in weeks, below which window and horizons of churn do not shrink. Window
    and silence shrink in proportion: one window and two horizons, to learn from and to judge, fill
    the history. own_silence: that the business sets; the window has what it leaves. Decline has two
    horizons behind that window. Values have three horizons, and behind them eight weeks, at least
    four, that rates are taken over. A recommendation has a quarter.
    """
    weeks = history_days // 7
    least_window = max(LEAST_WINDOW, one_gap)
    least_horizon = min(max(LEAST_HORIZON, one_gap), MOST_HORIZON)
    filled = wished.window + 2 * wished.silence
    silence = max(min(wished.silence, weeks * wished.silence // filled), least_horizon)
    window = wished.window
    if own_silence is None:
        window = min(window, weeks * window // filled)
    window = max(min(window, weeks - 2 * (own_silence or silence)), least_window)
    value = min(wished.value, weeks * wished.value // (3 * wished.value + 8), (weeks - 4) // 3)
    recommend = wished.recommend_days
    if recommend > history_days // 4:
        recommend = max(7 * (history_days // 28), RECOMMEND_LEAST)
    return _Lengths(
        window=window,
        silence=silence,
        decline=min(wished.decline, max((weeks - window) // 2, least_horizon)),
        value=max(value, 2),
        recommend_days=recommend,
    )


def _weeks(days: float) -> int:
    """Whole weeks that hold so many days."""
    return ceil(round(days, 6) / 7)


def _recommend_days(rhythm: float | None) -> int:
    """Return a month; else the weeks that hold a longer usual gap, or ten gaps of daily habits."""
    if rhythm is None or RECOMMEND_DAYS / 10 <= rhythm <= RECOMMEND_DAYS:
        return RECOMMEND_DAYS
    return 7 * min(_weeks(rhythm if rhythm > RECOMMEND_DAYS else 10 * rhythm), MOST_HORIZON)
