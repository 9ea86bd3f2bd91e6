"""Stage sequences: the moment that a run speaks of, and every user's sequence in daily segments."""

from datetime import date

import dagster as dg
from pydantic import Field

from seq_assets import partitions
from seq_assets.metadata import OWNERS, bar_chart, column_schema
from seq_assets.resources import Storage
from seq_ml import schema


class CutOffsConfig(dg.Config):
    """Which moment the whole run speaks of."""

    as_of: str = Field(
        "", description="Business day (YYYY-MM-DD) that has not begun; empty: the newest complete."
    )


@dg.asset(
    group_name="sequences",
    owners=OWNERS,
    kinds={"s3"},
    deps=["clean_events", "exchange_rates"],
    op_tags=partitions.ENCODER_FIRST,
)
def cut_offs(
    context: dg.AssetExecutionContext, storage: Storage, config: CutOffsConfig
) -> dg.MaterializeResult:
    """Choose what all later stages go by: `as_of`, the training cut-off, the windows.

    Features of published tables end before `as_of`; the encoder is trained before the cut-off.
    """
    from seq_ml.clean.currencies import unconverted
    from seq_ml.sequences import cutoffs

    day = date.fromisoformat(config.as_of) if config.as_of else None
    chosen = cutoffs.choose(storage.tables, storage.business, day)
    cutoffs.record(storage.tables, chosen)
    money = unconverted(storage.tables, storage.business.currency)
    if money:
        context.log.warning(money)
    return dg.MaterializeResult(
        metadata={
            "as_of": chosen.as_of.isoformat(),
            "training_cut_off": chosen.cutoff.isoformat(),
            "money": money or "all of it counts",
            "windows": chosen.periods(storage.business).said(),
        }
    )


@dg.asset(
    group_name="sequences",
    owners=OWNERS,
    kinds={"delta", "polars"},
    deps=["clean_events", "exchange_rates", cut_offs],
    op_tags=partitions.ENCODER_FIRST,
    description=schema.USER_SEQUENCES.description,
    metadata=column_schema(schema.USER_SEQUENCES),
)
def user_sequences(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
    """Write anew the segments of the days that changed."""
    from seq_ml.clean.days import clean_days
    from seq_ml.sequences.segments import update_sequences

    update = update_sequences(storage.tables, storage.settings, on_progress=context.log.info)
    _, days = clean_days(storage.tables)
    newest = list(days.values())[-60:]
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": sum(
                storage.tables.files(schema.USER_SEQUENCES.name)["num_records"]
            ),
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
