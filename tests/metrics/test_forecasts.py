"""Forecast metrics against scikit-learn, or by hand."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as reference
from hypothesis import given
from hypothesis import strategies as st

from seq_ml.metrics.forecasts import pinball
from tests.metrics.drawn import few


@few
@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=40))
def test_pinball_is_that_of_sklearn(rows):
    actual, forecast = np.array(rows, dtype=float).T
    for level in (0.1, 0.5, 0.9):
        theirs = reference.mean_pinball_loss(actual, forecast, alpha=level)
        assert pinball(actual, forecast, level).mean() == pytest.approx(theirs)


def test_forecast_metrics_by_hand():
    actual, forecast = np.array([2.0, 0.0, 4.0]), np.array([1.0, 1.0, 4.0])
    assert pinball(actual, forecast, 0.9).tolist() == pytest.approx([0.9, 0.1, 0.0])
