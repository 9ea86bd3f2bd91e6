"""Stage ingest: dropped files become staged rows and the reference tables."""

import dagster as dg

from seq_assets import partitions
from seq_assets.checks import quarantine_check, quarantine_spec
from seq_assets.metadata import OWNERS, column_schema, sample
from seq_assets.resources import Storage
from seq_ml import schema


@dg.asset(
    group_name="ingest",
    owners=OWNERS,
    kinds={"s3", "delta", "polars"},
    pool=partitions.INGEST,
    metadata=column_schema(schema.DROP_LEDGER),
)
def drop_ledger(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
    """Every object ever dropped below `drops/`: what was read, kept, doubled, quarantined, refused.

    Reads each new or corrected object through its source mapping and files the rows by day. The
    same drop twice changes nothing. A file that cannot be read is refused by name; the rest goes
    on.
    """
    from seq_ml.ingest.ingest import ingest
    from seq_ml.ingest.ledger import Ledger

    result = ingest(storage.objects, storage.tables, storage.settings, on_progress=context.log.info)
    for key, reason in result.refused:
        context.log.warning("refused %s: %s", key, reason)
    book = Ledger(storage.tables)
    sources = result.sources
    for name in book.without_mapping({*sources.usable, *sources.broken}):
        context.log.warning(
            "Source %s has no mapping any more: its rows stay as they are, none of its files is "
            "read again, and its own behaviours have no role.",
            name,
        )
    first_day = storage.settings.first_day
    rules = sources.business.cleaning_version(first_day) if sources.business else None
    stale = book.stale("events", rules, first_day=first_day)
    ledger = book.current()
    states = ledger["status"].value_counts(sort=True)
    refused = ledger.filter(ledger["status"] == "refused")
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": ledger.height,
            "files_read": result.files,
            "files_refused": len(result.refused),
            "files_still_being_written": result.unfinished,
            "rows_read": sum(result.rows.values()),
            "bytes_read": result.bytes,
            "states": sample(states, rows=10),
            "refused": sample(refused.select("key", "reason"), rows=10),
            "broken_mappings": "\n".join(one.reason for one in sources.broken.values()) or "none",
            "days_to_clean": stale["partition"].n_unique(),
            "why": sample(stale.sort("partition", descending=True), rows=30),
            "complete_until": str(book.complete_until("events", stale) or "nothing is clean yet"),
        }
    )


def _reference_asset(table: schema.Table) -> dg.AssetsDefinition:
    name = table.name

    @dg.asset(
        name=name,
        group_name="ingest",
        owners=OWNERS,
        kinds={"delta", "polars"},
        description=table.description,
        deps=[drop_ledger],
        pool=partitions.INGEST,
        metadata=column_schema(table),
        check_specs=[quarantine_spec(name)],
    )
    def reference(context: dg.AssetExecutionContext, storage: Storage) -> dg.MaterializeResult:
        import polars as pl

        from seq_ml.clean.reference import publish_reference
        from seq_ml.ingest.ledger import Ledger

        since = Ledger(storage.tables).clock()
        done = publish_reference(storage.tables, name)
        rows = storage.tables.scan(name)
        return dg.MaterializeResult(
            metadata={
                "dagster/row_count": rows.select(pl.len()).collect().item(),
                "bytes": storage.tables.size(name),
                "rows_published_now": done.rows_kept,
                "rows_duplicate_now": done.rows_duplicate,
                "rows_quarantined_now": done.rows_quarantined,
                "sample": sample(rows.head(5).collect()),
            },
            check_results=[quarantine_check(context, storage, name, name, since)],
        )

    return reference


REFERENCE = [
    _reference_asset(table) for name, table in schema.INPUT_TABLES.items() if name != "events"
]
