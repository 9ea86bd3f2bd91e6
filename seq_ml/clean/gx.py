"""The one place that touches Great Expectations (GX): import, DuckDB, checkpoints, Data Docs.

GX has no Polars engine; here it reads tables and views of a DuckDB file through SQLAlchemy. GX is
imported inside functions only, because its import takes seconds.
"""

from __future__ import annotations

import enum
import logging
import os
import re
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import date
    from pathlib import Path

DATABASE = "days.duckdb"

DUCKDB = {"memory_limit": "600MB", "threads": 2}

RESULT_FORMAT = {
    "result_format": "SUMMARY",
    "unexpected_index_column_names": ["event_date"],
    "return_unexpected_index_query": True,
}

BEACON = r"https://great-expectations-web-assets[^\"')]*"
"""Images of every page that GX's company serves itself, with a time stamp in the address."""

PLAIN = """
<ul id="plain" hidden>{}</ul>
<script>document.getElementById("plain").hidden = Boolean(window.jQuery);</script>
"""
"""The index draws its tables with scripts from the internet; without them it shows this list."""


class _Dialect(enum.StrEnum):
    """GX reads a dialect's `.value` and compares it with a string: a StrEnum answers both."""

    DUCKDB = "duckdb"


def load_gx() -> Any:
    """Import Great Expectations (seconds), quiet and without telemetry; return the module."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    import great_expectations as gx

    logging.getLogger("great_expectations").setLevel(logging.CRITICAL)
    _allow_duckdb()
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


@dataclass(frozen=True)
class Run:
    """One suite on one table, for the whole call or for one day of it."""

    table: str
    suite: Any
    own: bool = False
    day: date | None = None


class Session:
    """One GX context over one DuckDB file, with one Data Docs site."""

    def __init__(self, folder: Path, docs_folder: Path) -> None:
        self.gx = load_gx()
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        self.docs_folder = docs_folder.resolve()
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
                    "base_directory": str(self.docs_folder),
                },
            },
        )
        self.source = self.context.data_sources.add_sql(
            "clean",
            connection_string=f"duckdb:///{folder / DATABASE}",
            kwargs={"connect_args": {"config": DUCKDB}},
        )
        self._batches: dict[tuple[str, date | None], Any] = {}

    def batch(self, table: str, day: date | None) -> Any:
        """Return the batch definition of a whole table, or of one of its days."""
        if (table, day) not in self._batches:
            if day is None:
                asset = self.source.add_table_asset(table, table_name=table)
            else:
                sql = f"SELECT * FROM {table} WHERE event_date = DATE '{day}'"  # noqa: S608
                asset = self.source.add_query_asset(f"{table}-{day}", query=sql)
            self._batches[table, day] = asset.add_batch_definition_whole_table("rows")
        return self._batches[table, day]

    def checkpoint(self, name: str, runs: list[Run]) -> Iterator[tuple[Run, Any]]:
        """Run suites as one GX checkpoint, which the Data Docs show; yield each failed result."""
        definitions = []
        for run in runs:
            if run.suite.name not in {suite.name for suite in self.context.suites.all()}:
                self.context.suites.add(run.suite)
            definition = self.gx.ValidationDefinition(
                name=f"{run.suite.name} {run.day or 'all days'}",
                data=self.batch(run.table, run.day),
                suite=self.context.suites.get(run.suite.name),
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
            yield from ((run, one) for one in result.results if not one.success)

    def validate(self, table: str, expectations: list[Any], day: date) -> list[Any]:
        """Return the failed results of expectations on one day; the Data Docs do not show them."""
        suite = self.gx.ExpectationSuite(
            name=f"{table} {day}", expectations=[copy(one) for one in expectations]
        )
        batch = self.batch(table, day).get_batch()
        results = batch.validate(suite, result_format=RESULT_FORMAT).results
        return [one for one in results if not one.success]

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query on the connection that GX uses."""
        with self.source.get_execution_engine().get_connection() as connection:
            return [tuple(row) for row in connection.exec_driver_sql(sql).fetchall()]

    def build_docs(self) -> None:
        """Write the site; make it readable without the internet, and unseen by GX's company."""
        self.context.build_data_docs()
        links = []
        for page in sorted(self.docs_folder.rglob("*.html")):
            text = re.sub(BEACON, "data:,", page.read_text())
            page.write_text(text)
            path = page.relative_to(self.docs_folder)
            status = re.search(r"Status:</span>.*?</i>\s*(\w+)", text)
            if status or path.parts[0] == "expectations":
                name = " / ".join((*path.parts[:-2], path.stem)) if status else f"suite {path.stem}"
                verdict = f": {status[1]}" if status else ""
                links.append(f'<li><a href="{quote(str(path))}">{escape(name)}</a>{verdict}</li>')
        index = self.docs_folder / "index.html"
        index.write_text(
            index.read_text().replace("</body>", f"{PLAIN.format(''.join(links))}</body>")
        )

    def close(self) -> None:
        """Let go of the database file."""
        engine = self.source.get_execution_engine()
        engine.close()
        engine.engine.dispose()
