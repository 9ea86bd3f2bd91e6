"""What a storage says when it cannot be used, and who may read a file."""

from __future__ import annotations

import stat

import pytest

from seq_ml.storage.objects import ObjectStore, StorageError


def refusal(store: ObjectStore) -> str:
    """The one sentence with which a storage is refused, and only by it."""
    with pytest.raises(StorageError) as caught:
        store.check()
    message = str(caught.value)
    assert "\n" not in message
    assert store.config.secret_key not in message
    return message


def mode(path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
