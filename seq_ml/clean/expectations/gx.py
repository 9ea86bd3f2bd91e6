"""The one place that touches Great Expectations (GX): import, DuckDB, checkpoints, Data Docs.

GX has no Polars engine; here it reads tables and views of a DuckDB file through SQLAlchemy. GX is
imported inside functions only, because its import takes seconds.
"""

from __future__ import annotations

import enum
import logging
import os
import sys
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from seq_ml.clean.expectations.views import DUCKDB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
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


class _Dialect(enum.StrEnum):
    """GX reads a dialect's `.value` and compares it with a string: a StrEnum answers both."""

    DUCKDB = "duckdb"


def load_gx() -> Any:
    """Import Great Expectations (seconds), quiet and without telemetry; return the module."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    _allow_duckdb()
    _allow_patterns()
    return gx


def _allow_duckdb() -> None:
    """Make GX keep one connection to DuckDB, as it does for SQLite.

    Without it `add_sql` with a DuckDB address fails with "list index out of range" (GX 1.24). The
    name is private: the version is pinned, and a test fails when it goes away.
    """
    from great_expectations.execution_engine import sqlalchemy_execution_engine as engine

    known = engine._PERSISTED_CONNECTION_DIALECTS
    if not any(dialect.value == "duckdb" for dialect in known):
        engine._PERSISTED_CONNECTION_DIALECTS = (*known, _Dialect.DUCKDB)


def _allow_patterns() -> None:
    """Teach GX how DuckDB writes a regular expression and LIKE; GX 1.24 knows other dialects only.

    Each metric holds the two helpers under their own name, so they are replaced there.
    """
    replaced = {
        "get_dialect_regex_expression": _regex,
        "get_dialect_like_pattern_expression": _like,
    }
    for name, module in list(sys.modules.items()):
        if name.startswith("great_expectations.expectations.metrics."):
            for helper, ours in replaced.items():
                if hasattr(module, helper):
                    setattr(module, helper, ours)


def _regex(column: Any, regex: str, dialect: Any, *, positive: bool = True) -> Any:  # noqa: ARG001
    import sqlalchemy as sa

    found = sa.func.regexp_matches(column, sa.literal(regex))
    return found if positive else sa.not_(found)


def _like(
    column: Any,
    dialect: Any,  # noqa: ARG001
    like_pattern: str,
    *,
    positive: bool = True,
    escape: str | None = None,
) -> Any:
    import sqlalchemy as sa

    found = column.like(sa.literal(like_pattern), escape=escape)
    return found if positive else sa.not_(found)


def runs_on_sql(expectation: Any) -> bool:
    """Tell whether GX can evaluate an expectation about rows in SQL, and not in pandas only."""
    from great_expectations.expectations import registry

    metric = getattr(expectation, "map_metric", None)
    if metric is None or metric.endswith(("_type", "_type_list")):
        return True  # types are looked up, not computed
    providers = registry._registered_metrics.get(f"{metric}.condition", {}).get("providers", {})
    return "SqlAlchemyExecutionEngine" in providers


@dataclass(frozen=True)
class Run:
    """One suite on one table, for the whole call or for one day of it."""

    table: str
    suite: Any
    own: bool = False
    day: date | None = None

    @property
    def name(self) -> str:
        """Name of the suite."""
        return str(self.suite.name)


class Session:
    """One GX context over one DuckDB file, with one Data Docs site."""

    def __init__(self, database: Path, docs_folder: Path) -> None:
        self.gx = load_gx()
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        self.context = self.gx.get_context(
            mode="ephemeral",
            project_config=DataContextConfig(
                # GX's default is a second site in a temporary folder that nobody removes.
                store_backend_defaults=InMemoryStoreBackendDefaults(init_temp_docs_sites=False),
                analytics_enabled=False,
                progress_bars=ProgressBarsConfig(globally=False),
            ),
        )
        self.context.add_data_docs_site(
            "site",
            {
                "class_name": "SiteBuilder",
                "show_how_to_buttons": False,
                "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
                "store_backend": {
                    "class_name": "TupleFilesystemStoreBackend",
                    "base_directory": str(docs_folder.resolve()),
                },
            },
        )
        self.source = self.context.data_sources.add_sql(
            "clean",
            connection_string=f"duckdb:///{database}",
            kwargs={"connect_args": {"config": DUCKDB}},
        )
        self._batches: dict[tuple[str, date | None], Any] = {}

    def checkpoint(self, name: str, runs: Sequence[Run]) -> Iterator[tuple[Run, Any]]:
        """Run suites as one GX checkpoint, which the Data Docs show; yield every result."""
        definitions = []
        for run in runs:
            if run.name not in {suite.name for suite in self.context.suites.all()}:
                self.context.suites.add(run.suite)
            definition = self.gx.ValidationDefinition(
                name=f"{run.name} {run.day or 'all days'}",
                data=self._batch(run.table, run.day),
                suite=self.context.suites.get(run.name),
            )
            definitions.append(self.context.validation_definitions.add(definition))
        checkpoint = self.context.checkpoints.add(
            self.gx.Checkpoint(
                name=name, validation_definitions=definitions, result_format=RESULT_FORMAT
            )
        )
        # Without a time of its own, GX would read one out of a name that looks like a day.
        now = datetime.now(UTC)
        outcome = checkpoint.run(run_id=self.gx.RunIdentifier(run_name=name, run_time=now))
        for run, result in zip(runs, outcome.run_results.values(), strict=True):
            yield from ((run, one) for one in result.results)

    def validate(self, table: str, expectations: Sequence[Any], day: date) -> list[Any]:
        """Return the failed results of expectations on one day; the Data Docs do not show them."""
        suite = self.gx.ExpectationSuite(
            name=f"{table} {day}", expectations=[copy(one) for one in expectations]
        )
        batch = self._batch(table, day).get_batch()
        results = batch.validate(suite, result_format=RESULT_FORMAT).results
        return [one for one in results if not one.success]

    def _batch(self, table: str, day: date | None) -> Any:
        """Return the batch definition of a whole table, or of one of its days."""
        if (table, day) not in self._batches:
            name = table
            if day is not None:  # a view: GX would copy the rows of a query
                name = f"{table}_{day:%Y%m%d}"
                self.query(
                    f"CREATE VIEW {name} AS FROM {table} WHERE event_date = DATE '{day}'",
                    rows=False,
                )
            asset = self.source.add_table_asset(f"{table}-{day}" if day else table, table_name=name)
            self._batches[table, day] = asset.add_batch_definition_whole_table("rows")
        return self._batches[table, day]

    def query(self, sql: str, *, rows: bool = True) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the connection that GX uses."""
        with self.source.get_execution_engine().get_connection() as connection:
            result = connection.exec_driver_sql(sql)
            return [tuple(row) for row in result.fetchall()] if rows else []

    def build_docs(self) -> None:
        """Write the Data Docs site, as GX writes it."""
        self.context.build_data_docs()

    def close(self) -> None:
        """Let go of the database file."""
        engine = self.source.get_execution_engine()
        engine.close()
        engine.engine.dispose()
