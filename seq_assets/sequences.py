"""Stage sequences: clean days become one sequence per user."""

from datetime import date

import dagster as dg
from pydantic import Field

from seq_assets.metadata import OWNERS, bar_chart, column_schema, sample
from seq_assets.resources import Storage
from seq_ml import schema


class SequencesConfig(dg.Config):
    """Which moment the whole run speaks of."""

    as_of: str = Field(
        "", description="Business day (YYYY-MM-DD) that has not begun; empty: the newest complete."
    )


@dg.asset(
    group_name="sequences",
    owners=OWNERS,
    kinds={"delta", "polars"},
    deps=["clean_events"],
    description=schema.USER_SEQUENCES.description,
    metadata=column_schema(schema.USER_SEQUENCES),
)
def user_sequences(storage: Storage, config: SequencesConfig) -> dg.MaterializeResult:
    """Build the snapshot at `as_of` and the one at the training cut-off, shard by shard."""
    import polars as pl

    from seq_ml.encoder.config import PRESETS
    from seq_ml.sequences import cutoffs
    from seq_ml.sequences.build import build_sequences
    from seq_ml.tasks.inputs import local_events

    events = local_events(storage.tables, storage.work)
    day = date.fromisoformat(config.as_of) if config.as_of else None
    chosen = cutoffs.choose(events, storage.business, day)
    frames = [
        build_sequences(
            events,
            as_of=instant,
            max_events=PRESETS[storage.settings.preset].max_events,
            shards=storage.settings.shards,
        )
        for instant in (chosen.cutoff, chosen.as_of)
    ]
    sequences = pl.concat(frames)
    storage.tables.overwrite("user_sequences", sequences)
    today = frames[1]
    lengths = today["length"].hist(bin_count=40)
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sequences.height,
            "as_of": chosen.as_of.isoformat(),
            "training_cut_off": chosen.cutoff.isoformat(),
            "users": today.height,
            "events": int(today["length"].sum()),
            "bytes": storage.tables.size("user_sequences"),
            "lengths": bar_chart(
                lengths["count"].to_list(),
                [f"{edge:.0f} events" for edge in lengths["breakpoint"]],
                "Users by length of their sequence",
            ),
            "sample": sample(today.select("user_id", "shard", "as_of", "length", "total_events")),
        }
    )
