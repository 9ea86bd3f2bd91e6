"""Stages tasks and evaluation: for each task examples, model with baselines, report; champions."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import dagster as dg

from seq_assets import pools
from seq_assets.encoder import load_encoder
from seq_assets.metadata import ML_OWNERS, bar_chart, sample
from seq_assets.resources import Storage
from seq_ml.tables.tasks import TASK_NAMES

if TYPE_CHECKING:
    from seq_ml.evaluation.backtest import Judged
    from seq_ml.tasks.task import Task, TaskData

INPUTS = ["clean_events", "user_sequences", "items", "campaigns", "campaign_items", "promotions"]

DESCRIPTIONS = {
    "recommendations": "which items each user buys in the next 30 days",
    "churn_silence": "who stops ordering",
    "churn_decline": "whose spend falls",
    "inventory": "how many units of each item are asked for until the next delivery",
    "ads": "who responds to which campaign",
}


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


def _task(name: str) -> "Task":
    from seq_ml.tables.tasks import load_tasks

    return load_tasks()[name]


def _examples_asset(name: str) -> dg.AssetsDefinition:
    @dg.asset(
        name=f"{name}_examples",
        group_name="tasks",
        owners=ML_OWNERS,
        kinds={"delta", "polars"},
        deps=[*INPUTS, "pretrained_encoder"],
        description=f"Labelled examples: {DESCRIPTIONS[name]}. Features strictly before their "
        "origin, label windows closed before as_of.",
        check_specs=[
            dg.AssetCheckSpec(
                "temporal_rule",
                asset=f"{name}_examples",
                blocking=True,
                description="No label window overlaps an earlier split; the encoder was fitted "
                "before the first test origin.",
            )
        ],
    )
    def examples(storage: Storage) -> dg.MaterializeResult:
        from seq_ml.registry.rounds import check_round, make_examples
        from seq_ml.sequences import cutoffs

        task = _task(name)
        data = task_data(storage)
        as_of = cutoffs.recorded(storage.tables).as_of
        made = make_examples(storage.objects, task, data, as_of)
        if isinstance(made, str):
            return dg.MaterializeResult(
                metadata={"dagster/row_count": 0, "refused": made},
                check_results=[dg.AssetCheckResult(passed=True, metadata={"refused": made})],
            )
        broken = check_round(made, task, as_of, data.encoder)
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": made.height,
                "as_of": as_of.isoformat(),
                "columns": made.width,
                "splits": sample(made["split"].value_counts(sort=True)),
                "sample": sample(made.select(made.columns[:8])),
            },
            check_results=[
                dg.AssetCheckResult(passed=not broken, metadata={"broken": broken or "nothing"})
            ],
        )

    return examples


def _model_assets(name: str) -> dg.AssetsDefinition:
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
                description=f"Baselines and models of {DESCRIPTIONS[name]}; the best model is "
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
    )
    def judged(
        storage: Storage,
    ) -> Iterator[dg.MaterializeResult]:
        from seq_ml.registry.rounds import judge
        from seq_ml.settings import home

        task = _task(name)
        lineage = {"clean_events": storage.tables.version("clean_events")}
        found = judge(storage.objects, task, lineage, seed=storage.settings.seed)
        if isinstance(found, str):
            why = {"not_judged": found}
            for kind in ("model", "report"):
                yield dg.MaterializeResult(asset_key=f"{name}_{kind}", metadata=why)
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
            },
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


EXAMPLES = [_examples_asset(name) for name in TASK_NAMES]
MODELS = [_model_assets(name) for name in TASK_NAMES]


@dg.asset(
    group_name="evaluation",
    owners=ML_OWNERS,
    kinds={"s3"},
    deps=[f"{name}_report" for name in TASK_NAMES],
)
def champion(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
    """Which version of each task is published; a challenger replaces it only if it wins."""
    from seq_ml.registry.rounds import promote_challenger

    decided = {}
    for name in TASK_NAMES:
        decision = promote_challenger(storage.objects, _task(name), seed=storage.settings.seed)
        if decision is None:
            decided[name] = "no version yet: the history is too short"
        else:
            state = "promoted" if decision.promoted else "unchanged"
            decided[name] = f"{decision.champion} ({state}: {decision.reason})"
        context.log.info("%s: %s", name, decided[name])
    return dg.MaterializeResult(metadata=decided)
