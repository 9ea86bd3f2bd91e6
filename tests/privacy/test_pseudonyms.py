"""Pseudonyms: keyed, the same every time, and each pair written down once."""

from __future__ import annotations

import hmac

import polars as pl

from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.storage.tables import TableStore
from tests.shop import SETTINGS


def met(pseudonyms: Pseudonyms, *users: str | None) -> list[str | None]:
    frame = pl.DataFrame(
        {"user_id": users, "n": range(len(users))}, schema_overrides={"user_id": pl.String}
    )
    hidden = pseudonyms.apply(frame)
    assert hidden["n"].to_list() == list(range(len(users)))
    return hidden["user_id"].to_list()


def test_a_pseudonym_is_an_hmac_with_a_key_for_its_purpose(objects):
    pseudonyms = Pseudonyms(objects, SETTINGS)
    key = bytes.fromhex(SETTINGS.pseudonym_key.get_secret_value())
    user_key = hmac.new(key, b"user", "sha256").hexdigest().encode()
    expected = [
        None if user is None else hmac.new(user_key, user.encode(), "sha256").hexdigest()[:32]
        for user in ("anna", None, "Zoë", "anna", "")
    ]
    assert met(pseudonyms, "anna", None, "Zoë", "anna", "") == expected
    assert pseudonyms.event_secret not in ("", user_key.decode())


def test_each_pair_is_written_once_and_not_before_it_is_asked_for(objects):
    pseudonyms = Pseudonyms(objects, SETTINGS)
    identities = TableStore(objects, prefix="identities")
    met(pseudonyms, "anna", "bob", "anna")
    assert not identities.exists("user_ids")
    met(pseudonyms, "bob", "carl", None)
    pseudonyms.remember()
    assert identities.version("user_ids") == 0
    met(pseudonyms, "anna", "carl")
    pseudonyms.remember()  # nobody new: no commit
    assert identities.version("user_ids") == 0
    other = Pseudonyms(objects, SETTINGS)  # another process
    met(other, "anna", "dora")
    other.remember()
    rows = identities.scan("user_ids").collect()
    assert sorted(rows["source_user_id"]) == ["anna", "bob", "carl", "dora"]
    assert rows["user_id"].is_unique().all()
    assert sorted(other.source_ids().rows()) == sorted(rows.rows())


def test_two_writers_that_met_the_same_user_do_not_double_the_way_back(objects):
    first, second = Pseudonyms(objects, SETTINGS), Pseudonyms(objects, SETTINGS)
    for one in (first, second):
        one.remember()
        met(one, "anna")
    first.remember()
    second._known = pl.DataFrame(schema={"number": pl.UInt128})  # it looked before the first wrote
    second.remember()
    assert first.source_ids()["source_user_id"].to_list() == ["anna"]
