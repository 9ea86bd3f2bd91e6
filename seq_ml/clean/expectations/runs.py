"""Keep every verdict, and show them: the index page of the Data Docs over all runs.

The table VALIDATIONS grows by one row per validated day; the page is drawn from it alone, so it
looks the same wherever it is drawn.
"""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

import polars as pl

from seq_ml.clean.expectations.docs import page, verdict
from seq_ml.schema.stages import VALIDATIONS
from seq_ml.storage.layout import DOCS_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from seq_ml.clean.expectations.verdicts import DayResult
    from seq_ml.storage.tables import TableStore


RUNS, TREND_DAYS = 100, 60
"""How many runs and days the page shows."""


def record_validations(tables: TableStore, docs_folder: Path, results: Iterable[DayResult]) -> None:
    """Add the verdicts of a run, and draw the index page anew.

    docs_folder: the run's Data Docs, `…/<run id>`; index.html is written beside it, and uploaded to
    `site/data_docs/index.html`. A run that is recorded twice (repeated after a crash) counts once:
    the newest rows of a (run_id, event_date) are the ones shown.
    """
    now = datetime.now(UTC)
    rows = [
        {
            "run_id": docs_folder.name,
            "recorded_at": now,
            "event_date": one.day,
            "success": one.success,
            **{name: one.statistics[name] for name in _COUNTS},
            "failed": list(one.failed),
            "warnings": list(one.warnings),
            "drift": list(one.drift),
            "page": f"{docs_folder.name}/{one.page}",
        }
        for one in results
    ]
    if rows:
        frame = pl.DataFrame(rows, schema=VALIDATIONS.polars_schema())
        tables.append(VALIDATIONS.name, frame)
    text = history_page(tables.scan_or_empty(VALIDATIONS))
    docs_folder.parent.mkdir(parents=True, exist_ok=True)
    (docs_folder.parent / "index.html").write_text(text)
    tables.objects.put(f"{DOCS_PREFIX}/index.html", text.encode())


_COUNTS = ("rows_read", "rows_kept", "rows_duplicate", "rows_quarantined", "expectations")


def history_page(validations: pl.LazyFrame) -> str:
    """Draw the page: the newest runs, and the newest days as they stand.

    validations: schema VALIDATIONS.
    """
    rows = (
        validations.with_columns(pl.col("failed", "warnings", "drift").list.len().cast(pl.Int64))
        .sort("recorded_at", "event_date", descending=[True, False])
        .unique(["run_id", "event_date"], keep="first", maintain_order=True)
        .collect()
    )
    days = rows.unique("event_date", keep="first", maintain_order=True)
    days = days.sort("event_date", descending=True).head(TREND_DAYS)
    return page("Data Docs", [*_runs(rows), *_trend(days)])


def _runs(rows: pl.DataFrame) -> list[str]:
    runs = (
        rows.group_by("run_id", maintain_order=True)
        .agg(
            at=pl.col("recorded_at").max(),
            first=pl.col("event_date").min(),
            last=pl.col("event_date").max(),
            days=pl.len(),
            broken=(~pl.col("success")).sum(),
            failed=pl.col("failed").sum(),
            mild=(pl.col("warnings") + pl.col("drift")).sum(),
            page=pl.col("page").min(),  # of its first part
        )
        .head(RUNS)
    )
    return [
        "<h2>Runs</h2>",
        "<table><tr><th>when (UTC)</th><th>run</th><th>days</th><th>verdict</th>"
        + _heads("days failed", "failures", "warnings"),
        *(
            f'<tr><td>{row["at"]:%Y-%m-%d %H:%M}</td><td><a href="{quote(row["page"])}">'
            f"{escape(row['run_id'])}</a></td><td>{_span(row)}</td>"
            f"<td>{verdict(not row['broken'], mild=bool(row['mild']))}</td>"
            f'<td class="n">{row["broken"]} of {row["days"]}</td>'
            f'<td class="n">{row["failed"]}</td><td class="n">{row["mild"]}</td></tr>'
            for row in runs.iter_rows(named=True)
        ),
        "</table>",
    ]


def _heads(*names: str) -> str:
    return "".join(f'<th class="n">{name}</th>' for name in names) + "</tr>"


def _span(row: dict[str, object]) -> str:
    first, last = row["first"], row["last"]
    return f"{first}" if first == last else f"{first} … {last}"


def _trend(days: pl.DataFrame) -> list[str]:
    most = max(days["rows_kept"].to_list() or [0]) or 1
    return [
        "<h2>Days, as they stand</h2>",
        "<table><tr><th>day</th><th>verdict</th>"
        + _heads("rows kept", "", "quarantined", "failures", "warnings"),
        *(
            f'<tr><td><a href="{quote(row["page"])}">{row["event_date"]}</a></td>'
            f"<td>{verdict(row['success'], mild=bool(row['warnings'] + row['drift']))}</td>"
            f'<td class="n">{row["rows_kept"]:,}</td><td style="width: 12rem">'
            f'<span class="bar" style="width: {100 * row["rows_kept"] / most:.0f}%"></span></td>'
            f'<td class="n">{row["rows_quarantined"] / max(row["rows_read"], 1):.2%}</td>'
            f'<td class="n">{row["failed"]}</td><td class="n">{row["warnings"] + row["drift"]}'
            "</td></tr>"
            for row in days.iter_rows(named=True)
        ),
        "</table>",
    ]
