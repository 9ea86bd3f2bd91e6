"""What a contract is made of: columns with types and meanings, and tables with keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Column:
    """One column: its dtype in Polars' words, its meaning, and what a valid value is."""

    name: str
    dtype: str
    description: str
    nullable: bool = False
    allowed: tuple[str, ...] | None = None
    minimum: float | None = None
    maximum: float | None = None
    missing: str = ""
    """What cleaning does without a value: "reject", "keep", "derive", "business" (the business'
    own value of that name), else the value that it fills in. Empty: keep if nullable, else reject.
    """
    missing_for: tuple[str, ...] = ()
    """Roles and behaviours that a filled value is limited to; empty: all."""

    @property
    def if_missing(self) -> str:
        """What cleaning does without a value (see `missing`)."""
        return self.missing or ("keep" if self.nullable else "reject")


@dataclass(frozen=True)
class Table:
    """One table: name, meaning, columns, the key that is unique, and the partition column."""

    name: str
    description: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    partition_by: str | None = None

    @property
    def names(self) -> list[str]:
        """Column names in order."""
        return [column.name for column in self.columns]

    @property
    def has_users(self) -> bool:
        """Whether its rows belong to users: pseudonymised at the door, erased with them."""
        return "user_id" in self.names

    def __getitem__(self, name: str) -> Column:
        """Return the column called `name`; KeyError when there is none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def polars_schema(self) -> pl.Schema:
        """Return the schema as Polars dtypes."""
        import polars as pl

        return pl.Schema({c.name: polars_dtype(c.dtype) for c in self.columns})

    def markdown(self) -> str:
        """Render the columns as the Markdown table of docs/tables.md."""
        rows = ["| column | type | meaning |", "|---|---|---|"]
        rows += [
            f"| `{c.name}`{' (key)' if c.name in self.key else ''} "
            f"| {c.dtype}{'?' if c.nullable else ''} | {c.description} |"
            for c in self.columns
        ]
        return "\n".join(rows)


def polars_dtype(name: str) -> Any:
    """Translate a dtype's name ("str", "f64", "datetime", "list[str]" …) to the Polars dtype."""
    import polars as pl

    scalar = {
        "str": pl.String,
        "bool": pl.Boolean,
        "f32": pl.Float32,
        "f64": pl.Float64,
        "i32": pl.Int32,
        "i64": pl.Int64,
        "date": pl.Date,
        "datetime": pl.Datetime("us", "UTC"),
        "reason": pl.Struct({"feature": pl.String, "value": pl.Float64, "effect": pl.Float64}),
        "tag": pl.Struct(
            {"tag": pl.String, "evidence": pl.String, "event_ids": pl.List(pl.String)}
        ),
    }
    if name.startswith("list["):
        return pl.List(polars_dtype(name[5:-1]))
    return scalar[name]
