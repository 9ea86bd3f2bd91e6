"""Recalibration: less confidence where there was too much, and halves that can be fitted."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from seq_ml.metrics.calibration import calibration_error
from seq_ml.tasks.models.binary import BoostedTrees, LogisticModel
from seq_ml.tasks.models.recalibrated import Recalibrated


def test_recalibration_takes_the_confidence_of_too_many_trees_away():
    """Fifty columns of noise and one of signal: trees that know their rows by heart."""
    rng = np.random.default_rng(3)
    n, features = 1600, [f"x{i}" for i in range(50)]
    x = rng.normal(size=(n, 50))
    label = (rng.random(n) < 1 / (1 + np.exp(2 - x[:, 0]))).astype(float)
    frame = pl.DataFrame(x, schema=features).with_columns(
        label=pl.Series(label), user_id=pl.format("u{}", pl.int_range(pl.len()))
    )
    model = Recalibrated(BoostedTrees("trees", features, rounds=400))
    model.fit(frame.head(800))
    unseen = frame.tail(800)
    truth = unseen["label"].to_numpy()
    assert model.platt.slope < 0.8
    assert calibration_error(truth, model.predict(unseen)) < 0.6 * calibration_error(
        truth, model.uncalibrated(unseen)
    )


def shoppers(churned: dict[str, int], users: int = 12, origins: int = 10) -> pl.DataFrame:
    """Rows of users at every origin: x follows the label, which is 1 at the user's first ones."""
    rows = [
        (f"u{user:02d}", float(origin < churned.get(f"u{user:02d}", 0)), float(user + origin))
        for origin in range(origins)
        for user in range(users)
    ]
    frame = pl.DataFrame(rows, schema=["user_id", "label", "x"], orient="row")
    return frame.with_columns(x=pl.col("x") + 20 * pl.col("label"))


def halves(model: Recalibrated, frame: pl.DataFrame) -> list[pl.DataFrame]:
    first = pl.Series(model._first_half(frame))
    return [frame.filter(first), frame.filter(~first)]


def test_three_churners_are_enough_to_recalibrate_wherever_they_stand():
    """By id alone every other user: u00, u02 and u04 would all be in the first half."""
    frame = shoppers({"u00": 4, "u02": 4, "u04": 4})
    model = Recalibrated(LogisticModel("logistic", ["x"]))
    both = halves(model, frame)
    assert sorted(half["label"].sum() for half in both) == [4, 8]
    assert {half["user_id"].n_unique() for half in both} == {6}
    model.fit(frame)
    again = Recalibrated(LogisticModel("logistic", ["x"]))
    again.fit(frame.sample(fraction=1.0, shuffle=True, seed=1))
    np.testing.assert_allclose(again.predict(frame), model.predict(frame), rtol=1e-6)


@settings(max_examples=40, deadline=None)
@given(
    st.dictionaries(st.sampled_from([f"u{n:02d}" for n in range(12)]), st.integers(1, 4)),
    st.dictionaries(st.sampled_from([f"u{n:02d}" for n in range(12)]), st.integers(1, 4)),
)
def test_more_examples_never_leave_a_half_with_fewer_churners(churned, more):
    """What could be fitted before the validation window can be fitted before the test window."""
    later = {user: churned.get(user, 0) + more.get(user, 0) for user in churned | more}
    model = Recalibrated(LogisticModel("logistic", ["x"]))
    before, after = (
        sorted(half["label"].sum() for half in halves(model, shoppers(of, origins=20)))
        for of in (churned, later)
    )
    assert all(less <= now for less, now in zip(before, after, strict=True))
