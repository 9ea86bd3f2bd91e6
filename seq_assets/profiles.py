"""Stage evaluation, user profiles: they have no label, so each part is judged by its promise."""

import dagster as dg

from seq_assets.metadata import ML_OWNERS
from seq_assets.resources import Storage
from seq_assets.tasks import INPUTS, task_data


@dg.asset(
    group_name="evaluation",
    owners=ML_OWNERS,
    kinds={"report"},
    deps=INPUTS,
    description="What segments, expected spend and anomaly score of the user profiles are worth: "
    "stability, a test window, planted fraud, limits.",
)
def user_profiles_report(storage: Storage) -> dg.MaterializeResult:
    """Judge the profiles as of the cut-off and write the report."""
    from seq_ml.evaluation.page import html, markdown
    from seq_ml.evaluation.profiles_page import profiles_page
    from seq_ml.evaluation.profiles_report import judge_profiles
    from seq_ml.sequences import cutoffs
    from seq_ml.settings import home

    as_of = cutoffs.recorded(storage.tables).as_of
    page = profiles_page(judge_profiles(task_data(storage, None), as_of))
    name = f"reports/user_profiles/{as_of:%Y-%m-%dT%H%M}.html"
    path = home() / "site" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html(page))
    return dg.MaterializeResult(
        metadata={
            "verdict": page.verdict,
            **dict(page.facts),
            "report": dg.MetadataValue.md(markdown(page)),
            "page": dg.MetadataValue.url(f"{storage.settings.site_url}/{name}"),
        }
    )
