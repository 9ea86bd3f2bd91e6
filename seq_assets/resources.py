"""What assets are given: the storage (bucket, Delta tables, settings), task data, the encoder."""

from functools import cached_property
from typing import TYPE_CHECKING

import dagster as dg

from seq_ml.settings import Settings, load_settings
from seq_ml.storage.layout import ENCODER_PREFIX, SITE_PREFIX

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.business import Business
    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.tables import TableStore
    from seq_ml.tasks.data import Loaded, TaskData

INPUTS = [
    "clean_events",
    "cut_offs",
    "items",
    "campaigns",
    "campaign_items",
    "promotions",
    "stock",
    "subscriptions",
    "exchange_rates",
]


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
        from seq_ml.ingest.mapping.bucket import load_business

        return load_business(self.objects)

    @cached_property
    def loaded(self) -> "Loaded":
        """What tasks of this run read."""
        from seq_ml.tasks.data import Loaded

        return Loaded()

    @cached_property
    def encoders(self) -> "dict[str, Encoder]":
        """The encoder that a step of this run loaded last, by its version."""
        return {}

    def show_page(self, name: str, text: str) -> dg.UrlMetadataValue:
        """Write a report that `seqline ui` serves; return its address. name: below `reports/`."""
        from seq_ml.settings import home

        path = home() / SITE_PREFIX / "reports" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return dg.MetadataValue.url(f"{self.settings.site_url}/reports/{name}")

    @property
    def work(self) -> "Path":
        """Folder for local working copies (memory-mapped shards, checkpoints)."""
        from seq_ml.settings import home

        folder = home() / "work"
        folder.mkdir(parents=True, exist_ok=True)
        return folder


def load_encoder(storage: Storage, version: str = "current") -> "Encoder | None":
    """Return the current encoder, or a given version.

    None when none was trained yet, where the current one has seen events from the training cut-off
    on (somebody went back in time, and none was trained for that), and where an earlier release
    trained it that this one cannot read.
    """
    from datetime import datetime

    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.encoder.training.checkpoints import is_readable
    from seq_ml.sequences import cutoffs
    from seq_ml.storage.artifacts import current, fetch_folder

    if version == "current":
        pointer = current(storage.objects, ENCODER_PREFIX)
        if pointer is None:
            return None
        cutoff = cutoffs.recorded(storage.tables).cutoff
        if datetime.fromisoformat(pointer["fitted_before"]) > cutoff:
            return None
        version = pointer["version"]
    if version not in storage.encoders:
        folder = fetch_folder(storage.objects, ENCODER_PREFIX, version, storage.work)
        if not is_readable(folder):
            return None
        storage.encoders.clear()
        storage.encoders[version] = Encoder.load(folder)
    return storage.encoders[version]


def task_data(storage: Storage, encoder_version: str | None = "current") -> "TaskData":
    """Return what tasks read; with the current encoder, a given version, or none."""
    encoder = load_encoder(storage, encoder_version) if encoder_version else None
    return storage.loaded.load(
        storage.tables,
        storage.business,
        storage.work,
        encoder=encoder,
        seed=storage.settings.seed,
    )
