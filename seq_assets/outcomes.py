"""Stage tables: what became of the predictions, once their label windows have passed."""

from typing import Any

import dagster as dg

from seq_assets.metadata import OWNERS, column_schema, sample, svg
from seq_assets.resources import INPUTS, Storage, task_data
from seq_ml import schema
from seq_ml.tasks.registered import TASKS, task_tables

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
    description=schema.PREDICTION_OUTCOMES.description,
    metadata=column_schema(schema.PREDICTION_OUTCOMES),
)
def prediction_outcomes(
    context: dg.AssetExecutionContext, storage: Storage
) -> dg.MaterializeResult:
    """Join every published prediction whose window has passed with what happened."""
    from seq_ml.pages.page import html
    from seq_ml.sequences import cutoffs
    from seq_ml.tables.outcomes import judge_outcomes, summary
    from seq_ml.tables.outcomes_page import drawable, outcomes_page, promise_figure

    until = cutoffs.recorded(storage.tables).as_of
    judged_now = judge_outcomes(storage.objects, task_data(storage, None), until, TASKS)
    outcomes = storage.tables.scan(schema.PREDICTION_OUTCOMES.name)
    page = outcomes_page(outcomes, judged_now, until)
    judged = summary(outcomes)
    metadata: dict[str, Any] = {
        "dagster/row_count": int(judged["rows"].sum()),
        "known_before": until.isoformat(),
        "verdict": f"{page.headline}. {page.verdict}",
        "page": storage.show_page("outcomes.html", html(page)),
        "snapshots": sample(judged, rows=30),
    }
    for (task, as_of), rows in judged_now.judged.items():
        context.log.info("%s as of %s: %d outcomes", task, as_of, rows)
    for (task, as_of), rows in judged_now.hindsight.items():
        context.log.warning("%s as of %s: %d rows of younger models, not judged", task, as_of, rows)
    for task, at in judged_now.closes.items():
        metadata[f"next_{task}"] = at.isoformat()
    for task, target, kind in drawable(judged).rows():
        metadata[f"plot_{task}_{target}"] = svg(promise_figure(outcomes, task, target, kind))
    return dg.MaterializeResult(metadata=metadata)
