"""Source mappings: how one team's own files become the contract's tables, without code.

A mapping is a YAML file. It lists which files (by pattern, below `drops/<name>/`) hold which input
table, and for each column of the contract where its value comes from:

    user_id: household_id                          a column of the file
    event_time: {column: ts, time: epoch_ms}       a column and how to read it
    event_type: {column: action, values: {buy: purchase}}
    currency: {value: USD}                         a constant
    unit_price: {divide: [sales_value, quantity]}
    discount: {sum: [retail_disc, coupon_disc]}
    is_merchandise: {none_of: {department: [FUEL, COUPON]}}

docs/sources.md describes every option, docs/source-mapping.schema.json serves editors.
"""

from __future__ import annotations

import codecs
import hashlib
import json
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Annotated, Any

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema  # noqa: TC002  pydantic reads the annotations

from seq_ml.business import Business
from seq_ml.roles import Role  # noqa: TC001  pydantic reads the annotations
from seq_ml.schema import INPUT_TABLES, Table

DERIVED = {"event_id", "event_date", "currency", "valid_from", "is_merchandise"}
"""Required columns that may be left out: the ingest stage has a rule for each."""


class MappingError(ValueError):
    """A source mapping cannot be used; the message names the file, the entry and the mend."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Plain = str | int | float | bool | None

TIME_FORMS = ("iso", "epoch_s", "epoch_ms", "epoch_us")
ORIGINS = ("column", "value", "divide", "multiply", "sum", "concat", "none_of")


class Origin(_Part):
    """Where a column's values come from: exactly one of ORIGINS."""

    column: str | None = Field(None, description="Column of the file; a dot enters nested JSON.")
    value: Plain = Field(None, description="The same value for every row.")
    divide: tuple[str | float, str | float] | None = Field(
        None, description="Quotient of columns or numbers; null when divided by 0."
    )
    multiply: tuple[str | float, ...] | None = Field(
        None, description="Product of columns or numbers; null when a part is missing."
    )
    sum: tuple[str, ...] | None = Field(None, description="Sum; missing parts count as 0.")
    concat: tuple[str, ...] | None = Field(None, description="Texts joined by a space.")
    none_of: dict[str, tuple[str, ...]] | None = Field(
        None, description="False where a column has one of the listed values, else true."
    )
    values: dict[str, Plain | tuple[str, ...]] | None = Field(
        None,
        description="Raw value → value of the contract, or value of the contract → list of raw "
        "values; others stay unless `default` is set.",
    )
    default: Plain = Field(None, description="For values not in `values`; missing ones stay null.")
    nulls: tuple[str, ...] = Field((), description="Raw values of the file that mean 'nothing'.")
    time: str = Field(
        "iso", description="iso, epoch_s, epoch_ms, epoch_us, or a format like %d.%m.%Y %H:%M."
    )
    decimal_comma: bool = Field(default=False, description="Whether 1.234,5 is a number.")

    @field_validator("time")
    @classmethod
    def _known_form(cls, form: str) -> str:
        if form not in TIME_FORMS and "%" not in form:
            raise ValueError(
                f"'{form}' is no form of time: write one of {', '.join(TIME_FORMS)}, or a format "
                "like %d.%m.%Y %H:%M"
            )
        return form

    @model_validator(mode="after")
    def _one_origin(self) -> Origin:
        origins = [name for name in ORIGINS if getattr(self, name) is not None]
        if len(origins) != 1:
            raise ValueError(
                f"write exactly one of {', '.join(ORIGINS)} (found: {', '.join(origins) or 'none'})"
            )
        return self

    @model_validator(mode="after")
    def _each_value_once(self) -> Origin:
        raws = [
            raw
            for key, value in (self.values or {}).items()
            for raw in (value if isinstance(value, tuple) else [key])
        ]
        twice = next((raw for raw in raws if raws.count(raw) > 1), None)
        if twice is not None:
            raise ValueError(f"values lists '{twice}' twice")
        return self

    @property
    def translation(self) -> dict[str, Plain]:
        """`values` with every raw value as a key of its own."""
        translated: dict[str, Plain] = {}
        for key, value in (self.values or {}).items():
            if isinstance(value, tuple):
                translated |= dict.fromkeys(value, key)
            else:
                translated[key] = value
        return translated

    @property
    def inputs(self) -> list[str]:
        """Columns of the file that this field reads."""
        if self.column is not None:
            return [self.column]
        parts: list[Any] = [
            *(self.divide or ()),
            *(self.multiply or ()),
            *(self.sum or ()),
            *(self.concat or ()),
            *(self.none_of or ()),
        ]
        return [part for part in parts if isinstance(part, str)]


def _short(origin: Any) -> Any:
    return {"column": origin} if isinstance(origin, str) else origin


Source = Annotated[Origin, BeforeValidator(_short, json_schema_input_type=str | Origin)]
"""An origin, or just the name of a column."""


CONTRACT_NAMES: dict[str, Any] = {
    "propertyNames": {"enum": sorted({n for table in INPUT_TABLES.values() for n in table.names})}
}


class EventMapping(_Part):
    """One of several events that a row carries."""

    columns: dict[str, Source] = Field(
        description="Beside, or instead of, the entry's columns.", json_schema_extra=CONTRACT_NAMES
    )
    when: dict[str, tuple[str, ...]] = Field(
        {}, description="Only where each of these columns of the file has one of its values."
    )


class FileMapping(_Part):
    """Files of one shape: pattern, input table, columns."""

    match: str = Field(description="Pattern of the path below drops/<name>/, * and ? allowed.")
    table: str = Field(
        description="What the records are.", json_schema_extra={"enum": list(INPUT_TABLES)}
    )
    columns: dict[str, Source] = Field(
        {}, description="Column of the contract → its origin.", json_schema_extra=CONTRACT_NAMES
    )
    lines: str | None = Field(
        None, description="Column that holds a list: each element is a record of its own."
    )
    events: tuple[EventMapping, ...] = Field(
        (), description="The events of one row; one whose event_time is missing is not there."
    )
    consent: Source | None = Field(
        None, description="Only rows for which it is true pass; the others leave no personal value."
    )
    separator: str | None = Field(
        None,
        min_length=1,
        max_length=1,
        description="Between the fields; default: comma (csv), tab (tsv).",
    )
    encoding: str = Field("utf-8", description="Of text files, like latin-1, cp1252, utf-16.")

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str) -> str:
        try:
            "".encode(name)
            codecs.getincrementaldecoder(name)
        except (LookupError, ValueError) as error:
            raise ValueError(
                f"'{name}' is no encoding; write one like latin-1 or cp1252"
            ) from error
        return name

    @model_validator(mode="after")
    def _fits_the_contract(self) -> FileMapping:
        if self.table not in INPUT_TABLES:
            raise ValueError(f"table '{self.table}' is not one of {', '.join(INPUT_TABLES)}")
        if self.table != "events" and (self.events or self.consent):
            raise ValueError(f"`events` and `consent` are for events, not for {self.table}")
        for columns in self.records:
            for name in columns:
                if name not in self.contract.names:
                    raise ValueError(
                        f"'{name}' is no column of {self.table}{nearest(name, self.contract.names)}"
                    )
            for column in self.contract.columns:
                if column.if_missing == "reject" and column.name not in {*columns, *DERIVED}:
                    raise ValueError(f"{self.table} needs the column '{column.name}'")
        return self

    @property
    def records(self) -> list[dict[str, Origin]]:
        """The columns of each kind of record that a row (or a line of it) carries."""
        return [{**self.columns, **event.columns} for event in self.events] or [self.columns]

    @property
    def inputs(self) -> set[str]:
        """Columns of the file that this entry reads, but for `lines` itself."""
        origins = [origin for columns in self.records for origin in columns.values()]
        if self.consent is not None:
            origins.append(self.consent)
        conditions = {name for event in self.events for name in event.when}
        return conditions.union(*(origin.inputs for origin in origins))

    @property
    def contract(self) -> Table:
        """The input table's contract."""
        return INPUT_TABLES[self.table]


class SourceMapping(_Part):
    """One source: its name, the time zone of its clocks, its files, and the business behind it."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="Folder below drops/.")
    description: str = ""
    timezone: str = Field("UTC", description="Zone of times that carry none.")
    files: tuple[FileMapping, ...] = Field(min_length=1)
    identity: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        description="Whose user ids these are: sources of one identity mean the same people by the "
        "same ids. Default: the source's own name.",
    )
    test_users: tuple[str, ...] = Field(
        (), description="Patterns (* and ?) of the source's own user ids that are no customers."
    )
    behaviours: dict[str, Role] = Field(
        {},
        description="Behaviours beside the standard ones, each with its role.",
    )
    business: Business | None = Field(None, description="Set in one source only.")
    version: SkipJsonSchema[str] = Field("", description="Hash of the YAML; set when it is read.")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        return Business(timezone=name).timezone

    @property
    def people(self) -> str:
        """The identity of the source's user ids."""
        return self.identity or self.name

    def file_for(self, path: str) -> FileMapping | None:
        """Return the first entry whose pattern fits a path below `drops/<name>/`."""
        return next((entry for entry in self.files if fnmatchcase(path, entry.match)), None)

    def entry_version(self, path: str) -> str:
        """Return the hash of everything that decides how a file is read; "" when no entry fits.

        It is taken of the parsed values, so a comment or a new order of keys changes nothing. The
        business' currency is not in it.
        """
        entry = self.file_for(path)
        if entry is None:
            return ""
        parts = {
            "name": self.name,
            "timezone": self.timezone,
            "test_users": self.test_users,
            # without defaults, so that an option that a later release adds changes no version
            "entry": entry.model_dump(mode="json", exclude_defaults=True),
        }
        if self.identity:
            parts["identity"] = self.identity
        content = json.dumps(parts, sort_keys=True)
        return hashlib.blake2b(content.encode(), digest_size=6).hexdigest()


KEYS = [
    key
    for part in (SourceMapping, FileMapping, EventMapping, Origin, Business)
    for key in part.model_fields
    if key != "version"
]


def parse_mapping(text: str, origin: str) -> SourceMapping:
    """Read a mapping from YAML; MappingError names the entry and what was expected."""
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise MappingError(f"{origin} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise MappingError(f"{origin} holds no mapping: start it with `name:` and `files:`")
    version = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
    try:
        return SourceMapping.model_validate({**content, "version": version})
    except ValidationError as error:
        problems = error.errors()
        # a misspelt key explains the key that is missing
        first = next((one for one in problems if one["type"] == "extra_forbidden"), problems[0])
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            unknown = str(first["loc"][-1])
            message = f"unknown key{nearest(unknown, sorted({*KEYS} - {unknown}))}"
        elif first["type"] == "string_type":
            message += "; write it in quotes"
        elif first["type"] == "model_type" and "Origin" in message:
            message = "write the name of a column in quotes, or an origin like {value: …}"
        raise MappingError(f"{origin}, at {where}: {message}") from error


def mapping_schema() -> dict[str, Any]:
    """Return the JSON Schema of a mapping, for editors and other checkers."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **SourceMapping.model_json_schema(),
        "title": "Seqline source mapping",
    }


def nearest(name: str, names: list[str]) -> str:
    """Return '; did you mean …?' for a misspelt name, or the known names."""
    close = get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(sorted(names))}"
