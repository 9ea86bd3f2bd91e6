"""Stage tokens: the vocabulary and the training shards, fitted before the training cut-off only."""

from collections.abc import Iterator

import dagster as dg

from seq_assets import partitions
from seq_assets.checks import refuse
from seq_assets.metadata import ML_OWNERS
from seq_assets.resources import Storage
from seq_ml.schema import ITEMS
from seq_ml.storage.layout import SHARDS_PREFIX


@dg.asset(
    group_name="tokens",
    owners=ML_OWNERS,
    kinds={"s3", "polars"},
    deps=["user_sequences", "items"],
    op_tags=partitions.ENCODER_FIRST,
)
def vocabulary(storage: Storage) -> dg.MaterializeResult:
    """Token of each item, category and behaviour, and the price and quantity bands.

    Extended for each training by what was seen before its cut-off: ids never move. An encoder
    carries the vocabulary that it was trained with.
    """
    from seq_ml.encoder.config import load_config
    from seq_ml.sequences import cutoffs
    from seq_ml.sequences.read import events_by_shard
    from seq_ml.tokens.store import update_vocabulary

    cutoff = cutoffs.recorded(storage.tables).cutoff
    newest, extended = update_vocabulary(
        storage.objects,
        events_by_shard(storage.tables, before=cutoff),
        storage.tables.scan_or_empty(ITEMS).collect(),
        before=cutoff,
        min_users=load_config(storage.settings.preset).min_users,
        timezone=storage.business.timezone,
    )
    return dg.MaterializeResult(
        metadata={
            "version": newest.version,
            "extends_the_one_before": extended,
            "fitted_before": cutoff.isoformat(),
            "tokens": len(newest),
            "items_with_own_token": len(newest.item_tokens),
            "categories": len(newest.categories),
        }
    )


@dg.asset(
    group_name="tokens",
    owners=ML_OWNERS,
    kinds={"s3", "safetensors"},
    deps=["user_sequences", vocabulary],
    output_required=False,
    op_tags=partitions.ENCODER_FIRST,
)
def token_shards(
    context: dg.AssetExecutionContext, storage: Storage
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Sequences up to the training cut-off as integers: safetensors without padding, by user shard.

    The manifest holds a content hash of each shard, the vocabulary's version and the cut-off.
    """
    from seq_ml.encoder.config import load_config
    from seq_ml.sequences import cutoffs
    from seq_ml.sequences.read import read_by_shard
    from seq_ml.storage.artifacts import publish_folder
    from seq_ml.tokens.shards import MANIFEST, NoSequencesError, write_shards
    from seq_ml.tokens.store import newest_vocabulary

    words = newest_vocabulary(storage.objects)
    if words is None:
        raise dg.Failure("There is no vocabulary: materialize vocabulary first.")
    cutoff = cutoffs.recorded(storage.tables).cutoff
    folder = storage.work / "new_shards"
    sequences = read_by_shard(
        storage.tables, as_of=cutoff, max_events=load_config(storage.settings.preset).max_events
    )
    try:
        manifest = write_shards(sequences, words, folder)
    except NoSequencesError:
        yield from refuse(
            context,
            f"No event lies before the training cut-off {cutoff:%Y-%m-%d}: the encoder learns from "
            "events that are older.",
        )
        return
    size = publish_folder(
        storage.objects,
        SHARDS_PREFIX,
        manifest.version,
        folder,
        files=[*(shard.file for shard in manifest.shards), MANIFEST],
        as_of=cutoff.isoformat(),
        vocabulary=manifest.vocabulary,
    )
    yield dg.MaterializeResult(
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
