"""How far Seqline looks back and ahead, in days: the only place until a business says it itself.

Whole weeks wherever possible, so that every weekday counts as often as the others. Names of columns
(`orders_91d`) and the words of reports tell the same numbers: whoever changes one changes those.
"""

RECENT_DAYS = 28
"""What happened lately, and who or what is new: four weeks."""
WINDOW_DAYS = 91
"""What features read of the past: thirteen weeks, the same at every origin, so that a feature means
the same in the first training window and on the day of serving."""
LONG_DAYS = 364
"""What is rare (coupons, answers to campaigns) is counted over 52 weeks."""
YEAR_DAYS = 365
"""The longest span of the counts in a profile: a calendar year, as people ask for it."""

WINDOWS = (7, 14, RECENT_DAYS, 56, WINDOW_DAYS)
"""Spans of the counts among the features."""
SPANS = (RECENT_DAYS, WINDOW_DAYS, YEAR_DAYS)
"""Spans of the counts in a profile."""

HORIZON_DAYS = WINDOW_DAYS
"""Over which spend is expected: more than a year of data cannot choose, judge and calibrate."""
TEST_DAYS = WINDOW_DAYS
"""The encoder is fitted before `as_of` − 91 days, so that no task's test window was seen by it."""
