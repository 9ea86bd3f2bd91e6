"""Stage tokens: the vocabularies, each fitted before its cut only, and the training shards."""

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

    One for each encoder that the ladder lacks, extended by what was seen before its cut: ids never
    move. An encoder carries the vocabulary that it was trained with.
    """
    from seq_ml.encoder.config import load_config
    from seq_ml.encoder.ladder.rungs import to_climb
    from seq_ml.sequences.read import events_by_shard
    from seq_ml.tokens.store import newest_vocabulary, vocabularies_at

    cuts = to_climb(storage.objects, storage.tables, storage.business, storage.settings.rungs)
    fitted = vocabularies_at(
        storage.objects,
        [cut for cut, _ in cuts],
        lambda cut: events_by_shard(storage.tables, before=cut),
        storage.tables.scan_or_empty(ITEMS).collect(),
        min_users=load_config(storage.settings.preset).min_users,
        timezone=storage.business.timezone,
    )
    newest = newest_vocabulary(storage.objects)
    assert newest is not None
    return dg.MaterializeResult(
        metadata={
            "version": newest.version,
            "fitted": len(fitted),
            "extends_the_one_before": all(extended for _, extended in fitted),
            "fitted_before": newest.fitted_before.isoformat(),
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
    """Sequences up to as_of as integers: safetensors without padding, by user shard.

    The manifest holds a content hash of each shard, the vocabulary's version and as_of. Those up to
    earlier cuts are made where an encoder is trained on them.
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
    as_of = cutoffs.recorded(storage.tables).as_of
    folder = storage.work / "new_shards"
    sequences = read_by_shard(
        storage.tables, as_of=as_of, max_events=load_config(storage.settings.preset).max_events
    )
    try:
        manifest = write_shards(sequences, words, folder)
    except NoSequencesError:
        yield from refuse(
            context,
            f"No event lies before {as_of:%Y-%m-%d}: the encoder learns from events.",
        )
        return
    size = publish_folder(
        storage.objects,
        SHARDS_PREFIX,
        manifest.version,
        folder,
        files=[*(shard.file for shard in manifest.shards), MANIFEST],
        as_of=as_of.isoformat(),
        vocabulary=manifest.vocabulary,
    )
    yield dg.MaterializeResult(
        metadata={
            "version": manifest.version,
            "vocabulary": manifest.vocabulary,
            "as_of": as_of.isoformat(),
            "users": manifest.users,
            "events": manifest.events,
            "shards": len(manifest.shards),
            "bytes": size,
        }
    )
