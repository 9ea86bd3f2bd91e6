"""Forget the past of Delta tables: old files, and the commits whose statistics name values.

A deleted row stays readable in older versions until its files are vacuumed; and a commit of the log
tells the smallest and largest value of each column (and the condition of a delete) until it is
removed. Afterwards a table has one version: today's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from seq_ml.storage.opened import LOG

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.tables import TableStore


def delete_user(tables: TableStore, name: str, column: str, user: str) -> int:
    """Delete the rows whose `column` is `user` in one commit; return how many there were."""
    scan = tables.scan(name)
    if column not in scan.collect_schema():
        return 0
    theirs = scan.filter(pl.col(column) == user).select(pl.len())
    rows = int(theirs.collect(engine="streaming").item())
    if rows:
        tables.delete_rows(name, column, [user])
    return rows


def forget_history(tables: TableStore, name: str) -> int:
    """Remove every file and commit that only older versions need; return how many objects.

    Nobody may write to the table meanwhile: a file of a commit that is not there yet looks like a
    left-over, and goes.
    """
    objects = tables.objects
    removed = tables.delta(name).vacuum(
        retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True
    )
    table = tables.delta(name)  # the vacuum left commits of its own, which name nothing
    table.create_checkpoint()
    newest = table.version()
    old = [
        info.key
        for info in objects.list(f"{tables.prefix}/{name}/{LOG}/")
        if (number := info.key.rsplit("/", 1)[-1].partition(".")[0]).isdigit()
        and int(number) < newest
    ]
    return len(removed) + objects.delete(old)


def forget_versions(objects: ObjectStore, prefixes: Iterable[str]) -> int:
    """Delete what versioning kept of overwritten and deleted objects; return how many.

    A bucket that never had versioning has nothing of the kind.
    """
    if "Status" not in objects.client.get_bucket_versioning(Bucket=objects.bucket):
        return 0
    deleted = 0
    pages = objects.client.get_paginator("list_object_versions")
    for prefix in prefixes:
        for page in pages.paginate(Bucket=objects.bucket, Prefix=prefix):
            for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ())):
                if not one["IsLatest"]:
                    objects.client.delete_object(
                        Bucket=objects.bucket, Key=one["Key"], VersionId=one["VersionId"]
                    )
                    deleted += 1
    return deleted
