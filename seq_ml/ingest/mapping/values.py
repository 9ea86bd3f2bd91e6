"""Origins of a mapping as Polars expressions: the value as found, and the value as typed.

Everything here is pure: expressions over a frame whose columns are the mapped columns of a file
(texts, numbers, truth values, days, instants), named as the mapping names them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from seq_ml.schema import Column, polars_dtype

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seq_ml.ingest.mapping.source import Origin

ALWAYS_KNOWN = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH_UNITS = {"epoch_s": 1_000_000, "epoch_ms": 1_000, "epoch_us": 1}
CLOCK = ("%H", "%k", "%I", "%l", "%T", "%R", "%r", "%X", "%c", "%s", "%+")
"""What makes a format one of times; a format of days alone means their first instant."""
TRUE, FALSE = ("true", "1", "yes", "y", "t"), ("false", "0", "no", "n", "f")


@dataclass(frozen=True)
class Reading:
    """How one column of the contract is read.

    value: the typed value, null where it cannot be read.  found: text, where something stands that
    the mapping does not declare to mean nothing; None for an origin that cannot be misread.
    thorough: a slower `value` that reads more forms.  partial: any `found` is a failure, even when
    a value could be made of the other parts.
    """

    value: pl.Expr
    found: pl.Expr | None = None
    thorough: pl.Expr | None = None
    partial: bool = False


def reading(column: Column, origin: Origin, frame: pl.DataFrame, timezone: str) -> Reading:
    """Return how `column` is read from `frame`."""
    schema = frame.schema
    if origin.divide or origin.sum or origin.multiply:
        value = _typed(*raw(origin, schema), column, origin, timezone)
        parts = [
            pl.when(_number(pl.col(c), schema[c], origin).is_null()).then(
                _something(_text(pl.col(c), schema[c]), origin.nulls)
            )
            for c in origin.inputs
            if not schema[c].is_numeric()
        ]
        return Reading(value, pl.coalesce(parts) if parts else None, partial=True)
    raw_value, dtype = raw(origin, schema)
    nothing = [key for key, value in origin.translation.items() if value is None]
    text = _something(_text(raw_value, dtype), nothing)
    if column.dtype == "str":
        return Reading(_typed(raw_value, dtype, column, origin, timezone))
    if origin.values is None and (
        (column.dtype == "f64" and dtype.is_numeric())
        or (column.dtype == "bool" and dtype == pl.Boolean)
    ):
        return Reading(_typed(raw_value, dtype, column, origin, timezone))
    if column.dtype == "datetime" and dtype == pl.String and origin.time == "iso":
        value = raw_value
        if origin.values is not None:
            value = _translated(raw_value, origin)
        forms = _iso_forms(value, timezone)
        return Reading(_likeliest(forms, value, frame), text, thorough=pl.coalesce(forms))
    return Reading(_typed(raw_value, dtype, column, origin, timezone), text)


def raw(origin: Origin, schema: pl.Schema) -> tuple[pl.Expr, Any]:
    """Return the value as the file has it, before it is typed, and its dtype."""

    def column(name: str) -> pl.Expr:
        if not origin.nulls:
            return pl.col(name)
        return pl.when(~_text(pl.col(name), schema[name]).is_in(origin.nulls)).then(pl.col(name))

    def number(part: str | float) -> pl.Expr:
        if isinstance(part, str):
            return _number(column(part), schema[part], origin)
        return pl.lit(float(part))

    if origin.column is not None:
        return column(origin.column), schema[origin.column]
    if origin.value is not None:
        literal = pl.Series([origin.value])
        return pl.lit(origin.value), literal.dtype
    if origin.divide is not None:
        above, below = (number(part) for part in origin.divide)
        return pl.when(below != 0).then(above / below), pl.Float64()
    if origin.multiply is not None:
        product = pl.lit(1.0)
        for part in origin.multiply:
            product = product * number(part)
        return product, pl.Float64()
    if origin.sum is not None:
        return pl.sum_horizontal(number(part) for part in origin.sum), pl.Float64()
    if origin.concat is not None:
        texts = [_text(column(c), schema[c]) for c in origin.concat]
        joined = pl.concat_str(texts, separator=" ", ignore_nulls=True)
        return pl.when(joined != "").then(joined), pl.String()
    hits = [
        has_value(c, values, schema).fill_null(value=False)
        for c, values in (origin.none_of or {}).items()
    ]
    return ~pl.any_horizontal(hits), pl.Boolean()


def find(schema: pl.Schema, name: str) -> tuple[pl.Expr, pl.DataType | None]:
    """Return a column, or a field of a nested one, with its dtype; None when it is not there."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        head = ".".join(parts[:length])
        if head not in schema:
            continue
        value, dtype = pl.col(head), schema[head]
        for part in parts[length:]:
            fields = {field.name: field.dtype for field in getattr(dtype, "fields", [])}
            if part not in fields:
                return value, None
            value, dtype = value.struct.field(part), fields[part]
        return value, dtype
    return pl.col(name), None


def has_value(name: str, values: Sequence[str], schema: pl.Schema) -> pl.Expr:
    """Return where a column has one of the values, which are texts."""
    return _text(pl.col(name), schema[name]).is_in(list(values))


def default(column: Column, currency: str) -> pl.Expr:
    """Return the value of a column that the mapping does not name."""
    dtype = polars_dtype(column.dtype)
    if column.name == "currency":
        return pl.lit(currency, dtype=dtype)
    if column.name == "valid_from":
        return pl.lit(ALWAYS_KNOWN).cast(dtype)
    if column.name == "is_merchandise":
        return pl.lit(value=True)
    return pl.lit(None, dtype=dtype)


def _typed(value: pl.Expr, dtype: Any, column: Column, origin: Origin, timezone: str) -> pl.Expr:
    """Return the value in the contract's type; null where it cannot be read or means nothing."""
    if origin.values is not None:
        value, dtype = _translated(_text(value, dtype), origin), pl.String()
    if column.dtype == "datetime":
        return _instant(value, dtype, origin.time, timezone)
    if column.dtype == "date":
        if dtype == pl.Date:
            return value
        instant = _instant(value, dtype, origin.time, timezone)
        return instant.dt.convert_time_zone(timezone).dt.date()
    if column.dtype == "f64":
        return _number(value, dtype, origin)
    if column.dtype == "bool":
        return _truth(value, dtype)
    return _text(value, dtype)


def _truth(value: pl.Expr, dtype: Any) -> pl.Expr:
    """Read a truth value, null where it is none."""
    if dtype == pl.Boolean:
        return value
    word = _text(value, dtype).str.to_lowercase()
    return (
        pl.when(word.is_in(TRUE))
        .then(pl.lit(value=True))
        .when(word.is_in(FALSE))
        .then(pl.lit(value=False))
    )


def _translated(text: pl.Expr, origin: Origin) -> pl.Expr:
    """Replace raw values by those of the contract, as texts."""
    values = {
        key: None if value is None else str(value) for key, value in origin.translation.items()
    }
    other = text if origin.default is None else pl.lit(str(origin.default))
    replaced = text.replace_strict(
        list(values), list(values.values()), default=other, return_dtype=pl.String
    )
    return pl.when(text.is_not_null()).then(replaced)


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


def _instant(value: pl.Expr, dtype: Any, how: str, timezone: str) -> pl.Expr:
    """Read an instant; a time without a zone is `timezone`'s wall clock (RFC 3339 otherwise).

    The hour that a clock shows twice in autumn is taken the first time; the hour that it skips in
    spring does not exist and stays null. A day means its first instant.
    """
    if isinstance(dtype, pl.Datetime):
        if dtype.time_zone is not None:
            return value.dt.convert_time_zone("UTC").dt.cast_time_unit("us")
        return _local(value.dt.cast_time_unit("us"), timezone)
    if dtype == pl.Date:
        return _midnight(value, timezone)
    if how in EPOCH_UNITS:
        number = (value.cast(pl.Float64, strict=False) * EPOCH_UNITS[how]).round()
        return number.cast(pl.Int64, strict=False).cast(pl.Datetime("us", "UTC"))
    text = _text(value, dtype)
    if how == "iso":
        return pl.coalesce(_iso_forms(text, timezone))
    if "%z" in how or "%#z" in how:
        return text.str.to_datetime(how, time_unit="us", time_zone="UTC", strict=False)
    if any(part in how for part in CLOCK):
        return _local(text.str.to_datetime(how, time_unit="us", strict=False), timezone)
    return _midnight(text.str.to_date(how, strict=False), timezone)


def _iso_forms(text: pl.Expr, timezone: str) -> list[pl.Expr]:
    """Return the forms of ISO times; no text fits two of them.

    A trailing zone (Z, +02:00, UTC) decides by itself; everything else is local.
    """
    spaced = text.str.replace("T", " ", literal=True)

    def naive(value: pl.Expr, form: str) -> pl.Expr:
        return value.str.to_datetime(form, time_unit="us", strict=False)

    seconds, fractions = "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M:%S%.f"
    return [
        _local(naive(spaced, seconds), timezone),
        text.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False),
        *(
            naive(spaced, f"{form} UTC").dt.replace_time_zone("UTC")
            for form in (seconds, fractions)
        ),
        *(_local(naive(spaced, form), timezone) for form in (fractions, "%Y-%m-%d %H:%M")),
        _midnight(spaced.str.to_date("%Y-%m-%d", strict=False), timezone),
    ]


def _likeliest(forms: list[pl.Expr], value: pl.Expr, frame: pl.DataFrame) -> pl.Expr:
    """Return the form of the first text: nearly always that of all, at an eighth of the cost."""
    first = frame.head(1000).select(value.drop_nulls().first().alias("text"))
    if not value.meta.root_names():  # a constant: one value, of any form
        return pl.coalesce(forms)
    if first.item() is None:
        return forms[0]
    sample = frame.head(1000).filter(value.is_not_null()).head(1)
    fits = sample.select(form.is_not_null().alias(str(n)) for n, form in enumerate(forms)).row(0)
    return forms[fits.index(True)] if True in fits else forms[0]


def _local(naive: pl.Expr, timezone: str) -> pl.Expr:
    return naive.dt.replace_time_zone(
        timezone, ambiguous="earliest", non_existent="null"
    ).dt.convert_time_zone("UTC")


def _midnight(day: pl.Expr, timezone: str) -> pl.Expr:
    """Return a day's first instant: one o'clock where the clock skips midnight in spring."""
    midnight = day.cast(pl.Datetime("us"))
    return pl.coalesce(_local(midnight, timezone), _local(midnight.dt.offset_by("1h"), timezone))
