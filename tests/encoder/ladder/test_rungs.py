"""Which rungs a ladder lacks, who serves, and what the bucket keeps of it."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest

from seq_ml.business import Business
from seq_ml.encoder.ladder.rungs import (
    LEAST_HISTORY,
    STEP_DAYS,
    Rung,
    ladder_markdown,
    missing_cuts,
    read_ladder,
    record_rung,
    serving_at,
)
from seq_ml.metrics.stability import stability_index
from seq_ml.storage.artifacts import forbid
from seq_ml.storage.layout import ENCODER_PREFIX, LADDER_KEY

SHOP = Business(timezone="America/New_York")
AS_OF = SHOP.midnight(datetime(2018, 1, 1, tzinfo=UTC).date())


def back(days: int) -> datetime:
    return SHOP.midnight_after(AS_OF, -days)


def missing(rungs=(), *, as_of=AS_OF, history: int = 365, number: int = 9, test_days: int = 91):
    return missing_cuts(
        rungs,
        SHOP,
        as_of=as_of,
        cutoff=SHOP.midnight_after(as_of, -test_days),
        first=SHOP.midnight_after(as_of, -history),
        number=number,
    )


def ladder(cuts) -> tuple[Rung, ...]:
    return tuple(Rung(cut, f"v{n}", fixed) for n, (cut, fixed) in enumerate(cuts))


def test_a_first_climb_goes_from_the_lowest_rung_to_as_of():
    cuts = missing()
    assert cuts == [(back(STEP_DAYS * k), True) for k in range(8, -1, -1)]
    assert missing(ladder(cuts)) == [], "rungs stay as they are"


def test_where_the_history_is_short_there_are_fewer_rungs_and_one_before_the_test_windows():
    cuts = missing(history=LEAST_HISTORY.days + 130)
    assert [cut for cut, _ in cuts] == [back(112), back(84), back(56), back(28), AS_OF]
    young = missing(history=60, test_days=30)
    assert young == [(back(30), True), (back(2), True), (AS_OF, False)]
    assert missing(number=1) == missing(history=100)
    for rungs in range(len(young)):  # cut off after so many, and run again
        assert missing(ladder(young[:rungs]), history=60, test_days=30) == young[rungs:]


def test_the_newest_goes_on_each_night_until_it_is_a_rung():
    rungs = ladder(missing())
    for night in range(1, STEP_DAYS + 1):
        tonight = SHOP.midnight_after(AS_OF, night)
        assert missing(rungs, as_of=tonight) == [(tonight, night == STEP_DAYS)]
    late = SHOP.midnight_after(AS_OF, 2 * STEP_DAYS + 3)
    after = [SHOP.midnight_after(AS_OF, days) for days in (STEP_DAYS, 2 * STEP_DAYS)]
    assert missing(rungs, as_of=late) == [*((cut, True) for cut in after), (late, False)]
    again = (*rungs, Rung(SHOP.midnight_after(AS_OF, 1), "tonight", fixed=False))
    assert missing(again, as_of=again[-1].cut) == [(again[-1].cut, False)], "events may be new"


@pytest.mark.parametrize("climbed", range(9))
def test_a_climb_that_was_cut_off_goes_on_where_it_was(climbed):
    cuts = missing()
    assert missing(ladder(cuts[:climbed])) == cuts[climbed:]


def test_somebody_who_goes_back_in_time_reads_the_rungs_that_were_there():
    rungs = ladder(missing())
    earlier = back(40)
    assert missing(rungs, as_of=earlier) == [(earlier, False)]
    assert serving_at(rungs, earlier).cut == back(56)


def test_at_an_origin_the_newest_rung_serves_or_the_one_below_where_it_is_not_stable():
    low, shaky, high = (
        Rung(back(56), "low"),
        Rung(back(28), "shaky", psi={"p_silence": 0.02, "orders_84d": 0.1}),
        Rung(AS_OF, "high", psi={"p_silence": 0.1}),
    )
    rungs = (low, shaky, high)
    calm = Rung(AS_OF, "calm", psi={"p_silence": 0.09})
    assert serving_at((low, shaky, calm), AS_OF) == calm
    assert serving_at(rungs, back(57)) is None
    for origin, serves in ((back(56), low), (back(28), low), (back(1), low), (AS_OF, shaky)):
        assert serving_at(rungs, origin) == serves
    text = ladder_markdown(rungs)
    assert text.index("| high |") < text.index("| low |")
    assert "orders_84d 0.100 | no, the one below does" in text


def test_the_bucket_keeps_the_ladder_and_the_newest_gives_way(objects):
    assert read_ladder(objects) == ()
    low, tonight = Rung(back(28), "low"), Rung(back(1), "tonight", fixed=False)
    record_rung(objects, low)
    assert record_rung(objects, tonight) == (low, tonight)
    newest = Rung(AS_OF, "newest", psi={"p_silence": 0.25})
    assert record_rung(objects, newest) == read_ladder(objects) == (low, newest)
    forbid(objects, ENCODER_PREFIX, "newest")
    assert read_ladder(objects) == (low,), "an erased person was in its data"
    objects.put(LADDER_KEY, objects.get(LADDER_KEY).replace(b'"format": ', b'"format": 9'))
    assert read_ladder(objects) == (), "other code trained them"


def test_the_stability_index_sees_another_population_and_not_noise():
    rng = np.random.default_rng(1)
    before = rng.beta(2, 5, size=2000)
    noisy = np.clip(before + rng.normal(0, 0.01, size=2000), 0, 1)
    assert stability_index(before, before) == 0
    assert stability_index(before, noisy) < 0.02
    assert stability_index(before, np.clip(1.3 * before, 0, 1)) > 0.1
    assert stability_index(np.zeros(50), np.zeros(50)) == 0
