"""Stage evaluation: what the rules of the user profiles are worth, and who is the champion."""

import dagster as dg

from seq_assets.metadata import ML_OWNERS
from seq_assets.resources import INPUTS, Storage, task_data
from seq_ml.tasks.registered import TASKS


@dg.asset(
    group_name="evaluation",
    owners=ML_OWNERS,
    kinds={"report"},
    deps=INPUTS,
    description="What segments and anomaly score of the user profiles are worth: stability, what "
    "was spent since, planted fraud, limits.",
)
def user_profiles_report(storage: Storage) -> dg.MaterializeResult:
    """Judge the profiles as of the cut-off and write the report."""
    from seq_ml.pages.page import html, markdown
    from seq_ml.sequences import cutoffs
    from seq_ml.tasks.profiles.page import profiles_page
    from seq_ml.tasks.profiles.report import judge_profiles

    as_of = cutoffs.recorded(storage.tables).as_of
    page = profiles_page(judge_profiles(task_data(storage, None), as_of))
    name = f"user_profiles/{as_of:%Y-%m-%dT%H%M}.html"
    return dg.MaterializeResult(
        metadata={
            "verdict": page.verdict,
            **dict(page.facts),
            "report": dg.MetadataValue.md(markdown(page)),
            "page": storage.show_page(name, html(page)),
        }
    )


@dg.asset(
    group_name="evaluation",
    owners=ML_OWNERS,
    kinds={"s3"},
    deps=[f"{entry.name}_report" for entry in TASKS],
)
def champion(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
    """Which version of each task is published; a challenger replaces it only if it wins."""
    from seq_ml.registry.rounds import promote_challenger

    decided = {}
    for entry in TASKS:
        decision = promote_challenger(storage.objects, entry.load(), seed=storage.settings.seed)
        if decision is None:
            decided[entry.name] = f"no version yet: {entry.name}_model says why"
        else:
            state = "promoted" if decision.promoted else "unchanged"
            decided[entry.name] = f"{decision.champion} ({state}: {decision.reason})"
        context.log.info("%s: %s", entry.name, decided[entry.name])
    return dg.MaterializeResult(metadata=decided)
