"""Stage tables: what became of the predictions, once their label windows have passed."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from seq_assets.metadata import OWNERS, column_schema, sample, svg
from seq_assets.resources import INPUTS, Storage, task_data
from seq_assets.tables import Made, told
from seq_ml import schema
from seq_ml.tasks.registered import TASKS, task_tables

if TYPE_CHECKING:
    from datetime import datetime

    from seq_ml.tables.outcomes import Round

PUBLISHED_SNAPSHOTS = dg.AssetSpec(
    "published_snapshots",
    group_name="tables",
    owners=OWNERS,
    kinds={"delta"},
    deps=list(task_tables()),
    description="The snapshots of all days of the tables that tasks fill: what was predicted. "
    "Those whose windows have passed are judged, whatever became of today's.",
)


@dg.asset(
    group_name="tables",
    owners=OWNERS,
    kinds={"delta"},
    deps=[*INPUTS, "published_snapshots"],
    output_required=False,
    description=schema.PREDICTION_OUTCOMES.description,
    metadata=column_schema(schema.PREDICTION_OUTCOMES),
)
def prediction_outcomes(
    context: dg.AssetExecutionContext, storage: Storage
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Join every published prediction whose window has passed with what happened."""

    def judge(until: "datetime") -> Made:
        from seq_ml.tables.outcomes import judge_outcomes

        judged_now = judge_outcomes(storage.objects, task_data(storage, None), until, TASKS)
        for (task, as_of), rows in judged_now.judged.items():
            context.log.info("%s as of %s: %d outcomes", task, as_of, rows)
        result, rows = _reported(storage, judged_now, until)
        return Made(result, rows, judged_now.without)

    yield from told(context, storage, schema.PREDICTION_OUTCOMES, judge)


def _reported(
    storage: Storage, judged_now: "Round", until: "datetime"
) -> tuple[dg.MaterializeResult, int]:
    """Show the page of all outcomes and count them; NotEnoughHistoryError while there is none."""
    from seq_ml.pages.page import html
    from seq_ml.tables.outcomes_page import drawable, outcomes_page, promise_figure
    from seq_ml.tables.outcomes_summary import summary
    from seq_ml.tasks.task import NotEnoughHistoryError

    outcomes = storage.tables.scan(schema.PREDICTION_OUTCOMES.name)
    page = outcomes_page(outcomes, judged_now, until)
    shown = storage.show_page("outcomes.html", html(page))
    judged = summary(outcomes)
    if judged.is_empty():
        raise NotEnoughHistoryError(f"{page.headline}. {page.verdict}")
    rows = int(judged["rows"].sum())
    metadata: dict[str, Any] = {
        "dagster/row_count": rows,
        "known_before": until.isoformat(),
        "verdict": f"{page.headline}. {page.verdict}",
        "page": shown,
        "snapshots": sample(judged, rows=30),
    }
    for task, at in judged_now.closes.items():
        metadata[f"next_{task}"] = at.isoformat()
    for task, target, kind in drawable(judged).rows():
        metadata[f"plot_{task}_{target}"] = svg(promise_figure(outcomes, task, target, kind))
    return dg.MaterializeResult(metadata=metadata), rows
