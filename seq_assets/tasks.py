"""Stages tasks and evaluation: for each task examples, model with baselines, report; champions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from seq_assets import pools
from seq_assets.encoder import load_encoder
from seq_assets.metadata import ML_OWNERS, bar_chart, sample
from seq_assets.resources import Storage
from seq_ml.tables.tasks import TASKS, Entry

if TYPE_CHECKING:
    from seq_ml.evaluation.backtest import Judged
    from seq_ml.tasks.task import TaskData

INPUTS = [
    "clean_events",
    "user_sequences",
    "items",
    "campaigns",
    "campaign_items",
    "promotions",
    "stock",
]

LEAKS = {
    "feature_time": "Features at an origin are the same when everything from the origin on is "
    "missing from the data.",
    "label_window": "Label windows end by as_of, and those of a split before the next one begins.",
    "duplicates": "No example is there twice, nor copied from one split into another.",
    "encoder_time": "The encoder was fitted before the first test origin.",
}
"""Checks of the examples by name: what a backtest that cannot lie needs."""


def task_data(storage: Storage, encoder_version: str | None = "current") -> "TaskData":
    """Return what tasks read; with the current encoder, a given version, or none."""
    from seq_ml.tasks.inputs import load_task_data

    encoder = load_encoder(storage, encoder_version) if encoder_version else None
    return load_task_data(
        storage.tables,
        storage.business,
        storage.work,
        encoder=encoder,
        seed=storage.settings.seed,
    )


def _examples_asset(entry: Entry) -> dg.AssetsDefinition:
    name = entry.name

    @dg.asset(
        name=f"{name}_examples",
        group_name="tasks",
        owners=ML_OWNERS,
        kinds={"delta", "polars"},
        deps=[*INPUTS, "pretrained_encoder"],
        description=f"Labelled examples: {entry.description}. Features strictly before their "
        "origin, label windows closed before as_of.",
        check_specs=[
            dg.AssetCheckSpec(
                check, asset=f"{name}_examples", blocking=True, description=description
            )
            for check, description in LEAKS.items()
        ],
    )
    def examples(storage: Storage) -> dg.MaterializeResult:
        from seq_ml.registry.rounds import find_leaks, make_examples
        from seq_ml.sequences import cutoffs

        task = entry.load()
        data = task_data(storage)
        as_of = cutoffs.recorded(storage.tables).as_of
        made = make_examples(storage.objects, task, data, as_of)
        if isinstance(made, str):
            return dg.MaterializeResult(
                metadata={"dagster/row_count": 0, "refused": made},
                check_results=[
                    dg.AssetCheckResult(check_name=check, passed=True, metadata={"refused": made})
                    for check in LEAKS
                ],
            )
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": made.height,
                "as_of": as_of.isoformat(),
                "columns": made.width,
                "splits": sample(made["split"].value_counts(sort=True)),
                "sample": sample(made.select(made.columns[:8])),
            },
            check_results=[
                dg.AssetCheckResult(
                    check_name=check, passed=not leak, metadata={"leak": leak or "none found"}
                )
                for check, leak in find_leaks(made, task, data, as_of).items()
            ],
        )

    return examples


def _model_assets(entry: Entry) -> dg.AssetsDefinition:
    name = entry.name
    check = "fitted_statistics"

    @dg.multi_asset(
        name=f"judge_{name}",
        pool=pools.GPU,
        specs=[
            dg.AssetSpec(
                f"{name}_model",
                group_name="tasks",
                deps=[f"{name}_examples"],
                owners=ML_OWNERS,
                kinds={"lightgbm", "sklearn"},
                description=f"Baselines and models of {entry.description}; the best model is "
                "published only if it beats the best baseline beyond chance.",
            ),
            dg.AssetSpec(
                f"{name}_report",
                deps=[f"{name}_model"],
                group_name="evaluation",
                owners=ML_OWNERS,
                kinds={"report"},
                description="Verdict, all candidates with intervals, calibration, slices, limits.",
            ),
        ],
        check_specs=[
            dg.AssetCheckSpec(
                check,
                asset=f"{name}_model",
                blocking=True,
                description="The published model is the same, bit for bit, whatever the test rows "
                "hold.",
            )
        ],
    )
    def judged(
        storage: Storage,
    ) -> Iterator[dg.MaterializeResult]:
        from seq_ml.registry.rounds import LeakageError, judge
        from seq_ml.settings import home

        lineage = {"clean_events": storage.tables.version("clean_events")}
        leak = ""
        try:
            found = judge(storage.objects, entry.load(), task_data(storage), lineage)
        except LeakageError as error:
            leak = found = str(error)
        verdict = dg.AssetCheckResult(
            check_name=check, passed=not leak, metadata={"leak": leak or "none found"}
        )
        if isinstance(found, str):
            why = {"not_judged": found}
            yield dg.MaterializeResult(
                asset_key=f"{name}_model", metadata=why, check_results=[verdict]
            )
            yield dg.MaterializeResult(asset_key=f"{name}_report", metadata=why)
            return
        page = home() / "site" / "reports" / name / f"{found.version}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(found.html)
        result = found.result
        metric = result.primary.name
        scored = [c for c in result.candidates if metric in c.test]
        yield dg.MaterializeResult(
            asset_key=f"{name}_model",
            metadata={
                "version": found.version,
                "published": result.published.name,
                "verdict": result.verdict,
                metric: result_value(scored, result.published.name, metric),
                "model_card": dg.MetadataValue.md(found.card),
            },
            check_results=[verdict],
        )
        yield dg.MaterializeResult(
            asset_key=f"{name}_report",
            metadata={
                "report": dg.MetadataValue.md(found.markdown),
                "page": dg.MetadataValue.url(
                    f"{storage.settings.site_url}/reports/{name}/{found.version}.html"
                ),
                "candidates": bar_chart(
                    [c.test[metric].value for c in scored],
                    [c.name for c in scored],
                    f"{metric} on the test window; orange: published",
                    highlight={i for i, c in enumerate(scored) if c.name == result.published.name},
                ),
            },
        )

    return judged


def result_value(scored: "list[Judged]", name: str, metric: str) -> str:
    """Return '0.865 [0.843, 0.889]' for one candidate."""
    estimate = next(c for c in scored if c.name == name).test[metric]
    return f"{estimate.value:.4f} [{estimate.low:.4f}, {estimate.high:.4f}]"


EXAMPLES = [_examples_asset(entry) for entry in TASKS]
MODELS = [_model_assets(entry) for entry in TASKS]


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
