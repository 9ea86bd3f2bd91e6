"""Stages tasks and evaluation: for each task examples, model with baselines, report; champions."""

from collections.abc import Iterator

import dagster as dg

from seq_assets import partitions
from seq_assets.checks import LEAKS
from seq_assets.metadata import ML_OWNERS, bar_chart, sample
from seq_assets.resources import INPUTS, Storage, task_data
from seq_ml.tasks.registered import TASKS, Entry


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
        from seq_ml.tasks.task import NotEnoughHistoryError

        task = entry.load()
        data = task_data(storage)
        as_of = cutoffs.recorded(storage.tables).as_of
        try:
            made = make_examples(storage.objects, task, data, as_of)
        except NotEnoughHistoryError as reason:
            why = {"refused": str(reason)}
            return dg.MaterializeResult(
                metadata={"dagster/row_count": 0, **why},
                check_results=[
                    dg.AssetCheckResult(check_name=check, passed=True, metadata=why)
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
        pool=partitions.GPU,
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
        from seq_ml.tasks.task import NotEnoughHistoryError

        def leaks(leak: str) -> list[dg.AssetCheckResult]:
            found = {"leak": leak or "none found"}
            return [dg.AssetCheckResult(check_name=check, passed=not leak, metadata=found)]

        lineage = {"clean_events": storage.tables.version("clean_events")}
        try:
            result, version = judge(storage.objects, entry.load(), task_data(storage), lineage)
        except (NotEnoughHistoryError, LeakageError) as reason:
            why = {"not_judged": str(reason)}
            leak = str(reason) if isinstance(reason, LeakageError) else ""
            yield dg.MaterializeResult(
                asset_key=f"{name}_model", metadata=why, check_results=leaks(leak)
            )
            yield dg.MaterializeResult(asset_key=f"{name}_report", metadata=why)
            return
        metric = result.primary.name
        tested = {c.name: c.test[metric] for c in result.candidates if metric in c.test}
        yield dg.MaterializeResult(
            asset_key=f"{name}_model",
            metadata={
                "version": version.name,
                "published": result.published.name,
                "verdict": result.verdict,
                metric: str(tested[result.published.name]),
                "model_card": dg.MetadataValue.md(version.card),
            },
            check_results=leaks(""),
        )
        yield dg.MaterializeResult(
            asset_key=f"{name}_report",
            metadata={
                "report": dg.MetadataValue.md(version.markdown),
                "page": storage.show_page(f"{name}/{version.name}.html", version.html),
                "candidates": bar_chart(
                    [estimate.value for estimate in tested.values()],
                    list(tested),
                    f"{metric} on the test window; blue: published",
                    highlight={list(tested).index(result.published.name)},
                ),
            },
        )

    return judged


EXAMPLES = [_examples_asset(entry) for entry in TASKS]
MODELS = [_model_assets(entry) for entry in TASKS]
