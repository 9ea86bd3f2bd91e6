"""Stage tokens: the vocabulary and the training shards, fitted before the training cut-off only."""

import dagster as dg

from seq_assets.metadata import ML_OWNERS
from seq_assets.resources import Storage

VOCABULARY_KEY = "tokens/vocabulary.json"
SHARDS_PREFIX = "tokens/shards"


@dg.asset(
    group_name="tokens", owners=ML_OWNERS, kinds={"s3", "polars"}, deps=["user_sequences", "items"]
)
def vocabulary(storage: Storage) -> dg.MaterializeResult:
    """Token of each item, category and behaviour, and the price and quantity bands.

    Fitted for each training, on events before the training cut-off only; an encoder carries the
    vocabulary that it was trained with.
    """
    from seq_ml.encoder.config import PRESETS
    from seq_ml.sequences import cutoffs
    from seq_ml.tasks.inputs import local_events
    from seq_ml.tokens.vocabulary import Vocabulary

    events = local_events(storage.tables, storage.work)
    items = storage.tables.scan("items").collect()
    cutoff = cutoffs.recorded(storage.tables).cutoff
    fitted = Vocabulary.fit(
        events, items, before=cutoff, min_users=PRESETS[storage.settings.preset].min_users
    )
    content = fitted.to_bytes()
    storage.objects.put(VOCABULARY_KEY, content)
    return dg.MaterializeResult(
        metadata={
            "version": fitted.version,
            "fitted_before": cutoff.isoformat(),
            "tokens": len(fitted),
            "items_with_own_token": len(fitted.item_tokens),
            "categories": len(fitted.categories),
            "bytes": len(content),
        }
    )


@dg.asset(
    group_name="tokens",
    owners=ML_OWNERS,
    kinds={"s3", "safetensors"},
    deps=["user_sequences", vocabulary],
)
def token_shards(storage: Storage) -> dg.MaterializeResult:
    """Sequences up to the training cut-off as integers: safetensors without padding, by user shard.

    The manifest holds a content hash of each shard, the vocabulary's version and the cut-off.
    """
    import polars as pl

    from seq_ml.sequences import cutoffs
    from seq_ml.storage.artifacts import publish_folder
    from seq_ml.tokens.shards import MANIFEST, write_shards
    from seq_ml.tokens.vocabulary import Vocabulary

    cutoff = cutoffs.recorded(storage.tables).cutoff
    sequences = storage.tables.scan("user_sequences").filter(pl.col("as_of") == cutoff).collect()
    if sequences.is_empty():
        raise dg.Failure(
            f"No event lies before the training cut-off {cutoff:%Y-%m-%d}: the encoder needs "
            "events of more than 91 days before as_of.",
            allow_retries=False,
        )
    words = Vocabulary.from_bytes(storage.objects.get(VOCABULARY_KEY))
    folder = storage.work / "new_shards"
    manifest = write_shards(sequences, words, folder)
    size = publish_folder(
        storage.objects,
        SHARDS_PREFIX,
        manifest.version,
        folder,
        files=[*(shard.file for shard in manifest.shards), MANIFEST],
        as_of=cutoff.isoformat(),
    )
    return dg.MaterializeResult(
        metadata={
            "version": manifest.version,
            "vocabulary": manifest.vocabulary,
            "as_of": cutoff.isoformat(),
            "users": manifest.users,
            "events": manifest.events,
            "shards": len(manifest.shards),
            "bytes": size,
        }
    )
