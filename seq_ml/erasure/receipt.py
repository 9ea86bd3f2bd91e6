"""What an erasure found of a person, and its receipt: what it did about that."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seq_ml.erasure.drops import Found
    from seq_ml.storage.objects import ObjectInfo


@dataclass
class Survey:
    """What there is of a person: records by drop, rows by table, and the models that saw them."""

    drops: list[tuple[ObjectInfo, Found]]
    tables: dict[str, int]
    models: list[str]
    known: bool
    """Whether the id was ever seen here, in the data or as erased before."""


@dataclass
class Receipt:
    """What an erasure did; it names neither the id nor the pseudonym."""

    key: str
    started_at: str
    identity: str
    status: str = "started"
    finished_at: str | None = None
    removed: dict[str, int] = field(default_factory=dict)
    """Rows, records, files or pages removed, by where they were."""
    models: list[str] = field(default_factory=list)
    """Encoders and task models that were trained on data with the person in it."""
    history: dict[str, int] = field(default_factory=dict)
    """Objects of older versions removed, by table."""
    searched_for: list[str] = field(default_factory=list)
    found: dict[str, int] = field(default_factory=dict)
    """Where the final search still found something: times, by place. Empty is the aim."""
    remarks: list[str] = field(default_factory=list)

    def to_bytes(self) -> bytes:
        """Serialise as JSON."""
        return (json.dumps(asdict(self), indent=1) + "\n").encode()
