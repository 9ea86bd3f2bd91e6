"""The catalogue of rules: each described once, as the documents say."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime

from seq_ml.business import RULES_VERSION, Business, Cleaning
from seq_ml.clean.rules.catalogue import CATALOGUE, rules_markdown
from seq_ml.clean.rules.row_rules import first_failing, prepared, row_rules
from seq_ml.schema import EVENTS
from tests import ROOT
from tests.staged import FIRST_DAY, rows


def test_every_rule_of_the_contract_is_there():
    rules = row_rules(Business(cleaning=Cleaning(lateness_days=3)), first_day=FIRST_DAY)
    named = {(rule.name, rule.column) for rule in rules}
    assert len(named) == len(rules)
    for column in EVENTS.columns:
        assert (("required", column.name) in named) == (not column.nullable)
        assert (("allowed", column.name) in named) == (column.allowed is not None)
        assert (("minimum", column.name) in named) == (column.minimum is not None)
        assert (("maximum", column.name) in named) == (column.maximum is not None)
    frame, _ = prepared(rows({"landed_at": datetime(2017, 3, 5, tzinfo=UTC)}), Business())
    assert frame.select(first_failing(rules)).to_series().to_list() == [None]


def test_every_rule_is_described_once_and_in_the_reference():
    names = [named.name for named in CATALOGUE]
    assert len(set(names)) == len(names)
    rules = row_rules(Business(cleaning=Cleaning(lateness_days=3)), first_day=FIRST_DAY)
    for rule in {rule.name for rule in rules}:
        assert f"| `{rule}` |" in rules_markdown()
    for named in CATALOGUE:
        assert named.meaning.endswith(".")
        assert named.advice.endswith(".")
    fields = {p for named in CATALOGUE for p in named.parameter.split(", ") if p}
    assert fields - {"SEQLINE_FIRST_DAY"} == set(Cleaning.model_fields)


def test_the_documented_rules_are_the_ones_that_run():
    text = (ROOT / "docs" / "cleaning.md").read_text()
    assert rules_markdown() in text


def test_another_parameter_or_rule_is_another_version(monkeypatch):
    version = Business().cleaning_version()
    # As before there were roles: nobody's days are cleaned again who names no behaviour.
    content = f"{RULES_VERSION}:{Cleaning().model_dump_json()}"
    assert version == hashlib.blake2b(content.encode(), digest_size=6).hexdigest()
    assert Business(cleaning=Cleaning(max_quantity=5)).cleaning_version() != version
    assert Business(currency="eur").currency == "EUR"
    assert Business(currency="EUR").cleaning_version() != version
    monkeypatch.setattr("seq_ml.business.RULES_VERSION", "next")
    assert Business().cleaning_version() != version


def test_only_what_cleaning_asks_of_the_behaviours_is_another_version():
    plain = Business().cleaning_version()
    assert Business(conversion="purchase").cleaning_version() == plain
    browse = Business(behaviours={"play": "browse"}).cleaning_version()
    assert browse != plain
    assert Business(behaviours={"play": "search"}).cleaning_version() == browse
    assert Business(behaviours={"play": "other"}).cleaning_version() not in {plain, browse}
    assert Business(conversion="rate").cleaning_version() != plain  # its quantity is filled
