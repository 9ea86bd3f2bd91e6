"""Clean staged events: publish what is sound, drop what was sent twice, set the rest aside.

Second stage, after ingest. One call takes one day or a range of days of staged events and decides
about every row, once: kept, duplicate, or quarantined with the rule that it broke. Nothing gets
lost: rows read = rows kept + duplicates + quarantined, for each file and day, exactly. A row's fate
depends on the rows of its own UTC day only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.business import Business
from seq_ml.clean.rules.bots import bot_events
from seq_ml.clean.rules.duplicates import (
    ARRIVAL,
    CONTENT,
    ROW,
    id_hash,
    identities,
    repeated_clicks,
)
from seq_ml.clean.rules.row_rules import first_failing, is_browsing, prepared, row_rules
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.schema.stages import COUNTS, RULE_COUNTS

if TYPE_CHECKING:
    from datetime import date

    from seq_ml.clean.rules.row_rules import Rule


# Positions beyond the row rules in the series of outcomes; null means kept.
STAGED_ERROR, BOT, REPEATED_CLICK, DUPLICATE = 252, 253, 254, 255

DUPLICATES = {
    DUPLICATE: ("duplicate", "event_id"),
    REPEATED_CLICK: ("repeated_click", "event_time"),
}

FILLED = "filled"


@dataclass(frozen=True)
class Cleaned:
    """The outcome of one cleaning call.

    events: schema EVENTS, sorted by event_date, event_time, event_id; (event_id, event_date) is
    unique.
    quarantined: schema QUARANTINED, one row per rejected row, sorted by event_date, file and row.
    counts: schema COUNTS, one row per (event_date, source_file), sorted by both.
    rules: schema RULE_COUNTS, sorted by its key; without the rules of which nothing was found.
    """

    events: pl.DataFrame
    quarantined: pl.DataFrame
    counts: pl.DataFrame
    rules: pl.DataFrame


@dataclass(frozen=True)
class Judged:
    """Rows after the rules about single rows.

    outcome: u8, one per row of `frame`: null for a sound row, else the position of its rule in
    `rules`, or STAGED_ERROR. filled: Boolean columns that tell where a value was filled in.
    """

    frame: pl.DataFrame
    outcome: pl.Series
    rules: list[Rule]
    filled: pl.DataFrame


def clean_events(
    staged: pl.LazyFrame | pl.DataFrame,
    *,
    first_day: date,
    business: Business | None = None,
    decided: pl.DataFrame | None = None,
) -> Cleaned:
    """Decide about every staged row; the order of the rows does not matter.

    staged: the columns of EVENTS (a value that could not be cast is null) plus source_file (str),
    row_number (i64), part (i32), landed_at (datetime) and errors (list of structs rule, column,
    value: what ingest already found). event_date is the UTC day of event_time, or the day of
    arrival when there is no usable time. first_day: older events have a broken clock. business: its
    currency and what makes an event unfit; the defaults when it is None. decided: what `identities`
    decided about sound rows whose id is shared by rows outside of `staged`.

    A row is judged by ingest's own errors first, then by `row_rules` in their order. Sound rows get
    their final event_id, and those of an event that arrived before are duplicates (so a broken row
    never shadows its correction); what is left goes through repeated clicks and the bot rules.
    Raises ValueError when a staged row has no file, row number, part, arrival or day.
    """
    business = business or Business()
    judged = judge(staged.lazy().collect().rechunk(), business, first_day=first_day)
    frame, outcome = judged.frame, judged.outcome
    frame, duplicates = _identified(frame, outcome, decided)
    outcome = outcome.scatter(duplicates, DUPLICATE)
    bots = _bots_and_clicks(frame, outcome, business)
    outcome = outcome.scatter(bots.filter(pl.col("rule").is_null())["position"], REPEATED_CLICK)
    bots = bots.filter(pl.col("rule").is_not_null())
    outcome = outcome.scatter(bots["position"], BOT)

    counts = _counts(frame, outcome)
    quarantined = _quarantined(frame, outcome, judged.rules, bots)
    rules = _rule_counts(frame, outcome, quarantined, judged.filled)
    events = _events(frame, outcome)
    cleaned = Cleaned(events, quarantined, counts, rules)
    _assert_nothing_lost(cleaned, frame.height)
    return cleaned


def judge(staged: pl.DataFrame, business: Business, *, first_day: date) -> Judged:
    """Prepare the rows and judge each by itself (see `clean_events`)."""
    for name in ("event_date", *ARRIVAL):
        if staged[name].null_count():
            raise ValueError(f"Staged events without {name}: ingest must give every row one.")
    frame, filled = prepared(staged, business)
    rules = row_rules(business, first_day=first_day)
    # Most rules find nothing: one look at all of them, and only the others are told apart.
    hits = frame.select(rule.failed.any().alias(str(n)) for n, rule in enumerate(rules)).row(0)
    rules = [rule for rule, hit in zip(rules, hits, strict=True) if hit]
    broken = pl.when(pl.col("errors").list.len() > 0).then(pl.lit(STAGED_ERROR, pl.UInt8))
    outcome = frame.select(pl.coalesce(broken, first_failing(rules))).to_series()
    return Judged(frame, outcome, rules, filled)


def _identified(
    frame: pl.DataFrame, outcome: pl.Series, decided: pl.DataFrame | None
) -> tuple[pl.DataFrame, pl.Series]:
    """Return the rows with their final event_id, and the positions of the duplicates."""
    sound = outcome.is_null()
    ids = frame.select(id_hash()).to_series()
    shared = sound & ids.is_in(ids.filter(sound & ids.is_duplicated()).unique().implode())
    rows = frame.select("event_id", "event_date", *ARRIVAL).with_row_index("position")
    before = pl.DataFrame(schema={**rows.schema, "duplicate": pl.Boolean})
    if decided is not None and decided.height:
        before = rows.drop("event_id").join(
            decided.select(*ROW, "event_id", "duplicate"), on=ROW, how="inner"
        )
        shared = shared.scatter(before["position"], values=False)
    settled = pl.concat(
        [identities(rows.filter(shared)), before.select("position", "event_id", "duplicate")],
        how="diagonal",
    )
    renamed = settled.filter(pl.col("event_id") != frame["event_id"].gather(settled["position"]))
    if renamed.height:
        event_ids = frame["event_id"].scatter(renamed["position"], renamed["event_id"])
        frame = frame.with_columns(event_id=event_ids)
    return frame, settled.filter("duplicate")["position"]


def _bots_and_clicks(frame: pl.DataFrame, outcome: pl.Series, business: Business) -> pl.DataFrame:
    """Return position, rule and value of bots' events; rule is null for a repeated click."""
    limits = business.cleaning
    window = limits.duplicate_window_seconds
    seen = ["event_id", *CONTENT] if window else ["user_id", "event_type"]
    browsing = (
        frame.select("event_date", "event_time", *seen)
        .with_row_index("position")
        .filter(outcome.is_null(), is_browsing(business))
    )
    empty = pl.DataFrame(schema={"position": pl.UInt32, "rule": pl.String, "value": pl.String})
    removed = [empty]
    if window:
        clicks = repeated_clicks(browsing, window_seconds=window)
        removed.append(clicks.select("position"))
        browsing = browsing.join(clicks, on="position", how="anti")
    removed.append(bot_events(browsing, limits).select("position", "rule", "value"))
    return pl.concat(removed, how="diagonal")


def _events(frame: pl.DataFrame, outcome: pl.Series) -> pl.DataFrame:
    # event_time decides the day of a sound event, so it sorts by day as well
    order = (
        frame.select("event_time", "event_id")
        .with_row_index("position")
        .filter(outcome.is_null())
        .sort("event_time", "event_id")["position"]
    )
    return frame.select(
        pl.col(name).gather(order).cast(dtype) for name, dtype in EVENTS.polars_schema().items()
    )


def _quarantined(
    frame: pl.DataFrame, outcome: pl.Series, rules: list[Rule], bots: pl.DataFrame
) -> pl.DataFrame:
    rejected = (
        frame.with_row_index("position")
        .with_columns(outcome=outcome)
        .filter(pl.col("outcome") < REPEATED_CLICK)
        .join(
            bots.select("position", bot="rule", found="value"),
            on="position",
            how="left",
            maintain_order="left",
        )
    )
    staged_error, code = pl.col("errors").list.first(), pl.col("outcome")

    def reason(field: str, per_rule: list[pl.Expr], bot: pl.Expr) -> pl.Expr:
        chosen = [
            pl.when(code == STAGED_ERROR).then(staged_error.struct.field(field)),
            pl.when(code == BOT).then(bot),
            *(pl.when(code == n).then(expr) for n, expr in enumerate(per_rule)),
        ]
        return pl.coalesce(chosen)

    return (
        rejected.select(
            *ROW,
            "event_date",
            table=pl.lit("events"),
            rule=reason("rule", [pl.lit(rule.name) for rule in rules], pl.col("bot")),
            column=reason("column", [pl.lit(rule.column) for rule in rules], pl.lit("event_time")),
            value=reason("value", [rule.value for rule in rules], pl.col("found")),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in QUARANTINED.polars_schema().items())
        .sort("event_date", *ROW)
    )


def _counts(frame: pl.DataFrame, outcome: pl.Series) -> pl.DataFrame:
    code = pl.col("outcome")
    return (
        frame.lazy()
        .select("event_date", "source_file", outcome=outcome)
        .group_by("event_date", "source_file")
        .agg(
            rows_read=pl.len(),
            rows_kept=code.is_null().sum(),
            rows_duplicate=(code >= REPEATED_CLICK).sum(),
            rows_quarantined=(code < REPEATED_CLICK).sum(),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in COUNTS.polars_schema().items())
        .sort("event_date", "source_file")
        .collect()
    )


def _rule_counts(
    frame: pl.DataFrame, outcome: pl.Series, quarantined: pl.DataFrame, filled: pl.DataFrame
) -> pl.DataFrame:
    counted = [(outcome == code, *names) for code, names in DUPLICATES.items()]
    counted += [(filled[name] & outcome.is_null(), FILLED, name) for name in filled.columns]
    decisions = [quarantined.select("event_date", "rule", "column")]
    decisions += [
        frame.select("event_date")
        .filter(chosen)
        .with_columns(rule=pl.lit(rule), column=pl.lit(column))
        for chosen, rule, column in counted
    ]
    return (
        pl.concat(decisions)
        .group_by("event_date", "rule", "column")
        .agg(rows=pl.len())
        .select(pl.col(name).cast(dtype) for name, dtype in RULE_COUNTS.polars_schema().items())
        .sort("event_date", "rule", "column")
    )


def _assert_nothing_lost(cleaned: Cleaned, rows_read: int) -> None:
    counts = cleaned.counts
    parts = counts["rows_kept"] + counts["rows_duplicate"] + counts["rows_quarantined"]
    assert (counts["rows_read"] == parts).all(), "rows read ≠ kept + duplicates + quarantined"
    assert counts["rows_read"].sum() == rows_read, "counts do not cover the rows read"
    assert counts["rows_kept"].sum() == cleaned.events.height, "counts ≠ rows published"
    assert counts["rows_quarantined"].sum() == cleaned.quarantined.height, "counts ≠ quarantine"
