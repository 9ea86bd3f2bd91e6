"""Deployments that erasures are tried on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.storage.objects import ObjectStore

from tests.erasure.deployment import Deployment


@pytest.fixture
def shop(objects: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """A deployment whose days always pass their checks."""
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path))
    monkeypatch.setattr("seq_ml.clean.publish.validate_days", lambda *_, **__: [])
    return Deployment(objects, tmp_path)
