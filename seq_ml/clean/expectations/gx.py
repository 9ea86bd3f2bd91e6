"""The one place that touches Great Expectations (GX): import, DuckDB, runs, Data Docs.

GX has no Polars engine; here it reads tables and views of a DuckDB file through SQLAlchemy. GX is
imported inside functions only, because its import takes seconds.
"""

from __future__ import annotations

import enum
import logging
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from string import Template
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Self

from seq_ml.clean.expectations.views import DUCKDB

if TYPE_CHECKING:
    from datetime import date
    from pathlib import Path

# Counts and percentages, and the query for the broken rows. No values: they could be a person's,
# and the Data Docs are for everybody.
RESULT_FORMAT = {
    "result_format": "BASIC",
    "exclude_unexpected_values": True,
    "unexpected_index_column_names": ["event_date"],
    "return_unexpected_index_query": True,
}

ROW_BY_ROW = re.compile(
    r"expect_column_(pair_)?values?_\w*(null|between|equal|set|than_b|(regex|pattern)(_list)?)"
)
"""Types of expectations about rows, each by itself."""


class _Dialect(enum.StrEnum):
    """GX reads a dialect's `.value` and compares it with a string: a StrEnum answers both."""

    DUCKDB = "duckdb"


def load_gx() -> Any:
    """Import Great Expectations (seconds), quiet and without telemetry; return the module.

    GX is made to keep one connection to DuckDB, as it does for SQLite: without that, `add_sql`
    with a DuckDB address fails with "list index out of range" (GX 1.24). The name is private: the
    version is pinned, and a test fails when it goes away.
    """
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx
    from great_expectations.execution_engine import sqlalchemy_execution_engine as engine

    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    persisted = engine._PERSISTED_CONNECTION_DIALECTS
    if _Dialect.DUCKDB not in persisted:
        engine._PERSISTED_CONNECTION_DIALECTS = (*persisted, _Dialect.DUCKDB)
    return gx


@dataclass(frozen=True, eq=False)
class Run:
    """One suite on one table; `own`: the user wrote it, `by_day`: it is about whole days."""

    table: str
    suite: Any
    own: bool = False
    by_day: bool = False


def is_row_by_row(expectation: Any) -> bool:
    """Tell whether a range of days breaks an expectation in the rows in which its days break it."""
    if not ROW_BY_ROW.fullmatch(expectation.expectation_type) or expectation.row_condition:
        return False
    return expectation.mostly == 1 or hasattr(expectation, "column")


class Session:
    """One GX context over one DuckDB file, with one Data Docs site; lets go of the file on exit."""

    def __init__(self, database: Path, docs_folder: Path, name: str) -> None:
        self._gx = load_gx()
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        store = {
            "class_name": "TupleFilesystemStoreBackend",
            "base_directory": str(docs_folder.resolve()),
        }
        site = {"class_name": "SiteBuilder", "show_how_to_buttons": False, "store_backend": store}
        self._context = self._gx.get_context(
            mode="ephemeral",
            project_config=DataContextConfig(
                # GX's default is a second site in a temporary folder that nobody removes.
                store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
                data_docs_sites={"site": site},
                analytics_enabled=False,
                progress_bars=ProgressBarsConfig(globally=False),
            ),
        )
        self._source = self._context.data_sources.add_sql(
            "clean",
            connection_string=f"duckdb:///{database}",
            kwargs={"connect_args": {"config": DUCKDB}},
        )
        self._engine = self._source.get_execution_engine()
        # Dremio is the dialect that GX knows to write patterns as DuckDB does: `regexp_matches`.
        self._engine.dialect_module = SimpleNamespace(DremioDialect=None)
        # Without a time of its own, GX would read one out of a name that looks like a day.
        now = datetime.now(UTC)
        self._run_id = self._gx.RunIdentifier(run_name=name, run_time=now)
        self._batches: dict[tuple[str, date | None], Any] = {}
        self._claims: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()
        self._engine.engine.dispose()

    def run(self, run: Run, day: date | None = None) -> list[Any]:
        """Return the results of a suite on all days or on one; the Data Docs show them."""
        definition = self._gx.ValidationDefinition(
            name=f"{run.suite.name} {day or 'all days'}",
            data=self._batch(run.table, day),
            suite=self._context.suites.add_or_update(run.suite),
        )
        result = definition.run(result_format=RESULT_FORMAT, run_id=self._run_id)
        return list(result.results)

    def check(self, run: Run, day: date) -> list[Any]:
        """Return the results of a suite on one day; the Data Docs do not show them."""
        batch = self._batch(run.table, day).get_batch()
        return list(batch.validate(run.suite, result_format=RESULT_FORMAT).results)

    def _batch(self, table: str, day: date | None) -> Any:
        """Return the batch definition of a whole table, or of one of its days."""
        if (table, day) not in self._batches:
            name = table
            if day is not None:  # a view: GX would copy the rows of a query
                name = f"{table}_{day:%Y%m%d}"
                self.query(f"CREATE VIEW {name} AS FROM {table} WHERE event_date = DATE '{day}'")
            asset = self._source.add_table_asset(
                f"{table}-{day}" if day else table, table_name=name
            )
            self._batches[table, day] = asset.add_batch_definition_whole_table("rows")
        return self._batches[table, day]

    def query(self, sql: str) -> list[Any]:
        """Return the rows of a query on the connection that GX uses."""
        with self._engine.get_connection() as connection:
            return list(connection.exec_driver_sql(sql))

    def broken_rows(self, result: Any) -> str:
        """Return the query for the rows that break an expectation: event_date, its columns."""
        # SQLAlchemy writes every backslash of a text twice, as for another database.
        query: str = result.result["unexpected_index_query"]
        return query.rstrip().rstrip(";").replace("\\\\", "\\")

    def claim(self, result: Any) -> str:
        """Say what an expectation demands, as GX's own renderer does, where it has words for it.

        GX takes as long to say it as to look: it is asked once.
        """
        config = result.expectation_config
        terms = {name: value for name, value in config.kwargs.items() if name != "batch_id"}
        key = f"{config.type.replace('_', ' ')} {terms}"
        if key not in self._claims:
            result.render()
            value = config.rendered_content[0].value
            template = value.template or (value.code_block or {}).get("code_template_str", "")
            words = {name: param["value"] for name, param in (value.params or {}).items()}
            said = Template(template).safe_substitute(words).rstrip(".")
            self._claims[key] = key if not said or said.startswith(config.type) else said
        return self._claims[key]

    def build_docs(self) -> None:
        """Write the Data Docs site, as GX writes it."""
        self._context.build_data_docs(build_index=False)
