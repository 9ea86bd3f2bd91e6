"""Stage sequences: clean days become daily segments of every user's sequence."""

from datetime import date

import dagster as dg
from pydantic import Field

from seq_assets.metadata import OWNERS, bar_chart, column_schema
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
def user_sequences(
    context: dg.AssetExecutionContext, storage: Storage, config: SequencesConfig
) -> dg.MaterializeResult:
    """Write anew the segments of the days that changed; record `as_of` and the training cut-off."""
    from seq_ml.clean.days import clean_days
    from seq_ml.sequences import cutoffs
    from seq_ml.sequences.segments import update_sequences

    day = date.fromisoformat(config.as_of) if config.as_of else None
    chosen = cutoffs.choose(storage.tables, storage.business, day)
    update = update_sequences(storage.tables, storage.settings, on_progress=context.log.info)
    cutoffs.record(storage.tables, chosen)
    _, days = clean_days(storage.tables)
    newest = list(days.values())[-60:]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(
                storage.tables.files(schema.USER_SEQUENCES.name)["num_records"]
            ),
            "as_of": chosen.as_of.isoformat(),
            "training_cut_off": chosen.cutoff.isoformat(),
            "days_written_anew": len(update.days),
            "first_of_them": str(update.days[0]) if update.days else "none",
            "events_read": update.events,
            "bytes": storage.tables.size(schema.USER_SEQUENCES.name),
            "events_per_day": bar_chart(
                [state.rows for state in newest],
                [str(state.day) for state in newest],
                "Events of the newest days",
            ),
        }
    )
