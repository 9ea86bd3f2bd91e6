"""Stages tasks and evaluation: for each task examples, model with baselines, report, champion."""

from collections.abc import Iterator
from functools import partial

import dagster as dg

from seq_assets import partitions
from seq_assets.checks import LEAKS, refuse
from seq_assets.metadata import ML_OWNERS, bar_chart, sample
from seq_assets.resources import INPUTS, Storage, load_encoder, task_data
from seq_ml.tasks.registered import TASKS, Entry


def _examples_asset(entry: Entry) -> dg.AssetsDefinition:
    name = entry.name

    @dg.asset(
        name=f"{name}_examples",
        group_name="tasks",
        owners=ML_OWNERS,
        kinds={"delta", "polars"},
        deps=[*INPUTS, "current_encoder", "foreseen"],
        output_required=False,
        op_tags=partitions.THEN_TASKS,
        description=f"Labelled examples: {entry.description}. Features strictly before their "
        "origin, label windows closed before as_of.",
        check_specs=[
            dg.AssetCheckSpec(
                check, asset=f"{name}_examples", blocking=True, description=description
            )
            for check, description in LEAKS.items()
        ],
    )
    def examples(
        context: dg.AssetExecutionContext, storage: Storage
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from seq_ml.registry.rounds import find_leaks, make_examples
        from seq_ml.sequences import cutoffs
        from seq_ml.tasks.task import NotEnoughHistoryError

        task = entry.load()
        data = task_data(storage)
        as_of = cutoffs.recorded(storage.tables).as_of
        try:
            made = make_examples(storage.objects, task, data, as_of)
            leaks = find_leaks(made, task, data, as_of)
        except NotEnoughHistoryError as reason:
            yield from refuse(context, str(reason))
            return
        yield dg.MaterializeResult(
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
                for check, leak in leaks.items()
            ],
        )

    return examples


def _model_assets(entry: Entry) -> dg.AssetsDefinition:
    name = entry.name
    check = "fitted_statistics"

    @dg.multi_asset(
        name=f"judge_{name}",
        pool=partitions.GPU,
        op_tags=partitions.THEN_TASKS,
        specs=[
            dg.AssetSpec(
                f"{name}_model",
                group_name="tasks",
                deps=[f"{name}_examples"],
                owners=ML_OWNERS,
                kinds={"lightgbm", "sklearn"},
                skippable=True,
                description=f"Baselines and models of {entry.description}; the best model is "
                "published only if it beats the best baseline beyond chance.",
            ),
            dg.AssetSpec(
                f"{name}_report",
                deps=[f"{name}_model"],
                group_name="evaluation",
                owners=ML_OWNERS,
                kinds={"report"},
                skippable=True,
                description="Verdict, all candidates with intervals, calibration, slices, limits; "
                "whether the model replaces the champion.",
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
        context: dg.AssetExecutionContext, storage: Storage
    ) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
        from seq_ml.registry.rounds import LeakageError, judge, promote_challenger
        from seq_ml.tasks.task import NotEnoughHistoryError

        task = entry.load()
        lineage = {"clean_events": storage.tables.version("clean_events")}
        try:
            result, version = judge(
                storage.objects,
                task,
                task_data(storage),
                lineage,
                partial(load_encoder, storage),
            )
        except NotEnoughHistoryError as reason:
            yield from refuse(context, str(reason))
            return
        except LeakageError as leak:
            yield dg.AssetCheckResult(
                check_name=check,
                asset_key=f"{name}_model",
                passed=False,
                metadata={"leak": str(leak)},
            )
            raise dg.Failure(str(leak), allow_retries=False) from leak
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
            check_results=[dg.AssetCheckResult(check_name=check, passed=True)],
        )
        decision = promote_challenger(storage.objects, task)
        champion = f"{decision.champion} ({decision.reason})" if decision else "none"
        context.log.info("the champion of %s is %s", name, champion)
        if decision:
            event = dg.AssetMaterialization if decision.promoted else dg.AssetObservation
            context.log_event(
                event(
                    f"{name}_champion",
                    metadata={"version": champion, "compared": decision.compared},
                )
            )
        yield dg.MaterializeResult(
            asset_key=f"{name}_report",
            metadata={
                "champion": champion,
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


def _champion(entry: Entry) -> dg.AssetSpec:
    return dg.AssetSpec(
        f"{entry.name}_champion",
        group_name="evaluation",
        owners=ML_OWNERS,
        kinds={"s3"},
        deps=[f"{entry.name}_report"],
        description=f"The published version of {entry.description}. A challenger replaces it only "
        "if it wins, in the step that judges it; tables read it and wait for no judgement.",
    )


EXAMPLES = [_examples_asset(entry) for entry in TASKS]
MODELS = [_model_assets(entry) for entry in TASKS]
CHAMPIONS = [_champion(entry) for entry in TASKS]
