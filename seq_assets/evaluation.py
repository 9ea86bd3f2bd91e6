"""Stage evaluation: what the rules of the user profiles are worth."""

from collections.abc import Iterator

import dagster as dg

from seq_assets import partitions
from seq_assets.checks import refuse
from seq_assets.metadata import ML_OWNERS
from seq_assets.resources import INPUTS, Storage, task_data


@dg.asset(
    group_name="evaluation",
    owners=ML_OWNERS,
    kinds={"report"},
    deps=INPUTS,
    output_required=False,
    op_tags=partitions.THEN_TASKS,
    description="What segments and anomaly score of the user profiles are worth: stability, what "
    "was spent since, planted fraud, limits.",
)
def user_profiles_report(
    context: dg.AssetExecutionContext, storage: Storage
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Judge the profiles as of the cut-off and write the report."""
    from seq_ml.pages.page import html, markdown
    from seq_ml.sequences import cutoffs
    from seq_ml.tasks.profiles.page import profiles_page
    from seq_ml.tasks.profiles.report import judge_profiles
    from seq_ml.tasks.task import NotEnoughHistoryError

    as_of = cutoffs.recorded(storage.tables).as_of
    try:
        page = profiles_page(judge_profiles(task_data(storage, None), as_of))
    except NotEnoughHistoryError as reason:
        yield from refuse(context, str(reason))
        return
    name = f"user_profiles/{as_of:%Y-%m-%dT%H%M}.html"
    yield dg.MaterializeResult(
        metadata={
            "verdict": page.verdict,
            **dict(page.facts),
            "report": dg.MetadataValue.md(markdown(page)),
            "page": storage.show_page(name, html(page)),
        }
    )
