"""Where everything lives: objects in a bucket, Delta tables on top, and an embedded server."""

from __future__ import annotations

from seq_ml.settings import Settings, home
from seq_ml.storage.objects import ObjectStore, StorageConfig, StorageError
from seq_ml.storage.server import EmbeddedServer

__all__ = ["EmbeddedServer", "ObjectStore", "StorageConfig", "StorageError", "connect"]

AWS_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL")


def uses_embedded(environment: dict[str, str]) -> bool:
    """Tell whether no variable points at a storage of the user's own."""
    return not any(environment.get(name) for name in AWS_VARIABLES)


def connect(settings: Settings, *, start: bool = False) -> ObjectStore:
    """Return the bucket of this deployment, proven to be reachable.

    The `AWS_*` variables decide; without them it is the embedded server, which `start` brings up
    when it does not run. Raises StorageError with one sentence when the bucket cannot be used.
    """
    import os

    if uses_embedded(dict(os.environ)):
        server = EmbeddedServer(home() / "server")
        store = ObjectStore(
            server.start(settings.bucket) if start else server.config(settings.bucket)
        )
    else:
        store = ObjectStore(StorageConfig.from_environment(settings.bucket))
    store.check()
    return store
