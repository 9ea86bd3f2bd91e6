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
"""

from __future__ import annotations

import hashlib
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from seq_ml.business import Business
from seq_ml.schema import INPUT_TABLES, Table

if TYPE_CHECKING:
    from seq_ml.storage.objects import ObjectStore

SOURCES_PREFIX = "sources/"

DERIVED = {"event_id", "event_date", "currency", "valid_from", "is_merchandise"}
"""Required columns that may be left out: the ingest stage has a rule for each."""


class MappingError(ValueError):
    """A source mapping cannot be used; the message names the file, the entry and the mend."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


Plain = str | int | float | bool | None

TIME_FORMS = ("iso", "epoch_s", "epoch_ms", "epoch_us")


class Origin(_Part):
    """Where a column's values come from: one of column, value, divide, sum, concat, none_of."""

    column: str | None = Field(None, description="Column of the file; a dot enters nested JSON.")
    value: Plain = Field(None, description="The same value for every row.")
    divide: tuple[str, str] | None = Field(None, description="Quotient; null when divided by 0.")
    sum: tuple[str, ...] | None = Field(None, description="Sum; missing parts count as 0.")
    concat: tuple[str, ...] | None = Field(None, description="Texts joined by a space.")
    none_of: dict[str, tuple[str, ...]] | None = Field(
        None, description="False where a column has one of the listed values, else true."
    )
    values: dict[str, Plain] | None = Field(
        None, description="Raw value → value of the contract; others stay unless `default` is set."
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
        origins = [
            name
            for name in ("column", "value", "divide", "sum", "concat", "none_of")
            if getattr(self, name) is not None
        ]
        if len(origins) != 1:
            raise ValueError(
                "write exactly one of column, value, divide, sum, concat, none_of "
                f"(found: {', '.join(origins) or 'none'})"
            )
        return self

    @property
    def inputs(self) -> list[str]:
        """Columns of the file that this field reads."""
        if self.column is not None:
            return [self.column]
        return [
            *(self.divide or ()),
            *(self.sum or ()),
            *(self.concat or ()),
            *(self.none_of or ()),
        ]


class FileMapping(_Part):
    """Files of one shape: pattern, input table, columns."""

    match: str = Field(description="Pattern of the path below drops/<name>/, * and ? allowed.")
    table: str = Field(description=f"One of {', '.join(INPUT_TABLES)}.")
    columns: dict[str, Origin]

    @field_validator("columns", mode="before")
    @classmethod
    def _short_form(cls, columns: Any) -> Any:
        if not isinstance(columns, dict):
            return columns
        return {k: {"column": v} if isinstance(v, str) else v for k, v in columns.items()}

    @model_validator(mode="after")
    def _fits_the_contract(self) -> FileMapping:
        if self.table not in INPUT_TABLES:
            raise ValueError(f"table '{self.table}' is not one of {', '.join(INPUT_TABLES)}")
        for name in self.columns:
            if name not in self.contract.names:
                raise ValueError(
                    f"'{name}' is no column of {self.table}{nearest(name, self.contract.names)}"
                )
        for column in self.contract.columns:
            if not column.nullable and column.name not in {*self.columns, *DERIVED}:
                raise ValueError(f"{self.table} needs the column '{column.name}'")
        return self

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
    business: Business | None = Field(None, description="Set in one source only.")
    version: str = Field("", description="Hash of the YAML; set when it is read.")

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        return Business(timezone=name).timezone

    def file_for(self, path: str) -> FileMapping | None:
        """Return the first entry whose pattern fits a path below `drops/<name>/`."""
        return next((entry for entry in self.files if fnmatchcase(path, entry.match)), None)


KEYS = [
    key
    for part in (SourceMapping, FileMapping, Origin, Business)
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
        found = error.errors()
        # a misspelt key explains the key that is missing
        first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
        where = ".".join(str(part) for part in first["loc"])
        message = str(first["msg"]).removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            message = f"unknown key{nearest(str(first['loc'][-1]), KEYS)}"
        elif first["type"] == "string_type":
            message += "; write it in quotes"
        raise MappingError(f"{origin}, at {where}: {message}") from error


def load_mappings(objects: ObjectStore) -> dict[str, SourceMapping]:
    """Read every mapping of the bucket (`sources/*.yaml`), by name."""
    found = {}
    for info in objects.list(SOURCES_PREFIX):
        if info.key.endswith((".yaml", ".yml")):
            mapping = parse_mapping(objects.get(info.key).decode(), info.key)
            if mapping.name in found:
                raise MappingError(
                    f"{info.key} is the second mapping with the name '{mapping.name}': put the "
                    "files of one source into one mapping."
                )
            found[mapping.name] = mapping
    return found


def load_business(objects: ObjectStore) -> Business:
    """Return the business that the mappings describe; the defaults when none does.

    Raises MappingError when two sources describe it differently.
    """
    described = {m.name: m.business for m in load_mappings(objects).values() if m.business}
    distinct = list(dict.fromkeys(described.values()))
    if len(distinct) > 1:
        raise MappingError(
            f"The sources {', '.join(described)} describe the business differently: keep "
            "`business:` in one of them."
        )
    return distinct[0] if distinct else Business()


def nearest(name: str, known: list[str]) -> str:
    """Return '; did you mean …?' for a misspelt name, or the known names."""
    close = get_close_matches(name, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else f"; there are: {', '.join(sorted(known))}"
