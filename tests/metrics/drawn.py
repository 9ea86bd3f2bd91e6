"""Drawn labels, scores and lists."""

from __future__ import annotations

import numpy as np
import polars as pl
from hypothesis import settings
from hypothesis import strategies as st

few = settings(max_examples=40, deadline=None)


@st.composite
def lists(draw: st.DrawFn) -> tuple[pl.DataFrame, np.ndarray]:
    """Rows of some users with distinct scores each; users without anything relevant among them."""
    frames, scores = [], []
    for user in range(draw(st.integers(1, 5))):
        label = draw(st.lists(st.integers(0, 1), min_size=1, max_size=9))
        order = draw(st.permutations(range(len(label))))
        frames.append(pl.DataFrame({"user_id": [f"u{user}"] * len(label), "label": label}))
        scores += [1 / (1 + place) for place in order]
    return pl.concat(frames), np.array(scores)
