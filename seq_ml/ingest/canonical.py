"""Turn the rows of a file into rows of the contract, keeping what could not be understood.

Every row of the file comes out, typed; a value that cannot be read is null and listed in `errors`
(rule, column, value as found), so that the clean stage can quarantine the row with its reason.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.ingest.mapping import FileMapping, MappingError, SourceMapping, nearest
from seq_ml.schema import Column, polars_dtype

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from seq_ml.ingest.mapping import Origin

ERROR = pl.Struct({"rule": pl.String, "column": pl.String, "value": pl.String})
STAGED_EXTRA = {
    "source_file": pl.String(),
    "row_number": pl.Int64(),
    "part": pl.Int32(),
    "landed_at": pl.Datetime("us", "UTC"),
    "errors": pl.List(ERROR),
}
ALWAYS_KNOWN = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
ISO_TIMES = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M")
CLOCK = ("%H", "%k", "%I", "%l", "%T", "%R", "%r", "%X", "%c", "%s", "%+")
"""What makes a format one of times; a format of days alone means their first instant."""
TRUE, FALSE = ("true", "1", "yes", "y", "t"), ("false", "0", "no", "n", "f")
PLAIN = (pl.String, pl.Boolean, pl.Date, pl.Datetime, pl.Null)


def to_canonical(
    frame: pl.DataFrame,
    mapping: SourceMapping,
    entry: FileMapping,
    *,
    key: str,
    landed_at: datetime,
    currency: str,
    event_ids: Callable[[Iterable[str]], list[str]],
) -> pl.DataFrame:
    """Return one row of the contract per row of `frame`, plus the columns of STAGED_EXTRA.

    `user_id` still is the source's own id. event_ids: hashes the contents of rows. Raises
    MappingError when the file lacks a mapped column, or holds what no value can be made of.
    """
    frame = _plain(frame, mapping, entry, key)
    values: dict[str, pl.Expr] = {}
    unreadable: dict[str, tuple[pl.Expr, pl.Expr]] = {}
    for column in entry.contract.columns:
        origin = entry.columns.get(column.name)
        if origin is None:
            values[column.name] = _default(column, currency)
            continue
        raw, dtype = _raw(origin, frame.schema)
        typed = _typed(raw, dtype, column, origin, mapping.timezone)
        values[column.name] = typed
        unreadable[column.name] = _unreadable(raw, dtype, typed, origin, frame.schema)
    try:
        result = frame.select(
            **values,
            source_file=pl.lit(key),
            row_number=pl.int_range(1, pl.len() + 1),
            part=pl.lit(0, dtype=pl.Int32),
            landed_at=pl.lit(landed_at).cast(pl.Datetime("us", "UTC")),
            errors=_errors(frame, entry, unreadable),
        )
    except pl.exceptions.PolarsError as error:
        raise MappingError(
            f"{key} does not fit its entry {entry.match} in mapping '{mapping.name}': "
            f"{str(error).splitlines()[0]}"
        ) from error
    if entry.table != "events":
        return result
    return _finish_events(result, mapping, entry, event_ids)


def file_by_day(events: pl.DataFrame, first_day: date) -> pl.DataFrame:
    """Set `event_date`: the UTC day of the event, or the day it landed when it has no usable time.

    A usable time lies on or after `first_day` and at most one day after the file landed.
    """
    usable = (pl.col("event_time").dt.date() >= first_day) & (
        pl.col("event_time") <= pl.col("landed_at") + pl.duration(days=1)
    )
    return events.with_columns(
        event_date=pl.when(usable.fill_null(value=False))
        .then(pl.col("event_time").dt.date())
        .otherwise(pl.col("landed_at").dt.date())
    )


def _errors(
    frame: pl.DataFrame, entry: FileMapping, unreadable: dict[str, tuple[pl.Expr, pl.Expr]]
) -> pl.Expr:
    """List (rule, column, value) of each row's unreadable values; sound columns cost nothing."""
    any_bad = frame.select(**{name: bad.any() for name, (bad, _) in unreadable.items()}).row(
        0, named=True
    )
    found = [
        pl.when(bad).then(
            pl.struct(
                rule=pl.lit(f"type:{entry.contract[name].dtype}"),
                column=pl.lit(name),
                value=value,
            )
        )
        for name, (bad, value) in unreadable.items()
        if any_bad[name]
    ]
    if not found:
        return pl.lit([], dtype=pl.List(ERROR))
    return pl.concat_list(found).list.drop_nulls()


def _finish_events(
    events: pl.DataFrame,
    mapping: SourceMapping,
    entry: FileMapping,
    event_ids: Callable[[Iterable[str]], list[str]],
) -> pl.DataFrame:
    """Give each event an id that is the same whenever and wherever the row is sent again.

    The source's own id counts within the source. Without one it is a hash of the row's content and
    of how many equal rows stood before it in the file: a re-sent batch repeats the ids, a genuine
    repeat inside a file has the next one.
    """
    if "event_id" in entry.columns:
        return events.with_columns(
            event_id=pl.when(pl.col("event_id") != "").then(
                pl.concat_str(pl.lit(f"{mapping.name}:"), "event_id")
            )
        )
    hashed = [c for c in events.columns if c not in {*STAGED_EXTRA, "event_id", "event_date"}]
    content = events.select(
        pl.concat_str(
            [pl.col(c).cast(pl.String).fill_null("\x00") for c in hashed], separator="\x1f"
        ).alias("content")
    ).with_columns(nth=pl.int_range(pl.len()).over("content"))
    rows = content.select(pl.concat_str(["content", "nth"], separator="\x1e")).to_series()
    return events.with_columns(event_id=pl.Series(event_ids(rows), dtype=pl.String))


def _plain(
    frame: pl.DataFrame, mapping: SourceMapping, entry: FileMapping, key: str
) -> pl.DataFrame:
    """Bring the mapped columns to the top, as texts, numbers, truth values, days and instants.

    Nested JSON fields (`a.b`) become columns, and an empty text is no value.
    """
    columns = []
    for name in sorted({name for origin in entry.columns.values() for name in origin.inputs}):
        value, dtype = _find(frame.schema, name)
        if dtype is None:
            raise MappingError(
                f"{key} has no column '{name}'{nearest(name, frame.columns)} "
                f"(mapping '{mapping.name}', files matching {entry.match})"
            )
        if isinstance(dtype, (pl.Categorical, pl.Enum, pl.Binary)):
            value, dtype = value.cast(pl.String), pl.String()
        if dtype not in PLAIN and not dtype.is_numeric():
            raise MappingError(
                f"{key}: column '{name}' holds {dtype}; map a column of plain values (of nested "
                f"JSON a field, like '{name}.id')"
            )
        if dtype == pl.String:
            value = pl.when(value != "").then(value)
        columns.append(value.alias(name))
    try:
        return frame.select(columns) if columns else frame
    except pl.exceptions.PolarsError as error:
        raise MappingError(f"{key} holds no text: {str(error).splitlines()[0]}") from error


def _find(schema: pl.Schema, name: str) -> tuple[pl.Expr, Any]:
    """Return a column, or a field of a nested one, with its dtype; None when it is not there."""
    if name in schema:
        return pl.col(name), schema[name]
    head, *path = name.split(".")
    value, dtype = pl.col(head), schema.get(head)
    for part in path:
        fields = {field.name: field.dtype for field in getattr(dtype, "fields", [])}
        value, dtype = value.struct.field(part), fields.get(part)
    return value, dtype


def _raw(origin: Origin, schema: pl.Schema) -> tuple[pl.Expr, Any]:
    """Return the value as the file has it, before it is typed, and its dtype."""

    def given(name: str) -> pl.Expr:
        if not origin.nulls:
            return pl.col(name)
        return pl.when(~_text(pl.col(name), schema[name]).is_in(origin.nulls)).then(pl.col(name))

    if origin.column is not None:
        return given(origin.column), schema[origin.column]
    if origin.value is not None:
        literal = pl.Series([origin.value])
        return pl.lit(origin.value), literal.dtype
    if origin.divide is not None:
        above, below = (_number(given(c), schema[c], origin) for c in origin.divide)
        return pl.when(below != 0).then(above / below), pl.Float64()
    if origin.sum is not None:
        parts = [_number(given(c), schema[c], origin) for c in origin.sum]
        return pl.sum_horizontal(parts), pl.Float64()
    if origin.concat is not None:
        texts = [_text(given(c), schema[c]) for c in origin.concat]
        joined = pl.concat_str(texts, separator=" ", ignore_nulls=True)
        return pl.when(joined != "").then(joined), pl.String()
    hits = [
        _text(pl.col(c), schema[c]).is_in(list(values)).fill_null(value=False)
        for c, values in (origin.none_of or {}).items()
    ]
    return ~pl.any_horizontal(hits), pl.Boolean()


def _typed(raw: pl.Expr, dtype: Any, column: Column, origin: Origin, timezone: str) -> pl.Expr:
    """Return the value in the contract's type; null where it cannot be read or means nothing."""
    if origin.values is not None:
        raw, dtype = _translated(_text(raw, dtype), origin), pl.String()
    if column.dtype == "datetime":
        return _instant(raw, dtype, origin.time, timezone)
    if column.dtype == "date":
        if dtype == pl.Date:
            return raw
        return _instant(raw, dtype, origin.time, timezone).dt.convert_time_zone(timezone).dt.date()
    if column.dtype == "f64":
        return _number(raw, dtype, origin)
    if column.dtype == "bool":
        word = _text(raw, dtype).str.to_lowercase()
        return pl.when(word.is_in(TRUE)).then(pl.lit(value=True)).when(word.is_in(FALSE)).then(
            pl.lit(value=False)
        )  # fmt: skip
    return _text(raw, dtype)


def _translated(text: pl.Expr, origin: Origin) -> pl.Expr:
    """Replace raw values by those of the contract, as texts."""
    values = {
        key: None if value is None else str(value) for key, value in (origin.values or {}).items()
    }
    other = text if origin.default is None else pl.lit(str(origin.default))
    replaced = text.replace_strict(
        list(values), list(values.values()), default=other, return_dtype=pl.String
    )
    return pl.when(text.is_not_null()).then(replaced)


def _unreadable(
    raw: pl.Expr, dtype: Any, typed: pl.Expr, origin: Origin, schema: pl.Schema
) -> tuple[pl.Expr, pl.Expr]:
    """Return where a value is there but could not be read, and the value as found."""
    if origin.divide or origin.sum:
        inputs = [
            pl.when(_number(pl.col(c), schema[c], origin).is_null()).then(
                _something(_text(pl.col(c), schema[c]), origin.nulls)
            )
            for c in origin.inputs
        ]
        found = pl.coalesce(inputs)
        return found.is_not_null(), found
    text = _text(raw, dtype)
    nothing = [key for key, value in (origin.values or {}).items() if value is None]
    return _something(text, nothing).is_not_null() & typed.is_null(), text


def _something(text: pl.Expr, nothing: Sequence[str]) -> pl.Expr:
    """Return the texts that the mapping does not declare to mean nothing."""
    return pl.when(~text.is_in(nothing)).then(text) if nothing else text


def _text(value: pl.Expr, dtype: Any) -> pl.Expr:
    """Return the value as text; an id that a reader turned into 12.0 is 12 again."""
    if not dtype.is_float():
        return value.cast(pl.String)
    whole = value.cast(pl.Int64, strict=False)
    return pl.when(whole == value).then(whole.cast(pl.String)).otherwise(value.cast(pl.String))


def _number(value: pl.Expr, dtype: Any, origin: Origin) -> pl.Expr:
    if dtype == pl.String:
        value = value.str.strip_chars()
        if origin.decimal_comma:
            value = value.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
    elif dtype.is_temporal():
        return pl.lit(None, dtype=pl.Float64)
    return value.cast(pl.Float64, strict=False)


def _instant(raw: pl.Expr, dtype: Any, how: str, timezone: str) -> pl.Expr:
    """Read an instant; a time without a zone is `timezone`'s wall clock (RFC 3339 otherwise).

    The hour that a clock shows twice in autumn is taken the first time; the hour that it skips in
    spring does not exist and stays null. A day means its first instant.
    """
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            return raw.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
        return _local(raw.dt.cast_time_unit("us"), timezone)
    if dtype == pl.Date:
        return _midnight(raw, timezone)
    if how in EPOCH_UNITS:
        number = (raw.cast(pl.Float64, strict=False) * EPOCH_UNITS[how]).round()
        return number.cast(pl.Int64, strict=False).cast(pl.Datetime("us", "UTC"))
    text = _text(raw, dtype)
    if how == "iso":
        # a trailing zone (Z, +02:00) decides by itself; everything else is local
        zoned = text.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
        spaced = text.str.replace("T", " ", literal=True)
        naive = pl.coalesce(
            spaced.str.to_datetime(form, time_unit="us", strict=False) for form in ISO_TIMES
        )
        day = spaced.str.to_date("%Y-%m-%d", strict=False)
        return pl.coalesce(zoned, _local(naive, timezone), _midnight(day, timezone))
    if "%z" in how or "%#z" in how:
        return text.str.to_datetime(how, time_unit="us", time_zone="UTC", strict=False)
    if any(part in how for part in CLOCK):
        return _local(text.str.to_datetime(how, time_unit="us", strict=False), timezone)
    return _midnight(text.str.to_date(how, strict=False), timezone)


def _local(naive: pl.Expr, timezone: str) -> pl.Expr:
    return naive.dt.replace_time_zone(
        timezone, ambiguous="earliest", non_existent="null"
    ).dt.convert_time_zone("UTC")


def _midnight(day: pl.Expr, timezone: str) -> pl.Expr:
    """Return a day's first instant: one o'clock where the clock skips midnight in spring."""
    midnight = day.cast(pl.Datetime("us"))
    return pl.coalesce(_local(midnight, timezone), _local(midnight.dt.offset_by("1h"), timezone))


def _default(column: Column, currency: str) -> pl.Expr:
    dtype = polars_dtype(column.dtype)
    if column.name == "currency":
        return pl.lit(currency, dtype=dtype)
    if column.name == "valid_from":
        return pl.lit(ALWAYS_KNOWN).cast(dtype)
    if column.name == "is_merchandise":
        return pl.lit(value=True)
    return pl.lit(None, dtype=dtype)
