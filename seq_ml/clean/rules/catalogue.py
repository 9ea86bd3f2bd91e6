"""Every named rule of cleaning: what it means, what happens to the row, and what to do about it.

`docs/cleaning.md` and `seqline quarantine` are made from this list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seq_ml.business import Cleaning
from seq_ml.schema import EVENTS

if TYPE_CHECKING:
    from seq_ml.schema import Column

QUARANTINE, DROP, CHANGE = "quarantined", "dropped", "changed"
CORRECT = "Correct the source, then drop the file again under the same name."


@dataclass(frozen=True)
class Named:
    """One rule by its name.

    parameter: the field of `business.cleaning` (or the setting) that it follows, if any.
    """

    name: str
    outcome: str
    meaning: str
    advice: str
    parameter: str = ""


CATALOGUE = (
    # what ingest finds; the name goes on with the type, like `type:f64`
    Named(
        "type",
        QUARANTINE,
        "A value is there but cannot be read in the column's type.",
        "Give the column its `time` format, `decimal_comma`, `values` or `nulls` in the mapping; "
        "`seqline sources check` shows what is understood.",
    ),
    Named(
        "ragged",
        QUARANTINE,
        "The row has more or fewer fields than the header, or another shape than the other lines.",
        "Put quotes around fields that hold the separator, and drop the file again.",
    ),
    Named(
        "not_json",
        QUARANTINE,
        "The line is no JSON object, or a column holds a list in some lines and none in this one.",
        CORRECT,
    ),
    Named(
        "no_event",
        QUARANTINE,
        "The row carries no record: its list of lines is empty, or none of its times is there.",
        "Nothing, unless `lines`, `when` or the times in the mapping name the wrong column.",
    ),
    Named(
        "too_long",
        QUARANTINE,
        "A value is longer than a megabyte.",
        "Look for a missing quote, or leave the column out of the mapping.",
    ),
    Named(
        "personal_data",
        QUARANTINE,
        "An id or a label holds an e-mail address or a card number.",
        "Map another column: personal data has no place in ids.",
    ),
    Named(
        "no_consent",
        QUARANTINE,
        "The user did not consent; nothing of the row was kept.",
        "Nothing, unless the mapping's `consent` names the wrong column or value.",
    ),
    Named(
        "test_account",
        QUARANTINE,
        "The user is a test account of the mapping's deny list; nothing of the row was kept.",
        "Nothing, unless a pattern of `test_users` in the mapping is too wide.",
    ),
    Named(
        "erased",
        QUARANTINE,
        "The user was erased; nothing of the row was kept.",
        "Nothing.",
    ),
    # what the contract demands
    Named(
        "required",
        QUARANTINE,
        "A value that every event must have is missing.",
        "Map the column, or let the source send it.",
    ),
    Named(
        "allowed",
        QUARANTINE,
        "The value is none of those that the contract lists.",
        "Translate it with `values` in the mapping.",
    ),
    Named(
        "behaviour",
        QUARANTINE,
        "The business has no such behaviour.",
        "Give it a role under `behaviours:` in the mapping, or translate it with `values`.",
    ),
    Named("finite", QUARANTINE, "The number is NaN or infinite.", CORRECT),
    Named(
        "minimum",
        QUARANTINE,
        "The number is below the contract's minimum, like a negative quantity or price.",
        "If it means a refund, map such rows to `refund` with a positive number; else correct the "
        "source.",
    ),
    Named(
        "maximum",
        QUARANTINE,
        "The number is above the contract's maximum.",
        "Look for a wrong unit (cents, grams) and convert it in the mapping.",
    ),
    # what the business knows
    Named(
        "absurd",
        QUARANTINE,
        "The quantity or the price is higher than this business ever sees.",
        "Look for a wrong unit, or raise the limit in `business.cleaning`.",
        "max_quantity, max_unit_price",
    ),
    Named(
        "currency",
        QUARANTINE,
        "The currency is no code of three letters.",
        "Translate it with `values` in the mapping.",
    ),
    Named(
        "no_time",
        QUARANTINE,
        "The event has the first or last day of a calendar, like 1970-01-01: no time was known.",
        "Look for a wrong epoch unit in the mapping, or map a column that has the time.",
    ),
    Named(
        "future",
        QUARANTINE,
        "The event claims to be later than the arrival of its file.",
        "Look for a wrong time zone or epoch unit in the mapping, or a wrong clock.",
        "future_tolerance_minutes",
    ),
    Named(
        "before_first_day",
        QUARANTINE,
        "The event is older than the first day: a broken clock.",
        "Look for a wrong epoch unit in the mapping, or set an earlier SEQLINE_FIRST_DAY.",
        "SEQLINE_FIRST_DAY",
    ),
    Named(
        "before_start",
        QUARANTINE,
        "The contract ends, or was cancelled, before it starts: it never ran.",
        "Look for two dates that were swapped in the mapping; of a contract that never ran no row "
        "is needed.",
    ),
    Named(
        "misfiled",
        QUARANTINE,
        "The event was filed under its day of arrival, since its time could not be used when its "
        "file was read; meanwhile it can.",
        "Nothing: its file is read and filed anew; drop it again if it is no longer there.",
    ),
    Named(
        "too_late",
        QUARANTINE,
        "The event arrived later than the tolerated lag.",
        "Allow more in `business.cleaning`; its day is then cleaned anew.",
        "lateness_days",
    ),
    # what other rows show
    Named(
        "duplicate",
        DROP,
        "An event with the same id arrived before, on the same UTC day: a re-sent row or batch.",
        "Nothing; if the source's ids are not unique, leave `event_id` out of the mapping.",
    ),
    Named(
        "repeated_click",
        DROP,
        "An equal browsing event of the same user stands closer than the window before it.",
        "Nothing; 0 switches the rule off.",
        "duplicate_window_seconds",
    ),
    Named(
        "bot_rate",
        QUARANTINE,
        "The user browsed faster than a person can in that minute.",
        "Nothing for a scraper; for a shared user id (guests) map it to null or raise the limit.",
        "bot_events_per_minute",
    ),
    Named(
        "bot_regular",
        QUARANTINE,
        "The user browsed all day at an even pace, like a timer.",
        "Nothing for a scraper or a monitor; raise the limit if people look like that.",
        "bot_regular_events",
    ),
    # what is put right
    Named(
        "filled",
        CHANGE,
        "A missing value got the one that the table below states.",
        "Map the column if the source has it.",
    ),
)


def describe_rule(rule: str) -> Named | None:
    """Return the entry of a rule as the quarantine names it (`type:f64` is `type`), if any."""
    return next((named for named in CATALOGUE if named.name == rule.partition(":")[0]), None)


def rules_markdown() -> str:
    """Render the reference of all rules, of missing values and of the parameters."""
    limits = Cleaning()
    rules = ["| rule | a row is | when | what to do | parameter |", "|---|---|---|---|---|"]
    rules += [
        f"| `{n.name}{':<type>' if n.name == 'type' else ''}` | {n.outcome} | {n.meaning} "
        f"| {n.advice} | {', '.join(f'`{p}`' for p in n.parameter.split(', ') if p)} |"
        for n in CATALOGUE
    ]
    missing = ["| column | without a value |", "|---|---|"]
    missing += [f"| `{column.name}` | {_missing(column)} |" for column in EVENTS.columns]
    parameters = ["| parameter | default | meaning |", "|---|---|---|"]
    parameters += [
        f"| `{name}` | {'' if getattr(limits, name) is None else f'{getattr(limits, name):,}'} "
        f"| {field.description} |"
        for name, field in Cleaning.model_fields.items()
    ]
    return "\n\n".join("\n".join(table) for table in (rules, missing, parameters))


def _missing(column: Column) -> str:
    words = {
        "reject": "the row is quarantined (`required`)",
        "keep": "stays empty",
        "derive": "is derived at ingest",
        "business": f"the business' {column.name}",
    }
    said = words.get(column.if_missing, f"{column.if_missing}")
    return f"{said} for {', '.join(column.missing_for)}" if column.missing_for else said
