"""Turn the rows of a file into records of the contract, keeping what could not be understood.

A row is one record, or several (a basket with lines, a row with several times). Every row comes
out, typed; a value that cannot be read is null and listed in `errors` (rule, column, value as
found), so that the clean stage can quarantine the record with its reason. Personal data stops
here: free text is masked, and nobody's own id stands in an error.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.ingest.files.readers import is_json
from seq_ml.ingest.mapping import values
from seq_ml.ingest.mapping.source import FileMapping, MappingError, SourceMapping, nearest
from seq_ml.ingest.rows.event_ids import KIND, LINE, ROW, event_ids
from seq_ml.privacy import personal
from seq_ml.schema import Column
from seq_ml.schema.staged import ERROR, ROW_ERROR, STAGED_EXTRA

if TYPE_CHECKING:
    from datetime import date, datetime

    from seq_ml.ingest.mapping.source import Origin

FREE_TEXT = ("text", "query", "title", "description")
NUMBERED = ("event_id", "session_id")
"""Ids that machines count out, often of a card's length: one in ten has a right check digit, and
what becomes of a row must not depend on how many others are in its file."""
PLAIN = (pl.String, pl.Boolean, pl.Date, pl.Datetime, pl.Null)
CONSENT = Column("consent", "bool", "Whether the person agreed to the use of the row.")
LONGEST_VALUE = 1_000_000
"""Bytes; a longer text is an error of its row."""
SHOWN = 200
"""Characters of a value that an error keeps."""


def to_canonical(
    frame: pl.DataFrame,
    mapping: SourceMapping,
    entry: FileMapping,
    *,
    key: str,
    landed_at: datetime,
    currency: str,
    secret: str,
    first_row: int = 1,
) -> pl.DataFrame:
    """Return the records of a batch of rows: the contract's columns and those of STAGED_EXTRA.

    frame: a batch of `read_batches`.  `user_id` still is the source's own id.  secret: key of the
    event ids that are derived from the content.  first_row: number of the frame's first row in its
    file.  A row without any record (an empty basket) becomes one with the error `no_event`.

    Raises MappingError when the file lacks a mapped column, or holds what no value can be made of.
    """
    reader = _Reader(mapping, entry, key, currency)
    frame = frame.with_columns(pl.int_range(first_row, first_row + pl.len()).alias(ROW))
    parts = []
    if ROW_ERROR in frame.columns:
        broken = frame.filter(pl.col(ROW_ERROR).is_not_null())
        parts.append(reader.nothing(broken, pl.col(ROW_ERROR)))
        frame = frame.filter(pl.col(ROW_ERROR).is_null()).drop(ROW_ERROR)
    try:
        plain = reader.plain(frame)
        parts += [reader.records(plain, kind) for kind in range(len(entry.records))]
    except pl.exceptions.PolarsError as error:
        raise MappingError(
            f"{key} does not fit its entry {entry.match} in mapping '{mapping.name}': "
            f"{str(error).splitlines()[0]}"
        ) from error
    if entry.lines or entry.events:
        numbers = pl.concat([part[ROW] for part in parts])
        without = frame.select(ROW).filter(~pl.col(ROW).is_in(numbers.implode()))
        parts.append(reader.nothing(without, _error("no_event")))
    result, part = parts[0], pl.lit(0, dtype=pl.Int32)
    if len(parts) > 1 or entry.lines:
        result = pl.concat(parts).sort(ROW, LINE, KIND)
        part = pl.int_range(pl.len(), dtype=pl.Int32).over(ROW)
    result = result.with_columns(
        source_file=pl.lit(key),
        row_number=pl.col(ROW),
        part=part,
        landed_at=pl.lit(landed_at).cast(pl.Datetime("us", "UTC")),
    )
    if entry.table == "events":
        result = result.with_columns(event_id=event_ids(result, mapping, entry, secret))
    return result.select(*entry.contract.names, *STAGED_EXTRA)


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


class _Reader:
    """What one file's batches have in common."""

    def __init__(self, mapping: SourceMapping, entry: FileMapping, key: str, currency: str) -> None:
        self.mapping = mapping
        self.entry = entry
        self.key = key
        self.currency = currency
        self.sparse = is_json(key)
        """Whether a row need not have every column: JSON lines leave out what is null."""

    def plain(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Return the mapped columns as texts, numbers, truth values, days and instants.

        Nested fields (`a.b`) become columns, an empty text is no value, and each line of a list is
        a row.
        """
        inputs, lines = self.entry.inputs, self.entry.lines
        if lines is None:
            return self.mapped(frame, inputs)
        inner = {name for name in inputs if name == lines or name.startswith(f"{lines}.")}
        value, dtype = values.find(frame.schema, lines)
        if dtype is None and not self.sparse:
            raise self._no_column(lines, frame)
        if dtype in (None, pl.Null):
            value, dtype = pl.lit(None, dtype=pl.List(pl.Struct([]))), pl.List(pl.Struct([]))
        if not isinstance(dtype, pl.List):
            raise MappingError(
                f"{self.key}: column '{lines}' holds {dtype}, and `lines` needs a list "
                f"(mapping '{self.mapping.name}', files matching {self.entry.match})"
            )
        lists = frame.select(ROW, value.alias(lines)).drop(ROW)
        outer = self.mapped(frame, inputs - inner).hstack(lists)
        flat = (
            outer.filter(pl.col(lines).list.len() > 0)
            .with_columns(pl.int_ranges(pl.col(lines).list.len(), dtype=pl.Int32).alias(LINE))
            .explode(lines, LINE)
        )
        within = self.mapped(flat.select(ROW, lines), inner).drop(ROW)
        return flat.drop(lines).hstack(within)

    def records(self, plain: pl.DataFrame, kind: int) -> pl.DataFrame:
        """Return the records of one kind: position, typed columns, errors."""
        columns = self.entry.records[kind]
        if self.entry.events:
            plain = plain.filter(self._present(plain, columns, kind))
        readings = {
            name: values.reading(self.entry.contract[name], origin, plain, self.mapping.timezone)
            for name, origin in columns.items()
        }
        typed = plain.select(
            pl.col(ROW),
            (pl.col(LINE) if LINE in plain.columns else pl.lit(0, dtype=pl.Int32)).alias(LINE),
            pl.lit(kind, dtype=pl.Int32).alias(KIND),
            **{
                column.name: readings[column.name].value
                if column.name in readings
                else values.default(column, self.currency)
                for column in self.entry.contract.columns
            },
        )
        errors = []
        for name, reading in readings.items():
            if reading.found is None:
                continue
            text = plain.select(reading.found.alias(name)).to_series()
            # more values are missing than texts: another form of time may read them
            if reading.thorough is not None and typed[name].null_count() > text.null_count():
                typed = typed.with_columns(plain.select(reading.thorough.alias(name)))
            if not reading.partial and typed[name].null_count() == text.null_count():
                continue
            # something stands there, and no value could be made of it
            bad = text.is_not_null()
            if not reading.partial:
                bad &= typed[name].is_null()
            if bad.any():
                rule = f"type:{self.entry.contract[name].dtype}"
                errors.append(_error(rule, name, bad, _shown(text, bad, typed)))
        # a constant is the mapping's own word; whatever else comes from the file may be personal
        from_file = {name for name, origin in columns.items() if origin.value is None}
        typed, more = _without_personal_data(typed, from_file)
        listed = pl.lit([], dtype=pl.List(ERROR))
        if errors or more:
            listed = pl.concat_list(*errors, *more).list.drop_nulls()
        typed = typed.with_columns(errors=listed)
        return self._withheld(typed, plain) if self.entry.contract.has_users else typed

    def nothing(self, rows: pl.DataFrame, error: pl.Expr) -> pl.DataFrame:
        """Return one record for each row that gives none: no values, one error."""
        return rows.select(
            pl.col(ROW),
            pl.lit(0, dtype=pl.Int32).alias(LINE),
            pl.lit(0, dtype=pl.Int32).alias(KIND),
            **{
                name: pl.lit(None, dtype=dtype)
                for name, dtype in self.entry.contract.polars_schema().items()
            },
            errors=pl.concat_list(error.cast(ERROR)),
        )

    def mapped(self, frame: pl.DataFrame, names: set[str]) -> pl.DataFrame:
        columns = []
        for name in sorted(names):
            value, dtype = values.find(frame.schema, name)
            if dtype is None:
                if not self.sparse:
                    raise self._no_column(name, frame)
                value, dtype = pl.lit(None, dtype=pl.String), pl.String()
            if isinstance(dtype, (pl.Categorical, pl.Enum, pl.Binary)):
                value, dtype = value.cast(pl.String), pl.String()
            if dtype not in PLAIN and not dtype.is_numeric():
                raise MappingError(
                    f"{self.key}: column '{name}' holds {dtype}; map a column of plain values (of "
                    f"nested JSON a field, like '{name}.id')"
                )
            if dtype == pl.String:
                value = pl.when(value != "").then(value)
            columns.append(value.alias(name))
        try:
            return frame.select(ROW, *columns)
        except pl.exceptions.PolarsError as error:
            raise MappingError(f"{self.key} holds no text: {str(error).splitlines()[0]}") from error

    def _no_column(self, name: str, frame: pl.DataFrame) -> MappingError:
        columns = [column for column in frame.columns if not column.startswith("\x00")]
        return MappingError(
            f"{self.key} has no column '{name}'{nearest(name, columns)} "
            f"(mapping '{self.mapping.name}', files matching {self.entry.match})"
        )

    def _present(self, plain: pl.DataFrame, columns: dict[str, Origin], kind: int) -> pl.Expr:
        """Return which rows carry an event of this kind: its time stands there, `when` holds."""
        conditions = [
            values.has_value(name, wanted, plain.schema)
            for name, wanted in self.entry.events[kind].when.items()
        ]
        if "event_time" in columns:
            conditions.append(values.raw(columns["event_time"], plain.schema)[0].is_not_null())
        return pl.all_horizontal(conditions) if conditions else pl.lit(value=True)

    def _withheld(self, records: pl.DataFrame, plain: pl.DataFrame) -> pl.DataFrame:
        """Empty the rows that nobody may keep; an event keeps its time, by which it is filed."""
        rules = {}
        if self.entry.consent is not None:
            agreed = values.reading(CONSENT, self.entry.consent, plain, self.mapping.timezone).value
            rules["no_consent"] = ~plain.select(ROW, ok=agreed)["ok"].fill_null(value=False)
        if self.mapping.test_users:
            patterns = "|".join(_regex(pattern) for pattern in self.mapping.test_users)
            rules["test_account"] = (
                records["user_id"].str.contains(f"^(?:{patterns})$").fill_null(value=False)
            )
        for rule, rows in rules.items():
            if not rows.any():
                continue
            emptied = [n for n in self.entry.contract.names if n != "event_time"]
            error = pl.concat_list(_error(rule))
            records = records.with_columns(
                pl.when(~rows).then(pl.col(emptied)).name.keep(),
                errors=pl.when(rows).then(error).otherwise(pl.col("errors")),
            )
        return records


def _without_personal_data(
    records: pl.DataFrame, from_file: set[str]
) -> tuple[pl.DataFrame, list[pl.Expr]]:
    """Mask free text, and empty what is too long or holds personal data; return the errors too."""
    schema = records.schema
    texts = [name for name in sorted(from_file) if schema[name] == pl.String]
    signs = records.select(
        pl.col(name).str.len_bytes().max().alias(name) for name in texts
    ).hstack(
        records.select(
            personal.sign(pl.col(name), free=name in FREE_TEXT).alias(f"{name}?") for name in texts
        )
    )  # fmt: skip
    errors = []

    def empty(column: pl.Series, rule: str, bad: pl.Series) -> pl.Series:
        errors.append(_error(rule, column.name, bad, _shown(column, bad, records)))
        return _emptied(column, bad)

    for name in texts:
        column = records[name]
        too_long, personal_data = (
            (signs[name].item() or 0) > LONGEST_VALUE,
            signs[f"{name}?"].item(),
        )
        if too_long:
            long = (column.str.len_bytes() > LONGEST_VALUE).fill_null(value=False)
            column = empty(column, "too_long", long)
        if personal_data and name in FREE_TEXT:
            column = personal.masked(column)
        elif personal_data and name != "user_id":
            personal_rows = personal.found_in_label(column, cards=name not in NUMBERED)
            column = empty(column, "personal_data", personal_rows)
        if too_long or personal_data:
            records = records.with_columns(column)
    return records, errors


def _shown(texts: pl.Series, bad: pl.Series, records: pl.DataFrame) -> pl.Series:
    """Return what the errors of `bad` rows may show: masked, short, and no user's own id."""
    if texts.name == "user_id":
        return pl.repeat(None, len(texts), dtype=pl.String, eager=True)
    shown = _emptied(texts.str.head(10 * SHOWN), ~bad)
    if "user_id" in records.columns:
        shown = _emptied(shown, (shown == records["user_id"]).fill_null(value=False))
    return personal.masked(shown).str.head(SHOWN)


def _emptied(column: pl.Series, where: pl.Series) -> pl.Series:
    return column.to_frame().select(pl.when(~where).then(column.name)).to_series()


def _error(
    rule: str,
    column: str | None = None,
    where: pl.Series | None = None,
    value: pl.Series | None = None,
) -> pl.Expr:
    """Return an error (dtype ERROR) for the rows of `where`, null elsewhere."""
    error = pl.struct(
        rule=pl.lit(rule),
        column=pl.lit(column, dtype=pl.String),
        value=pl.lit(None, dtype=pl.String) if value is None else pl.lit(value),
    )
    return error if where is None else pl.when(where).then(error)


def _regex(pattern: str) -> str:
    """Translate a pattern of * and ? to a regular expression."""
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
