"""The Data Docs: pages that need no internet, their index of each run, and the index of all runs.

The pages that Great Expectations writes load style sheets, scripts and images from six hosts, and
count their readers. Nothing of that remains: they get our style, and their index, which was drawn
by those scripts, is written here. The table VALIDATIONS grows by one row per validated day; the
index of all runs is drawn from it alone, so it looks the same wherever it is drawn.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

from seq_ml.pages.page import Html, Page, Section, coloured, html, link
from seq_ml.pages.style import DATA_DOCS
from seq_ml.schema.stages import DRIFT, VALIDATIONS
from seq_ml.storage.layout import DOCS_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from datetime import date
    from pathlib import Path

    from seq_ml.clean.expectations.verdicts import DayResult
    from seq_ml.storage.tables import TableStore

RUNS, TREND_DAYS = 100, 60
"""How many runs and days the index of all runs shows."""

SENTENCES = 20
"""So many findings of a day are listed."""

# Scripts, style sheets, images and the footer that GX loads from elsewhere.
FOREIGN = re.compile(
    r"<script\b.*?</script>|<style\b.*?</style>|<link\b[^>]*>|<img\b[^>]*>|<footer\b.*?</footer>",
    re.DOTALL,
)
ROWS = ("rows_read", "rows_kept", "rows_duplicate", "rows_quarantined")
KEPT = "A day that fails keeps its older content, and its drops stay open."


def finish_docs(docs_folder: Path, results: Sequence[DayResult]) -> None:
    """Mend every page below `docs_folder`, and write its index.html about `results`."""
    suites: list[tuple[str, ...]] = [("suite", "run", "verdict")]
    for file in sorted(docs_folder.rglob("*.html")):
        text = FOREIGN.sub("", file.read_text())
        file.write_text(text.replace("</head>", f"<style>{DATA_DOCS}</style></head>", 1))
        if status := re.search(r"Status:</span>.*?</i>\s*(\w+)", text):
            path = file.relative_to(docs_folder)
            _, suite, run, *_ = path.parts
            day = re.search(r"-(\d{4}-\d\d-\d\d)$", path.stem)
            held = status[1] == "Succeeded"
            mark = _verdict(held or suite == DRIFT.name, mild=not held)
            suites.append((link(suite, str(path)), day[1] if day else run, mark))
    first, last = results[0].day, results[-1].day
    failed = sum(not one.success for one in results)
    days = [("day", "verdict", *(name.removeprefix("rows_") for name in ROWS))]
    for one in results:
        mark = _verdict(one.success, mild=bool(one.warnings or one.drift))
        days.append((str(one.day), mark, *(f"{one.statistics[name]:,}" for name in ROWS)))
    page = Page(
        eyebrow=link("all runs", "../../index.html"),
        title=f"Validation of {span(first, last)}",
        headline=f"{len(results) - failed} of {len(results)} days hold",
        verdict=KEPT if failed else "Every critical expectation holds.",
        good=not failed,
        facts=(),
        sections=(
            Section("Days", rows=tuple(days)),
            *(_findings(one) for one in results if one.failed or one.warnings or one.drift),
            Section("Suites", rows=tuple(suites)),
        ),
    )
    (docs_folder / "index.html").write_text(html(page))


def _findings(result: DayResult) -> Section:
    listed = [f"- ✗ {one}" for one in result.failed]
    listed += [f"- ! {one}" for one in (*result.warnings, *result.drift)]
    if len(listed) > SENTENCES:
        listed[SENTENCES:] = [f"- and {len(listed) - SENTENCES} more"]
    return Section(str(result.day), "\n".join(listed).replace(f"{result.day}: ", ""))


def _verdict(success: bool, *, mild: bool) -> Html:
    if not success:
        return coloured("✗ failed", "bad")
    return coloured("! warnings", "warn") if mild else coloured("✓", "good")


def span(first: date, last: date) -> str:
    """Say one day, or the first and the last of several."""
    return f"{first}" if first == last else f"{first} to {last}"


# --- all runs -------------------------------------------------------------------------------------


def record_validations(tables: TableStore, docs_folder: Path, results: Iterable[DayResult]) -> None:
    """Add the verdicts of a run, and draw the index of all runs anew.

    docs_folder: the run's Data Docs, `…/<run id>`; index.html is written beside it, and uploaded to
    `site/data_docs/index.html`. A run that is recorded twice (repeated after a crash) counts once:
    the newest rows of a (run_id, event_date) are the ones shown.
    """
    now = datetime.now(UTC)
    rows = [
        {
            **vars(one),
            **{name: one.statistics[name] for name in (*ROWS, "expectations")},
            "run_id": docs_folder.name,
            "recorded_at": now,
            "event_date": one.day,
            "page": f"{docs_folder.name}/{one.page}",
        }
        for one in results
    ]
    if rows:
        tables.append(VALIDATIONS.name, pl.DataFrame(rows, schema=VALIDATIONS.polars_schema()))
    text = history_page(tables.scan_or_empty(VALIDATIONS))
    docs_folder.parent.mkdir(parents=True, exist_ok=True)
    (docs_folder.parent / "index.html").write_text(text)
    tables.objects.put(f"{DOCS_PREFIX}/index.html", text.encode())


def history_page(validations: pl.LazyFrame) -> str:
    """Draw the index of all runs: the newest runs, and the newest days as they stand.

    validations: schema VALIDATIONS.
    """
    rows = (
        validations.with_columns(
            failures=pl.col("failed").list.len(),
            mild=pl.col("warnings").list.len() + pl.col("drift").list.len(),
        )
        .sort("recorded_at", "event_date", descending=[True, False])
        .unique(["run_id", "event_date"], keep="first", maintain_order=True)
        .collect()
    )
    days = rows.unique("event_date", keep="first", maintain_order=True)
    days = days.sort("event_date", descending=True).head(TREND_DAYS)
    held = days["success"].sum()
    page = Page(
        eyebrow="Seqline · checks of the days",
        title="Data Docs",
        headline=f"{held} of the {days.height} newest days hold, as they stand",
        verdict=KEPT if held < days.height else "Every critical expectation holds.",
        good=held == days.height,
        facts=(),
        sections=(
            Section("Runs", rows=tuple(_runs(rows))),
            Section("Days, as they stand", rows=tuple(_days(days))),
        ),
    )
    return html(page)


def _runs(rows: pl.DataFrame) -> Iterator[tuple[str, ...]]:
    yield "when (UTC)", "run", "days", "verdict", "days failed", "failures", "warnings"
    runs = rows.group_by("run_id", maintain_order=True).agg(
        at=pl.col("recorded_at").max(),
        first=pl.col("event_date").min(),
        last=pl.col("event_date").max(),
        days=pl.len(),
        broken=(~pl.col("success")).sum(),
        failures=pl.col("failures").sum(),
        mild=pl.col("mild").sum(),
        page=pl.col("page").min(),  # of its first part
    )
    for row in runs.head(RUNS).iter_rows(named=True):
        yield (
            f"{row['at']:%Y-%m-%d %H:%M}",
            link(row["run_id"], row["page"]),
            span(row["first"], row["last"]),
            _verdict(not row["broken"], mild=bool(row["mild"])),
            f"{row['broken']} of {row['days']}",
            str(row["failures"]),
            str(row["mild"]),
        )


def _days(days: pl.DataFrame) -> Iterator[tuple[str, ...]]:
    yield "day", "verdict", "rows kept", "", "quarantined", "failures", "warnings"
    most = max(days["rows_kept"].to_list() or [0]) or 1
    for row in days.iter_rows(named=True):
        yield (
            link(str(row["event_date"]), row["page"]),
            _verdict(row["success"], mild=bool(row["mild"])),
            f"{row['rows_kept']:,}",
            Html(f'<span class="bar" style="width:{10 * row["rows_kept"] / most:.1f}rem"></span>'),
            f"{row['rows_quarantined'] / max(row['rows_read'], 1):.2%}",
            str(row["failures"]),
            str(row["mild"]),
        )
