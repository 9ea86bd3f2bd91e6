"""Losses: a file that goes to one rule is told at once, in a sentence that mends it."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest
from typer import Exit

import seq_ml.clean.publish
from seq_assets.cli.app import _stop_at_losses
from seq_assets.cli.terminal import console, plain_errors
from seq_ml.business import Business
from seq_ml.clean.losses import Loss, losses, worst
from seq_ml.clean.publish import publish_days
from seq_ml.clean.quarantine import undeclared_behaviours
from seq_ml.clean.rules.catalogue import CATALOGUE, QUARANTINE
from seq_ml.ingest.mapping.bucket import load_business
from seq_ml.schema import EVENTS, QUARANTINED
from seq_ml.sequences import cutoffs
from tests.shop import MAPPING, SETTINGS, Shop, event
from tests.staged import clean, rows

OLD = [f"anna,buy,tea,1987-03-{day:02d} 10:00:00,1,4.5\n" for day in range(1, 26)]
START = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def shop(objects, monkeypatch) -> Shop:
    monkeypatch.setattr(seq_ml.clean.publish, "validate_days", lambda *_, **__: [])
    return Shop(objects)


def settle(shop: Shop, folder, settings=SETTINGS) -> None:
    """Ingest and publish until nothing waits, as the sensors do."""
    version = load_business(shop.objects).cleaning_version(settings.first_day)
    for turn in range(3):
        shop.ingest(settings)
        days = [
            date.fromisoformat(day) for day in shop.ledger.unclean_partitions("events", version)
        ]
        publish_days(shop.tables, settings, days, folder / f"{settings.first_day}-{turn}")


def test_a_file_of_impossible_years_stops_the_command_and_the_setting_mends_it(shop, tmp_path):
    shop.drop("events/old.csv", *OLD, event(1))
    shop.drop("events/new.csv", *(event(2, hour) for hour in range(20)))
    settle(shop, tmp_path)
    (lost,) = losses(shop.tables, since=START)
    assert (lost.place, lost.rows, lost.lost) == ("drops/shop/events/old.csv", 26, 25)
    with console.capture() as said, pytest.raises(Exit) as ended, plain_errors():
        _stop_at_losses(shop.objects, START)
    assert ended.value.exit_code == 1
    sentence = " ".join(said.get().split())
    for part in (
        "drops/shop/events/old.csv: 25 of 26 rows (96%) break the rule before_first_day",
        "such as event_time '1987-03-01T09:00:00",
        "set an earlier SEQLINE_FIRST_DAY",
        "Nothing was trained",
    ):
        assert part in sentence
    _stop_at_losses(shop.objects, datetime.now(UTC))  # the same command again goes on

    earlier = SETTINGS.model_copy(update={"first_day": date(1980, 1, 1)})
    settle(shop, tmp_path, earlier)
    assert shop.published().height == 46
    assert shop.tables.scan(QUARANTINED.name).collect().is_empty()
    assert set(shop.ledger.current()["status"]) == {"clean"}
    assert losses(shop.tables, since=START) == []


def test_rows_that_were_set_aside_are_not_called_missing(shop, tmp_path):
    with pytest.raises(ValueError, match="no clean events yet: land drops first"):
        cutoffs.choose(shop.tables, Business())
    shop.drop("events/few.csv", *OLD[:3], "anna,hum,tea,2024-06-01 10:00:00,1,4.5\n")
    settle(shop, tmp_path)
    with pytest.raises(ValueError, match=r"all 4 rows are in.*before_first_day.*SEQLINE"):
        cutoffs.choose(shop.tables, Business())


def test_a_loss_needs_rows_and_shows_no_personal_value():
    def loss(count: int, **change: object) -> Loss | None:
        quarantined = clean(rows(*[change] * count, *[{}] * 2)).quarantined
        return worst("a.csv", count + 2, quarantined.lazy())

    few, many = loss(17, quantity=-3.0), loss(18, quantity=-3.0)
    assert few is not None
    assert many is not None
    assert (few.is_nearly_all, many.is_nearly_all) == (False, True)
    assert "quantity '-3.0'" in str(many)
    secret = Loss("a.csv", 30, 30, "personal_data", "session_id", "anna@example.com")
    assert "anna" not in str(secret)
    erased = [{"errors": [{"rule": "erased", "column": "user_id", "value": None}]}] * 30
    meant = worst("a.csv", 30, clean(rows(*erased)).quarantined.lazy())
    assert meant is not None
    assert not meant.is_nearly_all  # somebody wanted it
    assert "break the rule erased." in str(meant)


def test_rows_of_a_behaviour_that_no_mapping_names_any_more_are_set_aside_and_counted(
    shop, tmp_path
):
    mapping = MAPPING.replace("view}", "view, hear: play}") + "\nbehaviours: {play: browse}"
    shop.objects.put("sources/shop.yaml", mapping.encode())
    shop.drop("events/a.csv", event(1), "anna,hear,tea,2024-06-02 10:00:00,1,\n")
    settle(shop, tmp_path / "with")
    kinds = shop.tables.scan(EVENTS.name).select("event_type")
    assert set(kinds.collect()["event_type"]) == {"purchase", "play"}
    assert undeclared_behaviours(shop.tables) == []
    shop.objects.put("sources/shop.yaml", MAPPING.replace("view}", "view, hear: play}").encode())
    settle(shop, tmp_path / "without")
    kinds = shop.tables.scan(EVENTS.name).select("event_type")
    assert set(kinds.collect()["event_type"]) == {"purchase"}
    assert undeclared_behaviours(shop.tables, [date(2024, 6, 2)]) == [("play", 1)]
    assert undeclared_behaviours(shop.tables, [date(2024, 6, 1)]) == []
    assert shop.ledger.without_mapping({"shop"}) == []
    assert shop.ledger.without_mapping({"web"}) == ["shop"]


STOPPING = {
    "type", "ragged", "not_json", "no_event", "too_long", "personal_data", "required", "allowed",
    "behaviour", "finite", "minimum", "maximum", "absurd", "currency", "no_time", "future",
    "before_first_day", "before_start",
}  # fmt: skip


@pytest.mark.parametrize("rule", [n.name for n in CATALOGUE if n.outcome == QUARANTINE])
def test_only_what_a_mapping_or_a_setting_mends_stops_the_command(rule):
    assert Loss("a.csv", 30, 29, rule, "event_time", "x").is_nearly_all == (rule in STOPPING)


def test_a_file_that_only_a_machine_filled_stops_nothing(shop, tmp_path):
    seconds = (f"bot,look,tea,2024-06-01 10:00:{n % 60:02d},1,\n" for n in range(200))
    shop.drop("events/bot.csv", *seconds)
    settle(shop, tmp_path)
    (rule,) = shop.tables.scan(QUARANTINED.name).collect()["rule"].unique()
    assert rule.startswith("bot_")
    assert losses(shop.tables, since=START) == []
    _stop_at_losses(shop.objects, START)


def test_calendars_own_days_are_no_time_in_any_zone():
    def rule(*moment: int) -> str | None:
        at = datetime(*moment, tzinfo=UTC)
        done = clean(rows({"event_time": at, "event_date": at.date()}))
        return done.quarantined["rule"].to_list()[0] if done.quarantined.height else None

    assert rule(1970, 1, 1) == rule(1969, 12, 31, 23) == rule(1900, 1, 1, 5) == "no_time"
    assert rule(1, 1, 1) == rule(9999, 12, 31, 23, 59, 59) == "no_time"
    assert rule(1970, 1, 2) == "before_first_day"
    assert rule(2016, 1, 1) is None
