"""What a champion says of itself: what it rests on, and whether its probabilities held."""

from __future__ import annotations

from seq_ml.metrics.bootstrap import Estimate
from seq_ml.tasks.candidate import A_SCORE, Champion
from seq_ml.tasks.models.rates import ShrunkenRate


def champion(error: Estimate | None) -> Champion:
    """One whose backtest found this calibration error."""
    test = {} if error is None else {"ece": error.as_json()}
    return Champion(
        ShrunkenRate("base_rate", None, ""),
        "v",
        {"candidates": [{"name": "base_rate", "test": test}]},
    )


def test_probabilities_that_were_off_beyond_chance_are_called_a_score():
    off = champion(Estimate(0.05, 0.02, 0.07))
    assert off.rests_on(56, 200).endswith(f"{A_SCORE} (calibration error 0.050 [0.020, 0.070])")
    undefined = Estimate(float("nan"), float("nan"), float("nan"))
    for held in (None, undefined, Estimate(0.01, 0.0, 0.03)):
        assert champion(held).off is None
        assert champion(held).rests_on(56, 200) == "200 days of history, 56 days ahead, base_rate"
