"""Stage encoder: pre-training, and the vectors and predictions that everything later reads."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg
from pydantic import Field

from seq_assets import partitions
from seq_assets.checks import refuse
from seq_assets.metadata import ML_OWNERS, bar_chart, column_schema, sample
from seq_assets.resources import Storage, load_encoder, task_data
from seq_assets.tokens import token_shards
from seq_ml import schema
from seq_ml.storage.layout import ENCODER_PREFIX

if TYPE_CHECKING:
    from seq_ml.encoder.ladder.rungs import Rung

NO_ENCODER = "No encoder was trained on events before the cut-off: encoder_ladder says why."


class LadderConfig(dg.Config):
    """How this one training goes."""

    from_scratch: bool = Field(
        default=False, description="Do not continue from the encoder before this time."
    )


@dg.asset(
    group_name="encoder",
    owners=ML_OWNERS,
    kinds={"pytorch", "safetensors"},
    deps=[token_shards],
    op_tags=partitions.ENCODER_FIRST,
    pool=partitions.GPU,
    retry_policy=dg.RetryPolicy(max_retries=1),
    output_required=False,
)
def encoder_ladder(
    context: dg.AssetExecutionContext, storage: Storage, config: LadderConfig
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Train the sequence model as of `as_of`, and as it could have been trained at earlier cuts.

    The lowest rung is trained from scratch, each of the others goes on from the one below it. Rungs
    stay as they are; the newest encoder goes on each night, every SEQLINE_FULL_RETRAIN_DAYS, on
    request, and where it cannot, from scratch. A run that was cut off goes on where it was. Where
    nothing can be learnt it refuses; where a training fails, what there is serves on.
    """
    from seq_ml.encoder.config import for_business, load_config
    from seq_ml.encoder.ladder.climbing import climb
    from seq_ml.encoder.ladder.rungs import ladder_markdown, read_ladder, to_climb
    from seq_ml.encoder.objectives.questions import NothingToLearnError
    from seq_ml.encoder.training.loop import DivergedError
    from seq_ml.encoder.training.stopping import stop_on_signal
    from seq_ml.sequences import cutoffs

    business, settings = storage.business, storage.settings
    periods = cutoffs.recorded(storage.tables).periods(business)
    try:
        with stop_on_signal() as should_stop:
            trained = climb(
                storage.objects,
                storage.tables,
                storage.tables.scan_or_empty(schema.ITEMS).collect(),
                for_business(load_config(settings.preset), business),
                to_climb(storage.objects, storage.tables, business, settings.rungs),
                storage.work,
                silence_days=7 * periods.silence_weeks,
                full_retrain_days=0 if config.from_scratch else settings.full_retrain_days,
                say=context.log.info,
                should_stop=should_stop,
            )
    except NothingToLearnError as reason:
        yield from refuse(context, str(reason))
        return
    except DivergedError as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    if trained and not (last := trained[-1].result).completed:
        # not an interruption of Dagster's, which the retry policy would take for an error
        raise dg.Failure(
            f"Stopped on request at step {last.step}; the next run goes on from there.",
            allow_retries=False,
        )
    rungs = read_ladder(storage.objects)
    metadata: dict[str, Any] = {
        "version": rungs[-1].version,
        "fitted_before": rungs[-1].cut.isoformat(),
        "rungs": dg.MetadataValue.md(ladder_markdown(rungs)),
        "trained": [f"{each.result.fitted_before:%Y-%m-%d}: {each.origin}" for each in trained],
        "steps": sum(each.result.step for each in trained),
        "seconds": sum(each.result.seconds for each in trained),
        **_candidate(storage, rungs),
    }
    if trained:
        metadata["held_out_loss"] = trained[-1].result.held_out
        board = trained[-1].folder / "tensorboard"
        metadata["tensorboard"] = dg.MetadataValue.path(str(board))
    yield dg.MaterializeResult(metadata=metadata)


def _candidate(storage: Storage, rungs: "Sequence[Rung]") -> dict[str, Any]:
    """Make the newest rung that saw no test window the candidate of the gate; return its report."""
    from seq_ml.clean.local_copy import local_events
    from seq_ml.encoder.evaluation.report import report_markdown
    from seq_ml.encoder.ladder.retraining import offer
    from seq_ml.sequences import cutoffs

    cutoff = cutoffs.recorded(storage.tables).cutoff
    there = [rung for rung in rungs if rung.cut <= cutoff]
    if not there:
        return {}
    report = offer(
        storage.objects,
        ENCODER_PREFIX,
        there[-1].version,
        local_events(storage.tables, storage.work).everything,
        storage.business.named("conversion"),
        storage.work,
    )
    said = {"candidate": there[-1].version, "report": dg.MetadataValue.md(report_markdown(report))}
    if rankings := report["rankings"]:
        said["ndcg_at_10"] = bar_chart(
            [ranking["ndcg"] for ranking in rankings.values()],
            list(rankings),
            "NDCG@10 of the items chosen in the 30 days after the cut-off",
            highlight={0},
        )
    return said


@dg.asset(
    group_name="encoder",
    owners=ML_OWNERS,
    kinds={"delta", "pytorch"},
    deps=["current_encoder"],
    output_required=False,
    op_tags=partitions.THEN_VECTORS,
    description=schema.ITEM_EMBEDDINGS.description,
    metadata=column_schema(schema.ITEM_EMBEDDINGS),
)
def item_embeddings(
    context: dg.AssetExecutionContext, storage: Storage
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Export the vectors of the vocabulary's items."""
    from seq_ml.encoder.scoring.vectors import item_rows

    encoder = load_encoder(storage)
    if encoder is None:
        yield from refuse(context, NO_ENCODER)
        return
    frame = item_rows(encoder)
    storage.tables.overwrite("item_embeddings", frame)
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": frame.height,
            "dimensions": encoder.config.model.dim,
            "bytes": storage.tables.size("item_embeddings"),
            "sample": sample(frame),
        }
    )


@dg.asset(
    group_name="encoder",
    owners=ML_OWNERS,
    kinds={"delta", "pytorch"},
    deps=["current_encoder", "user_sequences"],
    output_required=False,
    op_tags=partitions.THEN_VECTORS,
    description=schema.USER_EMBEDDINGS.description,
    metadata=column_schema(schema.USER_EMBEDDINGS),
)
def user_embeddings(
    context: dg.AssetExecutionContext, storage: Storage
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Read every user's events up to `as_of` with the current encoder."""
    from seq_ml.encoder.scoring.vectors import user_rows
    from seq_ml.sequences import cutoffs
    from seq_ml.sequences.read import read_by_shard

    encoder = load_encoder(storage)
    if encoder is None:
        yield from refuse(context, NO_ENCODER)
        return
    as_of = cutoffs.recorded(storage.tables).as_of
    longest = encoder.config.max_events
    parts = read_by_shard(storage.tables, as_of=as_of, max_events=longest)
    table = schema.USER_EMBEDDINGS
    storage.tables.overwrite_whole(table, user_rows(encoder, parts, as_of))
    files = storage.tables.files(table.name)
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": int(files["num_records"].sum()),
            "as_of": as_of.isoformat(),
            "dimensions": encoder.config.model.dim,
            "bytes": int(files["size_bytes"].sum()),
            "sample": sample(storage.tables.scan(table.name).head(5).collect()),
        }
    )


USER_VECTORS = dg.AssetSpec(
    "user_vectors",
    group_name="encoder",
    owners=ML_OWNERS,
    kinds={"delta"},
    deps=[user_embeddings],
    description="The vectors of users as of the instant of a table, which it holds where there "
    "are any.",
)


@dg.asset(
    group_name="encoder",
    owners=ML_OWNERS,
    kinds={"delta", "pytorch"},
    deps=["current_encoder", "user_sequences"],
    output_required=False,
    op_tags=partitions.THEN_VECTORS,
    description=schema.SEQUENCE_PREDICTIONS.description,
    metadata=column_schema(schema.SEQUENCE_PREDICTIONS),
    check_specs=[
        dg.AssetCheckSpec(
            "prediction_time",
            asset="sequence_predictions",
            blocking=True,
            description="No row is of an encoder that was trained on events from its origin on.",
        )
    ],
)
def sequence_predictions(
    context: dg.AssetExecutionContext, storage: Storage
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Ask the ladder at every origin that tasks read, each time the rung that was there by then."""
    import polars as pl

    from seq_ml.encoder.ladder.foreseen import predictions
    from seq_ml.encoder.ladder.rungs import read_ladder
    from seq_ml.sequences import cutoffs
    from seq_ml.sequences.read import read_by_shard
    from seq_ml.tasks.registered import load_tasks

    table, rungs = schema.SEQUENCE_PREDICTIONS, read_ladder(storage.objects)
    chosen = cutoffs.recorded(storage.tables)
    data = task_data(storage, None)
    origins = {chosen.as_of}.union(
        *(task.foretold_at(data, chosen.as_of) for task in load_tasks().values())
    )
    storage.tables.overwrite_whole(
        table,
        predictions(
            storage.objects,
            rungs,
            origins,
            lambda origin, most: read_by_shard(storage.tables, as_of=origin, max_events=most),
            storage.work,
            silence_days=7 * chosen.periods(storage.business).silence_weeks,
        ),
    )
    rows = storage.tables.scan(table.name)
    by_origin = rows.group_by("origin", "rung_cut").len("users").sort("origin").collect()
    if by_origin.is_empty():
        yield from refuse(context, f"{NO_ENCODER} Nothing is foreseen.")
        return
    late = by_origin.filter(pl.col("rung_cut") > pl.col("origin"))
    yield dg.MaterializeResult(
        metadata={
            "dagster/row_count": int(by_origin["users"].sum()),
            "as_of": chosen.as_of.isoformat(),
            "bytes": storage.tables.size(table.name),
            "origins": sample(by_origin, rows=30),
            "without_a_rung": len(origins) - by_origin.height,
        },
        check_results=[
            dg.AssetCheckResult(
                check_name="prediction_time",
                passed=late.is_empty(),
                metadata={"late": sample(late)},
            )
        ],
    )


FORESEEN = dg.AssetSpec(
    "foreseen",
    group_name="encoder",
    owners=ML_OWNERS,
    kinds={"delta"},
    deps=[sequence_predictions],
    description="What the sequence model foresaw at the origins of tasks and tables, which read it "
    "where there is any.",
)
