"""Uplift: what a contact changes, learnt from contacts that were made and left out by chance.

A response alone says nothing about the contact: some would have bought anyway. The control group
are those whom no decision ever contacted, drawn with known probabilities: who is in which group,
and what each weighs, is told in `seq_ml.tasks.ads.log`.

Two logistic models, one of each arm (the T-learner: Künzel et al. 2019), judged on later campaigns
than they were fitted on: the average effect (doubly robust), and the area between the Qini curve
and a random order (Radcliffe 2007), both with 95 % bootstrap intervals over users. Only where that
area is above zero beyond chance does the uplift take the place of the response.
Without a control group there is no number, but the reason why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from seq_ml.metrics.bootstrap import DECIDING, resample
from seq_ml.metrics.estimate import Draws
from seq_ml.tasks.ads.features import FEATURES, sample
from seq_ml.tasks.ads.log import NoLogError, decided_pairs
from seq_ml.tasks.models.binary import LogisticModel

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.metrics.estimate import Estimate
    from seq_ml.tasks.ads.features import AdHistory
    from seq_ml.tasks.data import TaskData

    Array = NDArray[np.float64]

SMALLEST_ARM = 100
"""Decisions of each arm (contacted, held out) below which no effect is estimated."""
SMALLEST_RESPONSES = 10
"""Responses of an arm below which it is described by its rate, not by a model."""
TOP_SHARE = 0.3
"""Share of the decisions, highest uplift first, whose effect is reported beside that of all."""
PENALTY = 30.0


class UpliftModel:
    """Response probabilities of both arms [n, 2]: contacted, and left alone.

    Each arm stands for everybody: a decision weighs 1 / P(its action), and 1 / P(left alone in all
    snapshots) where nobody was contacted. Of few responses both arms are described by their rates:
    one arm's rate beside the other's model would compare different people.
    """

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.models: list[LogisticModel | None] = []

    def fit(self, decided: pl.DataFrame) -> None:
        """Learn both arms. decided: contacted, alone, propensity, p_alone, label, FEATURES.

        Raises NoLogError where an arm is too small.
        """
        _check_arms(decided)
        arms = [
            decided.filter("contacted").with_columns(weight=1 / pl.col("propensity")),
            decided.filter("alone").with_columns(weight=1 / pl.col("p_alone")),
        ]
        responses = [float(arm["label"].sum()) for arm in arms]
        enough = all(
            SMALLEST_RESPONSES <= count <= arm.height - SMALLEST_RESPONSES
            for arm, count in zip(arms, responses, strict=True)
        )
        self.rates, self.models = [], []
        for arm in arms:
            weight = (arm["weight"] / arm["weight"].mean()).to_numpy()
            rate = float(np.average(arm["label"], weights=weight))
            # Jeffreys' prior keeps a rate off 0: no response among n is not "never".
            self.rates.append((rate * arm.height + 0.5) / (arm.height + 1))
            model = LogisticModel("arm", FEATURES, penalty=PENALTY) if enough else None
            if model is not None:
                model.fit(arm, weight)
            self.models.append(model)

    def predict(self, examples: pl.DataFrame) -> Array:
        """Return P(response) when contacted and when not [n, 2]; their difference is the uplift."""
        return np.column_stack(
            [
                np.full(examples.height, rate) if model is None else model.predict(examples)
                for rate, model in zip(self.rates, self.models, strict=True)
            ]
        )


def with_uplift(
    examples: pl.DataFrame, data: TaskData, history: AdHistory, as_of: datetime
) -> pl.DataFrame:
    """Add p_control and uplift (f64), learnt from campaigns that were over by `as_of`.

    Both are null where no hold-out was made by chance, and where its order was not better than
    chance on later campaigns than it was learnt from. Of many users a sample is learnt from.
    """

    def learnt(some: TaskData) -> UpliftModel | None:
        model = UpliftModel()
        try:
            decided = decided_pairs(some, history.everybody, as_of)
            if not judge_uplift(decided, seed=some.seed).holds:
                return None
            model.fit(decided)
        except NoLogError:
            return None
        return model

    model: UpliftModel | None = sample(data).keep(("uplift", as_of), learnt)
    if model is None:
        unknown = pl.lit(None, dtype=pl.Float64)
        return examples.with_columns(p_control=unknown, uplift=unknown)
    both = model.predict(examples)
    return examples.with_columns(
        p_control=pl.Series(both[:, 1]), uplift=pl.Series(both[:, 0] - both[:, 1])
    )


@dataclass(frozen=True)
class UpliftFindings:
    """How uplift held on later decisions than it was learnt from.

    controls: decisions whose pair was never contacted; later: those that were contacted later.
    effect, effect_top: P(response | contacted) − P(response | not) of all, and of the TOP_SHARE
    with the highest uplift. predicted: mean uplift of the model. qini: additional responses per
    decision, area between the curve and a random order. curve: (share contacted, additional
    responses per decision).
    """

    decisions: int
    controls: int
    later: int
    predicted: float
    effect: Estimate
    effect_top: Estimate
    qini: Estimate
    curve: tuple[tuple[float, float], ...]

    @property
    def holds(self) -> bool:
        """Whether the order by uplift finds those whom a contact changes, beyond chance."""
        return self.qini.low > 0


def judge_uplift(decided: pl.DataFrame, *, seed: int) -> UpliftFindings:
    """Fit on the earlier campaigns, judge on the later ones that began after those were over.

    decided: what `decided_pairs` returned. Raises NoLogError.
    """
    earlier, later = _split(decided)
    model = UpliftModel()
    model.fit(earlier)
    _check_arms(later)
    both = model.predict(later)
    uplift = both[:, 0] - both[:, 1]
    order = np.argsort(-uplift, kind="stable")
    ranked = later[order]
    effects = pair_effects(ranked, both[order])
    # Resampled by user: the decisions about one person are not independent of each other.
    users, codes = np.unique(ranked["user_id"].to_numpy(), return_inverse=True)
    once = _summary(effects, np.ones((1, len(effects))))[0]
    drawn = [_summary(effects, n[:, codes]) for n in resample(len(users), seed, DECIDING)]
    effect, effect_top, qini = (
        Draws(float(value), column).estimate()
        for value, column in zip(once, np.concatenate(drawn).T, strict=True)
    )
    gained = np.append(0.0, np.cumsum(effects)) / len(effects)
    points = np.unique(np.linspace(0, len(effects), 21).astype(int))
    return UpliftFindings(
        decisions=later.height,
        controls=int(later["alone"].sum()),
        later=int((~later["contacted"] & ~later["alone"]).sum()),
        predicted=float(uplift.mean()),
        effect=effect,
        effect_top=effect_top,
        qini=qini,
        curve=tuple((float(n / len(effects)), float(gained[n])) for n in points),
    )


def pair_effects(decided: pl.DataFrame, both: Array) -> Array:
    """Return a score of each decision [n] whose mean is the effect of a contact.

    decided: contacted, propensity, alone, p_alone, label. both: a model's P(response) when
    contacted and when not [n, 2], fitted on other decisions. The score is the model's difference
    plus its errors, weighted by 1 / P(action), no error where the pair was contacted later:
    unbiased whatever the model says, and the steadier the better it is (Robins et al. 1994;
    Kennedy 2020).
    """
    contacted, chance, alone, p_alone, label = (
        decided[name].cast(pl.Float64).to_numpy()
        for name in ("contacted", "propensity", "alone", "p_alone", "label")
    )
    error = contacted / chance * (label - both[:, 0])
    error -= alone / np.where(alone > 0, p_alone, 1.0) * (label - both[:, 1])
    return np.asarray(both[:, 0] - both[:, 1] + error)


def _summary(effects: Array, counts: Array) -> Array:
    """Effect of all, of the top share, area between the curve and the straight line [draws, 3].

    effects: best first [n]; counts: how often each of them was drawn [draws, n].
    """
    rows, weighted = counts.sum(axis=1, keepdims=True), counts * effects
    share, gained = np.cumsum(counts, axis=1) / rows, np.cumsum(weighted, axis=1) / rows
    top = counts * (share <= max(TOP_SHARE, float((1 / rows).max())) + 1e-9)
    area = (counts * (gained - share * gained[:, -1:])).sum(axis=1) / rows[:, 0]
    of_top = (top * effects).sum(axis=1) / np.maximum(top.sum(axis=1), 1.0)
    return np.column_stack([gained[:, -1], of_top, area])


def _split(decided: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Later = the newest campaigns that hold a third of the decisions; earlier = over before."""
    for start in decided["origin"].unique().sort(descending=True):
        later = decided.filter(pl.col("origin") >= start)
        if later.height >= decided.height / 3:
            earlier = decided.filter(pl.col("end_at") <= start)
            if earlier.height:
                return earlier, later
    raise NoLogError(
        "All campaigns with logged decisions overlap: uplift can only be judged on one that began "
        "after another was over."
    )


def _check_arms(decided: pl.DataFrame) -> None:
    for arm, name in (("contacted", "contacted"), ("alone", "held out to the end")):
        users = int(decided[arm].sum())
        if users < SMALLEST_ARM:
            raise NoLogError(
                f"Only {users} users were {name} by chance, {SMALLEST_ARM} are needed to say what "
                "a contact changes; raise ads.explore_share or wait for more campaigns."
            )
