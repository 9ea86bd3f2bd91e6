"""Tombstones: who was erased stays out, and nobody else."""

from __future__ import annotations

import pytest

from seq_ml.privacy.tombstones import EVERYBODY, Tombstones
from seq_ml.schema.stages import ERASED
from seq_ml.storage.tables import TableStore
from tests.shop import SETTINGS
from tests.staged import rows

EVENTS = rows({"user_id": "anna"}, {"user_id": "ben"})


def left(tombstones: Tombstones, source: str, identity: str) -> set[str | None]:
    """Whose rows are not blanked."""
    return set(tombstones.blank(EVENTS, source, identity)["user_id"]) - {None}


@pytest.mark.parametrize(
    ("scope", "source", "identity", "stays_out"),
    [
        (("identity", "crm"), "web", "crm", True),
        (("identity", "crm"), "crm", "till", False),
        (("source", "crm"), "crm", "till", True),
        (("source", "crm"), "web", "crm", False),
        (EVERYBODY, "new", "newer", True),
    ],
)
def test_an_identity_and_a_source_of_one_name_are_two(objects, scope, source, identity, stays_out):
    tombstones = Tombstones(objects, SETTINGS)
    assert left(tombstones, source, identity) == {"anna", "ben"}
    tombstones.add("anna", scope, "receipts/1.json")
    for reader in (tombstones, Tombstones(objects, SETTINGS)):
        assert left(reader, source, identity) == ({"ben"} if stays_out else {"anna", "ben"})
    assert tombstones.receipts("anna", scope) == ["receipts/1.json"]
    other = ("source" if scope[0] == "identity" else "identity", scope[1])
    assert tombstones.receipts("anna", other) == []


def test_tombstones_from_before_hold_for_identity_and_source(objects):
    store, old = TableStore(objects, prefix="identities"), Tombstones(objects, SETTINGS)
    old.add("anna", ("identity", "crm"), "receipts/1.json")
    store.overwrite("erased_now", store.scan(ERASED.name).drop("scope").collect())
    objects.delete_prefix("identities/erased/")
    store.append(ERASED.name, store.scan("erased_now").collect())
    tombstones = Tombstones(objects, SETTINGS)
    assert left(tombstones, "web", "crm") == left(tombstones, "crm", "till") == {"ben"}
    assert left(tombstones, "web", "till") == {"anna", "ben"}
    assert tombstones.receipts("anna", ("identity", "crm")) == ["receipts/1.json"]
    tombstones.add("ben", ("identity", "crm"), "receipts/2.json")
    assert left(tombstones, "crm", "till") == {"ben"}
