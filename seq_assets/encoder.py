"""Stage encoder: pre-training, and the vectors that everything later reads."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from seq_assets import partitions
from seq_assets.checks import refuse
from seq_assets.metadata import ML_OWNERS, bar_chart, column_schema, sample
from seq_assets.resources import Storage, load_encoder
from seq_assets.tokens import token_shards
from seq_ml import schema
from seq_ml.storage.layout import ENCODER_PREFIX, SHARDS_PREFIX

NO_ENCODER = "No encoder was trained on events before the cut-off: pretrained_encoder says why."


class PretrainConfig(dg.Config):
    """How this one training goes."""

    from_scratch: bool = Field(
        default=False, description="Do not continue from the current encoder this time."
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
def pretrained_encoder(
    context: dg.AssetExecutionContext, storage: Storage, config: PretrainConfig
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Pre-train the sequence model on the tasks that its configuration weighs.

    It continues from the current encoder on what is new, and on old windows again; every
    SEQLINE_FULL_RETRAIN_DAYS, on request, and where it cannot, from scratch.
    A training that was cancelled or killed goes on from its newest checkpoint; the same data and
    configuration are trained only once. Where nothing can be learnt it refuses. Whether what comes
    out becomes current, `encoder_gate` decides.
    """
    from seq_ml.clean.local_copy import local_events
    from seq_ml.encoder.config import for_business, load_config
    from seq_ml.encoder.evaluation.report import report_markdown
    from seq_ml.encoder.objectives.questions import NothingToLearnError
    from seq_ml.encoder.retraining import offer, retrain
    from seq_ml.encoder.training.stopping import stop_on_signal
    from seq_ml.storage.artifacts import current, fetch_folder
    from seq_ml.tokens.store import load_vocabulary

    shards = current(storage.objects, SHARDS_PREFIX)
    if shards is None:
        raise dg.Failure("There are no token shards: materialize token_shards first.")
    try:
        with stop_on_signal() as should_stop:
            trained = retrain(
                storage.objects,
                ENCODER_PREFIX,
                fetch_folder(storage.objects, SHARDS_PREFIX, shards["version"], storage.work),
                load_vocabulary(storage.objects, shards["vocabulary"]),
                storage.tables.scan_or_empty(schema.ITEMS).collect(),
                for_business(load_config(storage.settings.preset), storage.business),
                storage.work,
                full_retrain_days=0 if config.from_scratch else storage.settings.full_retrain_days,
                say=context.log.info,
                should_stop=should_stop,
            )
    except NothingToLearnError as reason:
        yield from refuse(context, str(reason))
        return
    result = trained.result
    if not result.completed:
        # not an interruption of Dagster's, which the retry policy would take for an error
        raise dg.Failure(
            f"Stopped on request at step {result.step}; the next run goes on from there.",
            allow_retries=False,
        )
    events = local_events(storage.tables, storage.work).everything
    conversions = storage.business.named("conversion")
    report, size = offer(storage.objects, ENCODER_PREFIX, trained, events, conversions)
    metadata: dict[str, Any] = {
        "version": result.training_id,
        "training": trained.origin,
        "fitted_before": result.fitted_before.isoformat(),
        "steps": result.step,
        "best_step": result.best_step,
        "seconds": result.seconds,
        "held_out_loss": result.held_out,
        "bytes": size,
        "tensorboard": dg.MetadataValue.path(str(trained.folder / "tensorboard")),
        "report": dg.MetadataValue.md(report_markdown(report)),
    }
    if rankings := report["rankings"]:
        metadata["ndcg_at_10"] = bar_chart(
            [ranking["ndcg"] for ranking in rankings.values()],
            list(rankings),
            "NDCG@10 of the items chosen in the 30 days after the cut-off",
            highlight={0},
        )
    yield dg.MaterializeResult(metadata=metadata)


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
