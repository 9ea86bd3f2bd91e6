"""Stage encoder: pre-training, and the vectors that everything later reads."""

from datetime import datetime
from typing import TYPE_CHECKING

import dagster as dg
from pydantic import Field

from seq_assets import pools
from seq_assets.metadata import ML_OWNERS, bar_chart, column_schema, sample
from seq_assets.resources import Storage
from seq_assets.tokens import SHARDS_PREFIX, token_shards
from seq_ml import schema

if TYPE_CHECKING:
    from seq_ml.encoder.scoring import Encoder

ENCODER_PREFIX = "models/encoder"


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
    pool=pools.GPU,
    retry_policy=dg.RetryPolicy(max_retries=1),
)
def pretrained_encoder(
    context: dg.AssetExecutionContext, storage: Storage, config: PretrainConfig
) -> dg.MaterializeResult:
    """Pre-train the sequence model on the tasks that its configuration weighs.

    It continues from the current encoder on what is new, and on old windows again; every
    SEQLINE_FULL_RETRAIN_DAYS, on request, and where it cannot, from scratch.
    A training that was cancelled or killed goes on from its newest checkpoint; the same data and
    configuration are trained only once.
    """
    from seq_ml.encoder.config import load_config
    from seq_ml.encoder.growth import choose_start
    from seq_ml.encoder.report import encoder_report, report_markdown
    from seq_ml.encoder.scoring import Encoder
    from seq_ml.encoder.stopping import stop_on_signal
    from seq_ml.encoder.texts import text_files, texts_to_read
    from seq_ml.encoder.training import pretrain
    from seq_ml.privacy.erase import encoders_of_the_erased
    from seq_ml.storage.artifacts import current, fetch_folder, publish_folder
    from seq_ml.tasks.inputs import local_events
    from seq_ml.tokens.store import load_vocabulary

    shards = current(storage.objects, SHARDS_PREFIX)
    if shards is None:
        raise dg.Failure("There are no token shards: materialize token_shards first.")
    folder = fetch_folder(storage.objects, SHARDS_PREFIX, shards["version"], storage.work)
    words = load_vocabulary(storage.objects, shards["vocabulary"])
    out = storage.work / "encoder"
    settings = load_config(storage.settings.preset)
    texts = texts_to_read(
        settings.model,
        words,
        storage.tables.scan_or_empty(schema.ITEMS).collect(),
        before=datetime.fromisoformat(shards["as_of"]),
        cache=storage.work / "text_vectors",
    )
    start, origin = choose_start(
        storage.objects,
        ENCODER_PREFIX,
        storage.work,
        words,
        settings,
        full_retrain_days=0 if config.from_scratch else storage.settings.full_retrain_days,
        forbidden=encoders_of_the_erased(storage.objects),
    )
    context.log.info("training %s", origin)

    def on_step(metrics: dict[str, float]) -> None:
        if any(name.startswith("held_out/") for name in metrics) or metrics["step"] % 25 == 0:
            shown = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
            context.log.info("training: %s", shown)

    with stop_on_signal() as should_stop:
        result = pretrain(
            folder,
            words,
            settings,
            out / "training",
            texts=texts,
            start=start,
            on_step=on_step,
            should_stop=should_stop,
        )
    if not result.completed:
        # not an interruption of Dagster's, which the retry policy would take for an error
        raise dg.Failure(
            f"Stopped on request at step {result.step}; the next run goes on from there.",
            allow_retries=False,
        )
    encoder = Encoder.load(out / "training")
    events = local_events(storage.tables, storage.work)
    report = encoder_report(
        encoder, events, encoder.fitted_before, start=Encoder.load(start) if start else None
    )
    rankings = report["rankings"]
    size = publish_folder(
        storage.objects,
        ENCODER_PREFIX,
        result.training_id,
        out / "training",
        files=(
            *("config.json", "model.safetensors", "training.json", "vocabulary.json"),
            *(text_files(out / "training") if texts else ()),
        ),
        fitted_before=encoder.fitted_before.isoformat(),
        report=report,
    )
    return dg.MaterializeResult(
        metadata={
            "version": result.training_id,
            "training": origin,
            "fitted_before": encoder.fitted_before.isoformat(),
            "steps": result.step,
            "best_step": result.best_step,
            "seconds": result.seconds,
            "held_out_loss": result.held_out,
            "bytes": size,
            "tensorboard": dg.MetadataValue.path(str(out / "training" / "tensorboard")),
            "report": dg.MetadataValue.md(report_markdown(report)),
            "ndcg_at_10": bar_chart(
                [r["ndcg"] for r in rankings.values()],
                list(rankings),
                "NDCG@10 of the items bought in the 30 days after the cut-off",
                highlight={0},
            ),
        }
    )


def load_encoder(storage: Storage, version: str = "current") -> "Encoder | None":
    """Return the current encoder (None when none was trained yet), or a given version."""
    from seq_ml.encoder.scoring import Encoder
    from seq_ml.storage.artifacts import current, fetch_folder

    if version == "current":
        pointer = current(storage.objects, ENCODER_PREFIX)
        if pointer is None:
            return None
        version = pointer["version"]
    return Encoder.load(fetch_folder(storage.objects, ENCODER_PREFIX, version, storage.work))


@dg.asset(
    group_name="encoder",
    owners=ML_OWNERS,
    kinds={"delta", "pytorch"},
    deps=[pretrained_encoder],
    description=schema.ITEM_EMBEDDINGS.description,
    metadata=column_schema(schema.ITEM_EMBEDDINGS),
)
def item_embeddings(storage: Storage) -> dg.MaterializeResult:
    """Export the vectors of the vocabulary's items."""
    import polars as pl

    from seq_ml.storage.tables import conform

    encoder = load_encoder(storage)
    if encoder is None:
        raise dg.Failure("There is no encoder: materialize pretrained_encoder first.")
    ids, vectors = encoder.item_embeddings()
    frame = pl.DataFrame({"item_id": ids, "embedding": vectors}).with_columns(
        model_version=pl.lit(encoder.version)
    )
    storage.tables.overwrite("item_embeddings", conform(frame, schema.ITEM_EMBEDDINGS))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": frame.height,
            "dimensions": int(vectors.shape[1]),
            "bytes": storage.tables.size("item_embeddings"),
            "sample": sample(frame),
        }
    )


@dg.asset(
    group_name="encoder",
    owners=ML_OWNERS,
    kinds={"delta", "pytorch"},
    deps=[pretrained_encoder, "user_sequences"],
    description=schema.USER_EMBEDDINGS.description,
    metadata=column_schema(schema.USER_EMBEDDINGS),
)
def user_embeddings(storage: Storage) -> dg.MaterializeResult:
    """Read every user's events up to `as_of` with the current encoder."""
    import numpy as np
    import polars as pl

    from seq_ml.sequences import cutoffs
    from seq_ml.sequences.read import read_by_shard
    from seq_ml.storage.tables import conform

    encoder = load_encoder(storage)
    if encoder is None:
        raise dg.Failure("There is no encoder: materialize pretrained_encoder first.")
    as_of = cutoffs.recorded(storage.tables).as_of
    parts = [
        encoder.embed(sequences, as_of)
        for sequences in read_by_shard(
            storage.tables, as_of=as_of, max_events=encoder.config.max_events
        )
    ]
    ids = [user for users, _ in parts for user in users]
    vectors = np.concatenate([part for _, part in parts])
    frame = (
        pl.DataFrame({"user_id": ids, "embedding": vectors})
        .with_columns(as_of=pl.lit(as_of), model_version=pl.lit(encoder.version))
        .sort("user_id")
    )
    storage.tables.overwrite("user_embeddings", conform(frame, schema.USER_EMBEDDINGS))
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": frame.height,
            "as_of": as_of.isoformat(),
            "dimensions": int(vectors.shape[1]),
            "bytes": storage.tables.size("user_embeddings"),
            "sample": sample(frame),
        }
    )
