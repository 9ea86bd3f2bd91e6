"""What is not known of somebody is not what is usual."""

from __future__ import annotations

import numpy as np
import polars as pl

from seq_ml.tasks.models.binary import LogisticModel


def examples(gaps: list[float | None], labels: list[int]) -> pl.DataFrame:
    return pl.DataFrame(
        {"gap": gaps, "noise": [float(n % 3) for n in range(len(gaps))], "label": labels},
        schema={"gap": pl.Float64, "noise": pl.Float64, "label": pl.Int8},
    )


def test_a_missing_value_is_learnt_and_not_taken_for_the_mean():
    """Who has no gap leaves, who has one stays, however long it is."""
    rng = np.random.default_rng(1)
    known = rng.uniform(1, 30, 200).tolist()
    label = (rng.random(200) < 0.1).astype(int).tolist()
    rows = examples([*known, *[None] * 60], [*label, *[1] * 50, *[0] * 10])
    model = LogisticModel("line", ["gap", "noise"])
    model.fit(rows)
    unknown, usual = model.predict(examples([None, 12.0], [0, 0]))
    assert unknown > 0.7
    assert usual < 0.2
    effects = model.contributions(rows)
    logits = sum(effects.values()) + model.intercept
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), model.predict(rows))
    again = LogisticModel("line", [])
    again.restore(model.state())
    assert (again.predict(rows) == model.predict(rows)).all()


def test_where_nothing_is_missing_nothing_is_added():
    rows = examples([float(n) for n in range(40)], [n % 2 for n in range(40)])
    model = LogisticModel("line", ["gap", "noise"])
    model.fit(rows)
    assert not model.lacking.any()
