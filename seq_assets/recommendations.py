"""Stage tables: items beside an item, and the next basket of each user."""

import dagster as dg

from seq_assets.metadata import OWNERS, column_schema
from seq_assets.resources import Storage
from seq_assets.tables import contract_checks, publish
from seq_assets.tasks import INPUTS, task_data
from seq_ml import schema


@dg.asset(
    group_name="tables",
    owners=OWNERS,
    kinds={"delta"},
    deps=INPUTS,
    description=schema.ITEM_TO_ITEM.description,
    metadata=column_schema(schema.ITEM_TO_ITEM),
    check_specs=contract_checks("item_to_item"),
)
def item_to_item(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
    """Count the company of every item; its check is in the report of the recommendations."""
    from seq_ml.sequences import cutoffs
    from seq_ml.tables.publish import stamp
    from seq_ml.tasks import item_to_item as company
    from seq_ml.tasks.recommendations import merchandise_bought

    as_of = cutoffs.recorded(storage.tables).as_of
    data = task_data(storage, None)
    rows = company.item_to_item(merchandise_bought(data, as_of), data.items_known(as_of))
    rows = stamp(rows, as_of, version="counted", source="co-purchases", run_id=context.run_id)
    return publish(storage, schema.ITEM_TO_ITEM, rows, as_of, plot="score", lacks={})


@dg.asset(
    group_name="tables",
    owners=OWNERS,
    kinds={"delta"},
    deps=["recommendations", *INPUTS],
    description=schema.NEXT_BASKETS.description,
    metadata=column_schema(schema.NEXT_BASKETS),
    check_specs=contract_checks("next_baskets"),
)
def next_baskets(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
    """Name the first items of the recommendations as the next basket, its size and its day."""
    import polars as pl

    from seq_ml.sequences import cutoffs
    from seq_ml.tables import coverage
    from seq_ml.tables.publish import stamp
    from seq_ml.tasks import next_baskets as baskets
    from seq_ml.tasks.recommendations import merchandise_bought

    as_of = cutoffs.recorded(storage.tables).as_of
    data = task_data(storage, None)
    published = storage.tables.scan_or_empty(schema.RECOMMENDATIONS)
    recommended = published.filter(pl.col("as_of") == as_of).collect()
    rows = baskets.next_baskets(
        recommended,
        merchandise_bought(data, as_of),
        as_of,
        horizon_days=data.business.recommendations.horizon_days,
        timezone=data.business.timezone,
    )
    versions = recommended["model_version"].unique().sort()
    version = versions[0] if len(versions) else "none"
    rows = stamp(rows, as_of, version=version, source="", run_id=context.run_id)
    # users are lacking only where the recommendations, which have a check of their own, lack them
    lacks = coverage.users(rows, data, as_of) if rows.height else {}
    return publish(storage, schema.NEXT_BASKETS, rows, as_of, plot="score", lacks=lacks)
