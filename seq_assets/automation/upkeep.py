"""Upkeep of the bucket: small files merged, old files deleted, nobody's content changed."""

import dagster as dg
from pydantic import Field

from seq_assets import partitions
from seq_assets.metadata import sample
from seq_assets.resources import Storage


class UpkeepConfig(dg.Config):
    """Whether to act."""

    dry_run: bool = Field(default=False, description="Only report what would be done.")


# the pool of the writers whose tables are compacted: none of them runs meanwhile
@dg.op(pool=partitions.INGEST)
def merge_and_delete(
    context: dg.OpExecutionContext, storage: Storage, config: UpkeepConfig
) -> None:
    """Merge small files of tables; delete files, versions and docs that nothing needs any more."""
    from datetime import UTC, datetime

    from seq_ml.settings import home
    from seq_ml.storage.upkeep import apply, plan, report

    steps = plan(storage.objects, storage.settings, home(), datetime.now(UTC))
    outcomes = None if config.dry_run else apply(steps, context.log.info)
    done = report(steps, outcomes)
    context.add_output_metadata(
        {
            "steps": done.height,
            "files_less": int((done["files_before"] - done["files_after"]).sum()),
            "bytes_less": int((done["bytes_before"] - done["bytes_after"]).sum()),
            "report": sample(done, rows=200),
        }
    )


@dg.job(
    description="Merge small files and delete what nothing refers to; contents stay.",
    tags={"dagster/max_runtime": "7200"},
    executor_def=dg.in_process_executor,
)
def storage_upkeep() -> None:
    """One step: it holds the pool of the writers while it works."""
    merge_and_delete()
