"""Run the suites on the days of a call, and say of each day which expectations it breaks.

A range of days is one GX run; what fails there is blamed on its days by the query for the broken
rows that GX hands back. Users' own suites that speak of a whole day are run day by day.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seq_ml.clean.expectations.gx import ROW_BY_ROW
from seq_ml.clean.expectations.suites import PRIVATE
from seq_ml.schema.stages import DAYS, DRIFT

if TYPE_CHECKING:
    from datetime import date

    from seq_ml.clean.expectations.gx import Run, Session

DOCS_DAYS = 5
"""So many failed days of a range get pages of their own in the Data Docs (a second each)."""

COLUMNS = ("column", "column_A", "column_B")

LONGEST = 200
"""Characters of an observed value that a sentence quotes."""


@dataclass(frozen=True)
class DayResult:
    """The verdict on one day.

    failed and warnings hold one plain sentence per failed expectation; only expectations of
    severity "critical" (GX's default) make a day fail. drift: what is unusual about the day,
    beside the four weeks before it; it never makes a day fail. statistics: rows_read, rows_kept,
    rows_duplicate, rows_quarantined, expectations. page: index of the day's Data Docs, relative to
    the parent of `docs_folder`.
    """

    day: date
    success: bool
    failed: tuple[str, ...]
    warnings: tuple[str, ...]
    statistics: dict[str, int]
    drift: tuple[str, ...] = ()
    page: str = ""


@dataclass
class Findings:
    """What a day breaks, in sentences, and the suites that say so."""

    failed: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)

    def add(self, run: Run, result: Any, sentence: str) -> None:
        """Note a failed expectation; only one of severity "critical" makes the day fail."""
        mild = result.expectation_config.severity in ("warning", "info")
        (self.warnings if mild else self.failed).append(sentence)
        if run not in self.runs:
            self.runs.append(run)


def find(session: Session, runs: list[Run], days: list[date]) -> defaultdict[date, Findings]:
    """Run every suite; return what each day breaks. What fails about DRIFT is left to its table."""
    findings: defaultdict[date, Findings] = defaultdict(Findings)
    by_day = [run for run in runs if run.by_day and len(days) > 1]
    for run in runs:
        for span in [[day] for day in days] if run in by_day else [days]:
            results = session.check(run, span[0]) if run in by_day else session.run(run)
            for result in results:
                for day, what in _blame(session, run, result, span).items():
                    findings[day].add(run, result, f"{day}: {what}")
    if len(days) > 1:
        # Pages for the first failed days, and for the newest of what ran day by day.
        shown = [(run, day) for day in sorted(findings)[:DOCS_DAYS] for run in findings[day].runs]
        shown += [(run, days[-1]) for run in by_day if (run, days[-1]) not in shown]
        for run, day in shown:
            session.run(run, day)
    return findings


def _blame(session: Session, run: Run, result: Any, days: list[date]) -> dict[date, str]:
    """Return the days that break an expectation, each with a sentence.

    What cannot be pinned to a day, such as a row without one, counts against every day.
    """
    # `mostly` is a share of each day, and GX judged all of them: any broken row is looked at.
    mostly = "mostly" in result.expectation_config.kwargs and result.result.get("unexpected_count")
    if (result.success and not mostly) or run.table == DRIFT.name:
        return {}
    broken = _broken_rows(session, run, result)
    if broken is None:
        broken = {} if result.success else {None: _observed(result)}
    source = f" (suite {run.suite.name.removesuffix('_by_day')})" if run.own else ""
    return {
        day: f"{run.table}: {session.claim(result)}: {what}{source}."
        for day in days
        if (what := broken.get(day, broken.get(None)))
    }


def _broken_rows(session: Session, run: Run, result: Any) -> dict[date | None, str] | None:
    """Count the broken rows of each day with GX's own query; quote a value, if it may be shown.

    None for an expectation that is not about rows, or could not be evaluated.
    """
    config = result.expectation_config
    if run.by_day or not result.result or not ROW_BY_ROW.fullmatch(config.type):
        return None
    columns = [config.kwargs[key] for key in COLUMNS if key in config.kwargs]
    names = [f"value{n}" for n in range(len(columns))]
    shown = "NULL" if PRIVATE & set(columns) else f"min(concat_ws(' and ', {', '.join(names)}))"
    rows = session.query(
        f"SELECT day, count(*), nullif({shown}, '') FROM ({session.broken_rows(result)}) "  # noqa: S608
        f"AS broken(day, {', '.join(names)}) GROUP BY day ORDER BY day"
    )
    if sum(count for _, count, _ in rows) != result.result["unexpected_count"]:
        return None
    if (
        mostly := config.kwargs.get("mostly", 1)
    ) < 1:  # a share of all rows, or of those with a value
        counted = "*" if config.type.endswith("_null") else f'"{columns[0]}"'
        sql = f"SELECT event_date, count({counted}) FROM {run.table} GROUP BY ALL"  # noqa: S608
        total = dict(session.query(sql))
        rows = [row for row in rows if (total[row[0]] - row[1]) / total[row[0]] < mostly]
    example = "found {1}" if run.table == DAYS.name else "{0}, for example {1}"  # a row is the day
    return {
        day: _counted(count) if value is None else example.format(_counted(count), value)
        for day, count, value in rows
    }


def _counted(count: int) -> str:
    return f"{count} {'row breaks' if count == 1 else 'rows break'} it"


def _observed(result: Any) -> str:
    """Say what GX found, or why it could not look."""
    if not result.result:
        info = result.exception_info  # one flat record, or one per metric
        records = [info] if "exception_message" in info else info.values()
        causes = [str(one["exception_message"]).strip() for one in records]
        return f"it cannot be evaluated, {causes[0].splitlines()[0].rstrip('.')}"
    if result.result.get("observed_value") is None and "unexpected_count" in result.result:
        return _counted(result.result["unexpected_count"])
    observed = str(result.result.get("observed_value"))
    return f"found {observed if len(observed) <= LONGEST else observed[:LONGEST] + '…'}"
