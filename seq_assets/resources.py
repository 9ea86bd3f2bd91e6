"""The storage resource: the bucket, its Delta tables and the settings behind them."""

from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg

from seq_ml.settings import Settings, load_settings

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.business import Business
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.tables import TableStore


class Storage(dg.ConfigurableResource):
    """The bucket that the environment names; the embedded server is started when none is named."""

    @cached_property
    def settings(self) -> Settings:
        """The operator's settings."""
        return load_settings()

    @cached_property
    def objects(self) -> "ObjectStore":
        """The bucket, proven to be reachable; dg.Failure with one sentence when it is not."""
        from seq_ml.storage import StorageError, connect

        try:
            return connect(self.settings, start=True)
        except StorageError as error:
            raise dg.Failure(str(error), allow_retries=False) from error

    @cached_property
    def tables(self) -> "TableStore":
        """The Delta tables of the bucket."""
        from seq_ml.storage.tables import TableStore

        return TableStore(self.objects)

    @cached_property
    def business(self) -> "Business":
        """The business that the source mappings describe."""
        from seq_ml.ingest.sources import load_business

        return load_business(self.objects)

    @property
    def work(self) -> "Path":
        """Folder for local working copies (memory-mapped shards, checkpoints)."""
        from seq_ml.settings import home

        folder = home() / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
