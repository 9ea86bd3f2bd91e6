"""Turn the rows of a file into rows of the contract, keeping what could not be understood.

Every row of the file comes out, typed; a value that cannot be read is null and listed in `errors`
(rule, column, value as found), so that the clean stage can quarantine the row with its reason.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.ingest.mapping import FileMapping, MappingError, SourceMapping, nearest
from seq_ml.schema import Column, polars_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seq_ml.ingest.mapping import Field_

ERROR = pl.Struct({"rule": pl.String, "column": pl.String, "value": pl.String})
STAGED_EXTRA = {
    "source_file": pl.String(),
    "row_number": pl.Int64(),
    "landed_at": pl.Datetime("us", "UTC"),
    "errors": pl.List(ERROR),
}
ALWAYS_KNOWN = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
TRUE, FALSE = ("true", "1", "yes", "y", "t"), ("false", "0", "no", "n", "f")


def to_canonical(
    frame: pl.DataFrame,
    mapping: SourceMapping,
    entry: FileMapping,
    *,
    key: str,
    landed_at: datetime,
    currency: str,
) -> pl.DataFrame:
    """Return one row of the contract per row of `frame`, plus the columns of STAGED_EXTRA.

    `user_id` still is the source's own id. Raises MappingError when the file lacks a mapped column.
    """
    frame = _flatten(frame, entry)
    for name in entry.columns.values():
        for wanted in name.inputs:
            if wanted not in frame.columns:
                raise MappingError(
                    f"{key} has no column '{wanted}'{nearest(wanted, frame.columns)} "
                    f"(mapping '{mapping.name}', files matching {entry.match})"
                )
    values: dict[str, pl.Expr] = {}
    unreadable: dict[str, tuple[pl.Expr, pl.Expr]] = {}
    for column in entry.contract.columns:
        field = entry.columns.get(column.name)
        if field is None:
            values[column.name] = _default(column, currency)
            continue
        source = _raw(field, frame.schema)
        typed = _typed(source, column, field, frame.schema, mapping.timezone)
        values[column.name] = typed
        bad = source.is_not_null() & typed.is_null()
        if field.nulls or field.values:
            bad = bad & ~_means_nothing(field, frame.schema)
        unreadable[column.name] = (bad, source.cast(pl.String))
    result = frame.select(
        **values,
        source_file=pl.lit(key),
        row_number=pl.int_range(1, pl.len() + 1),
        landed_at=pl.lit(landed_at).cast(pl.Datetime("us", "UTC")),
        errors=_errors(frame, entry, unreadable),
    )
    if entry.table != "events":
        return result
    return _finish_events(result, landed_at)


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
    """List (rule, column, value) of each row's unreadable values; columns without any cost nothing."""
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


def _finish_events(events: pl.DataFrame, landed_at: datetime) -> pl.DataFrame:
    """Give each event an id that is the same whenever and wherever the row is sent again.

    The id is a hash of the row's content and of how many equal rows stood before it in the file:
    a re-sent batch repeats the ids, a genuine repeat inside a file has the next one.
    """
    hashed = [c for c in events.columns if c not in {*STAGED_EXTRA, "event_id", "event_date"}]
    if events["event_id"].null_count() == events.height:
        content = events.select(
            pl.concat_str(
                [pl.col(c).cast(pl.String).fill_null("\x00") for c in hashed], separator="\x1f"
            ).alias("content")
        ).with_columns(nth=pl.int_range(pl.len()).over("content"))
        ids = content_hashes(
            content.select(pl.concat_str(["content", "nth"], separator="\x1e")).to_series()
        )
        events = events.with_columns(event_id=pl.Series(ids, dtype=pl.String))
    return events.with_columns(event_date=pl.lit(landed_at.date()))


def content_hashes(rows: Sequence[str] | pl.Series) -> list[str]:
    """BLAKE2b of each text, 32 hex digits: stable across versions and machines (RFC 7693)."""
    blake2b = hashlib.blake2b
    return [blake2b(row.encode(), digest_size=16).hexdigest() for row in rows]


def _flatten(frame: pl.DataFrame, entry: FileMapping) -> pl.DataFrame:
    """Bring nested JSON fields that the mapping names (`a.b`) to the top."""
    nested: list[pl.Expr] = []
    for field in entry.columns.values():
        for name in field.inputs:
            head, *path = name.split(".")
            if name in frame.columns or not path or head not in frame.columns:
                continue
            expression = pl.col(head)
            dtype: Any = frame.schema[head]
            for part in path:
                fields = {f.name: f.dtype for f in getattr(dtype, "fields", [])}
                if part not in fields:
                    break
                expression, dtype = expression.struct.field(part), fields[part]
            else:
                nested.append(expression.alias(name))
    return frame.with_columns(nested)


def _raw(field: Field_, schema: pl.Schema) -> pl.Expr:
    """The value as the file has it, before it is typed."""
    if field.column is not None:
        return pl.col(field.column)
    if field.value is not None:
        return pl.lit(field.value)
    if field.divide is not None:
        above, below = (_number(pl.col(c), schema[c], field) for c in field.divide)
        return pl.when(below != 0).then(above / below)
    if field.sum is not None:
        return pl.sum_horizontal(_number(pl.col(c), schema[c], field) for c in field.sum)
    if field.concat is not None:
        parts = [pl.col(c).cast(pl.String) for c in field.concat]
        return pl.concat_str(parts, separator=" ", ignore_nulls=True)
    listed = field.none_of or {}
    hits = [
        pl.col(c).cast(pl.String).is_in(list(values)).fill_null(value=False)
        for c, values in listed.items()
    ]
    return ~pl.any_horizontal(hits)


def _means_nothing(field: Field_, schema: pl.Schema) -> pl.Expr:
    raw = _raw(field, schema).cast(pl.String)
    mapped_to_null = [k for k, v in (field.values or {}).items() if v is None]
    return raw.is_in([*field.nulls, *mapped_to_null])


def _typed(
    raw: pl.Expr, column: Column, field: Field_, schema: pl.Schema, timezone: str
) -> pl.Expr:
    dtype = polars_dtype(column.dtype)
    source_type = schema[field.column] if field.column else None
    if field.nulls:
        raw = pl.when(~raw.cast(pl.String).is_in(list(field.nulls))).then(raw)
    if field.values is not None:
        target = pl.Boolean if column.dtype == "bool" else pl.String
        return raw.cast(pl.String).replace_strict(
            list(field.values),
            [v if v is None or target is pl.Boolean else str(v) for v in field.values.values()],
            default=pl.lit(field.default) if field.default is not None else raw.cast(pl.String),
            return_dtype=target,
        ).cast(dtype, strict=False)  # fmt: skip
    if column.dtype == "datetime":
        return _instant(raw, source_type, field.time, timezone)
    if column.dtype == "date":
        if source_type == pl.String or source_type is None:
            pattern = None if field.time == "iso" else field.time
            return raw.cast(pl.String).str.to_date(pattern, strict=False)
        return raw.cast(pl.Date, strict=False)
    if column.dtype in ("f64", "f32"):
        return _number(raw, source_type, field)
    if column.dtype == "bool" and source_type == pl.String:
        text = raw.str.to_lowercase()
        return pl.when(text.is_in(list(TRUE))).then(pl.lit(value=True)).when(
            text.is_in(list(FALSE))
        ).then(pl.lit(value=False))  # fmt: skip
    if column.dtype == "str" and source_type is not None and source_type.is_float():
        whole = raw.cast(pl.Int64, strict=False)  # an id that a reader turned into 12.0
        return pl.when(whole == raw).then(whole.cast(pl.String)).otherwise(raw.cast(pl.String))
    return raw.cast(dtype, strict=False)


def _number(raw: pl.Expr, source_type: Any, field: Field_) -> pl.Expr:
    if source_type == pl.String:
        text = raw.str.strip_chars()
        if field.decimal_comma:
            text = text.str.replace_all(".", "", literal=True).str.replace(",", ".", literal=True)
        raw = text
    return raw.cast(pl.Float64, strict=False)


def _instant(raw: pl.Expr, source_type: Any, how: str, timezone: str) -> pl.Expr:
    """Read an instant; a time without a zone is `timezone`'s wall clock (RFC 3339 otherwise).

    The hour that a clock shows twice in autumn is taken the first time; the hour that it skips in
    spring does not exist and stays null.
    """
    if how in EPOCH_UNITS:
        number = raw.cast(pl.Float64, strict=False) * EPOCH_UNITS[how]
        return number.cast(pl.Int64, strict=False).cast(pl.Datetime("us", "UTC"))
    if isinstance(source_type, pl.Datetime) and source_type.time_zone is not None:
        return raw.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
    naive: pl.Expr
    if source_type is None or source_type == pl.String:
        text = raw.cast(pl.String)
        if how == "iso":
            # a trailing zone (Z, +02:00) decides by itself; everything else is local
            zoned = text.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
            spaced = text.str.replace("T", " ", literal=True)
            forms = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
            naive = pl.coalesce(
                spaced.str.to_datetime(form, time_unit="us", strict=False)
                if "%H" in form
                else spaced.str.to_date(form, strict=False).cast(pl.Datetime("us"))
                for form in forms
            )
            return pl.coalesce(zoned, _local(naive, timezone))
        has_time = "%H" in how or "%I" in how
        naive = (
            text.str.to_datetime(how, time_unit="us", strict=False)
            if has_time
            else text.str.to_date(how, strict=False).cast(pl.Datetime("us"))
        )
    else:
        naive = raw.cast(pl.Datetime("us"), strict=False)
    return _local(naive, timezone)


def _local(naive: pl.Expr, timezone: str) -> pl.Expr:
    return naive.dt.replace_time_zone(
        timezone, ambiguous="earliest", non_existent="null"
    ).dt.convert_time_zone("UTC")


def _default(column: Column, currency: str) -> pl.Expr:
    dtype = polars_dtype(column.dtype)
    if column.name == "currency":
        return pl.lit(currency, dtype=dtype)
    if column.name == "valid_from":
        return pl.lit(ALWAYS_KNOWN).cast(dtype)
    if column.name == "is_merchandise":
        return pl.lit(value=True)
    return pl.lit(None, dtype=dtype)
