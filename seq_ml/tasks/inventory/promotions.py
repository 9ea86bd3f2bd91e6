"""Promotions of a panel: shares of stores by week, and what they did to demand before.

The plan of the target weeks is known in advance only where it is fixed by then: its features are
kept apart (`seq_ml.tasks.inventory.features.PLAN_FEATURES`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.tasks.inventory.panel import Panel

    Array = NDArray[np.float64]

SIMILAR = 0.05
"""Squared distance of (display, mailer) at which a past week counts 1/e for a target week."""
KEPT = 0.97
"""Share of its weight that a past week keeps with every week that passes."""


def promotion_features(
    panel: Panel, week: int, horizon: int, memory: int, *, gap: int = 0
) -> dict[str, Array]:
    """Past promotions, the level with and without, and the plan of the target weeks.

    memory: weeks before `week` that are looked at; gap: weeks between origin and target. What ends
    in `_level` is in units a week.
    """
    before, target = slice(week - memory, week), slice(week + gap, week + gap + horizon)
    past = panel.units[:, before].astype(np.float64)
    columns: dict[str, Array] = {}
    for name, share in (("display", panel.display), ("mailer", panel.mailer)):
        then, plan = share[:, before].astype(np.float64), share[:, target].astype(np.float64)
        columns[f"{name}_lag_1"], columns[f"{name}_lag_2"] = then[:, -1], then[:, -2]
        columns[f"{name}_13"] = then[:, -13:].mean(axis=1)
        columns[f"{name}_plan"] = plan.mean(axis=1)
        columns[f"{name}_plan_1"] = plan[:, 0]
        columns[f"{name}_plan_change"] = columns[f"{name}_plan"] - columns[f"{name}_13"]
    # Level with and without promotion: means weighted by the share, shrunk to the overall mean.
    strength = np.maximum(panel.display, panel.mailer).astype(np.float64)
    promoted, plan = strength[:, before], strength[:, target]
    overall = past.mean(axis=1)
    with_it = ((past * promoted).sum(axis=1) + overall) / (promoted.sum(axis=1) + 1)
    without = ((past * (1 - promoted)).sum(axis=1) + overall) / ((1 - promoted).sum(axis=1) + 1)
    share = plan.mean(axis=1)
    columns["promoted_level"], columns["unpromoted_level"] = with_it, without
    columns["plan_level"] = share * with_it + (1 - share) * without
    return columns | _similar_weeks(panel, before, target, past)


def _similar_weeks(panel: Panel, before: slice, target: slice, past: Array) -> dict[str, Array]:
    """Kernel mean (Nadaraya 1964) of past demand over weeks promoted as the target weeks will be.

    Of the series itself, and of its group and category: their demand in such weeks over their usual
    demand, times the usual demand of the series.
    """
    share = np.stack([panel.display, panel.mailer], axis=2)
    # Most items are never promoted: to them all weeks are alike.
    ever = (share[:, before].any(axis=(1, 2))) | (share[:, target].any(axis=(1, 2)))
    then, plans = share[ever, before], share[ever, target]
    kept = KEPT ** np.arange(past.shape[1])[::-1]
    usual = past.mean(axis=1)
    names = ("similar_weeks", "similar_level", "group_similar_level", "category_similar_level")
    columns = {name: np.zeros(len(past)) for name in names}
    horizon = plans.shape[1]
    for step in range(horizon):
        distance = ((then - plans[:, step : step + 1]) ** 2).sum(axis=2)
        weight = np.tile(kept, (len(past), 1))
        weight[ever] *= np.exp(-distance / SIMILAR)
        near, demand = weight.sum(axis=1), (past * weight).sum(axis=1)
        columns["similar_weeks"] += near / horizon
        columns["similar_level"] += (demand + 0.5 * usual) / (near + 0.5) / horizon
        for name, codes in (("group", panel.group), ("category", panel.category)):
            number = codes + 1  # 0: unknown
            lift = (np.bincount(number, weights=demand) + 5) / (
                np.bincount(number, weights=usual * near) + 5
            )
            columns[f"{name}_similar_level"] += lift[number] * usual / horizon
    return columns
