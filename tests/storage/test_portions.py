"""Portions: whatever may be large is worked through in runs of bounded size."""

from datetime import date, timedelta

from seq_ml.storage.portions import portions


def test_days_are_grouped_in_order_and_a_larger_one_stands_alone():
    days = [date(2017, 3, 4) + timedelta(days=n) for n in range(5)]
    sizes = dict(zip(days, [4, 4, 30, 4, 0], strict=True))
    runs = list(portions(days, sizes.__getitem__, 10))
    assert runs == [days[:2], [days[2]], days[3:]]
    assert list(portions([], sizes.__getitem__, 10)) == []
