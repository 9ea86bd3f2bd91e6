"""What a champion says of itself: what it rests on, and whether its probabilities held."""

from __future__ import annotations

from seq_ml.metrics.estimate import Estimate
from seq_ml.tasks.candidate import A_SCORE, Champion
from seq_ml.tasks.models.rates import ShrunkenRate


def champion(
    error: Estimate | None, level: Estimate | None = None, slope: Estimate | None = None
) -> Champion:
    """One whose backtest found this calibration error, this intercept and this slope."""
    found = {"ece": error, "calibration_intercept": level, "calibration_slope": slope}
    test = {name: of.as_json() for name, of in found.items() if of is not None}
    return Champion(
        ShrunkenRate("base_rate", None, ""),
        "v",
        {"candidates": [{"name": "base_rate", "test": test}]},
    )


def test_probabilities_that_were_off_beyond_chance_are_called_a_score():
    off = champion(Estimate(0.05, 0.02, 0.07))
    assert off.rests_on(56, 200).endswith(f"{A_SCORE} (calibration error 0.050 [0.020, 0.070])")
    high = champion(Estimate(0.02, 0.0, 0.04), Estimate(-0.19, -0.31, -0.07))
    assert high.off == "log-odds off by -0.19 [-0.31, -0.07] on average"
    wide = champion(Estimate(0.02, 0.0, 0.04), None, Estimate(0.83, 0.71, 0.96))
    assert wide.off == "log-odds too far apart: their slope is 0.83 [0.71, 0.96]"
    undefined = Estimate(float("nan"), float("nan"), float("nan"))
    for held in (None, undefined, Estimate(0.01, 0.0, 0.03)):
        assert champion(held, Estimate(-0.1, -0.3, 0.1), Estimate(0.9, 0.8, 1.1)).off == ""
        assert champion(held).rests_on(56, 200) == "200 days of history, 56 days ahead, base_rate"
