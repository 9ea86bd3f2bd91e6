"""What another policy would have earned, from decisions that were logged with their probabilities.

Every decision is to act (contact) or not. From the logged propensity of acting, the action taken
and the reward that followed, three estimates of the mean reward per decision under a new policy:

- IPS, mean of w·r with w = P_new(action) / P_logged(action) (Horvitz and Thompson 1952);
- SNIPS, Σ w·r / Σ w, a little biased and much steadier (Swaminathan and Joachims 2015);
- DR, the model's value plus the weighted error of the model (Dudík, Langford and Li 2011): right
  when the propensities or the model are, exact when the model is.

Intervals are 95 % normal intervals of the mean influence, rows of one unit added up: decisions
about one user are not independent.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from seq_ml.metrics.estimate import Estimate, Z

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

SMALLEST_SAMPLE = 100
"""Effective decisions below which no estimate is given: its interval would be chance itself."""


class NoSupportError(ValueError):
    """The log cannot answer; the message says in one sentence why."""


@dataclass(frozen=True)
class LoggedDecisions:
    """Decisions to act or not, one row each.

    acted: bool [n]; reward: f64 [n] (of the action that was taken, its cost subtracted);
    propensity: f64 [n], probability that the logged policy acted; unit: ids [n] whose rows belong
    together (users).
    """

    acted: NDArray[np.bool_]
    reward: Array
    propensity: Array
    unit: NDArray[np.int64]


@dataclass(frozen=True)
class OffPolicy:
    """Mean reward per decision: as logged, and of the new policy by three estimators.

    difference: DR minus logged, paired. effective_sample: (Σw)² / Σw² (Kong 1992), decisions.
    mean_weight: 1 in expectation when the propensities are right. largest_weight: of one decision.
    """

    decisions: int
    logged: Estimate
    ips: Estimate
    snips: Estimate
    dr: Estimate
    difference: Estimate
    effective_sample: float
    mean_weight: Estimate
    largest_weight: float


def off_policy(
    log: LoggedDecisions,
    new: Array,
    *,
    reward_acted: Array | None = None,
    reward_not: Array | None = None,
) -> OffPolicy:
    """Estimate the mean reward of a policy that acts with probability `new` [n].

    reward_acted, reward_not: a model's expected reward of either action [n], fitted on other
    decisions; 0 where there is none (DR is then IPS). Raises NoSupportError where propensities are
    missing, no probabilities, contradicted by the log or 0 for what the new policy would do; where
    the weights do not average 1; or where the effective sample is below SMALLEST_SAMPLE.

    >>> acted = np.arange(1000) % 2 == 0
    >>> log = LoggedDecisions(acted, 2.0 * acted, np.full(1000, 0.5), unit=np.arange(1000))
    >>> found = off_policy(log, np.full(1000, 0.8))
    >>> print(found.logged, "→", found.snips)
    1.000 [0.938, 1.062] → 1.600 [1.560, 1.640]
    """
    _check(log, new)
    acted = log.acted.astype(bool)
    taken = np.where(acted, log.propensity, 1 - log.propensity)
    wanted = np.where(acted, new, 1 - new)
    # A logged decision stands for as many as the new policy would make of it.
    weight = wanted / taken
    rows = len(weight)
    sample = float(weight.sum() ** 2 / (weight**2).sum()) if weight.any() else 0.0
    if sample < SMALLEST_SAMPLE:
        raise NoSupportError(
            f"The new policy and the logged one hardly ever agree: {rows} logged decisions are "
            f"worth {sample:.0f} effective ones, {SMALLEST_SAMPLE} are needed; log more contacts "
            "by chance (ads.explore_share)."
        )
    mean_weight = _mean(weight, log.unit)
    # Three times the interval: the check is of the log's honesty, not another estimate.
    if abs(mean_weight.value - 1) > 3 * (mean_weight.high - mean_weight.value) + 1e-9:
        raise NoSupportError(
            f"The weights average {mean_weight}, not 1: the logged propensities do not describe "
            "how the contacts were made."
        )
    q1 = np.zeros(rows) if reward_acted is None else reward_acted
    q0 = np.zeros(rows) if reward_not is None else reward_not
    # A ratio of two means: its interval is that of its terms to first order (delta method).
    snips = float((weight * log.reward).sum() / weight.sum())
    # What the model expects of the new policy, and its errors where the log can tell them.
    doubly = new * q1 + (1 - new) * q0 + weight * (log.reward - np.where(acted, q1, q0))
    return OffPolicy(
        decisions=rows,
        logged=_mean(log.reward, log.unit),
        ips=_mean(weight * log.reward, log.unit),
        snips=_mean(snips + weight * (log.reward - snips) / weight.mean(), log.unit),
        dr=_mean(doubly, log.unit),
        difference=_mean(doubly - log.reward, log.unit),
        effective_sample=sample,
        mean_weight=mean_weight,
        largest_weight=float(weight.max()),
    )


def _check(log: LoggedDecisions, new: Array) -> None:
    if not len(log.reward):
        raise NoSupportError("No decision was logged yet.")
    missing = int(np.isnan(log.propensity).sum())
    if missing:
        raise NoSupportError(
            f"{missing} of {len(log.propensity)} logged decisions have no propensity: nobody knows "
            "how likely they were."
        )
    for name, values in (("logged propensity", log.propensity), ("new probability", new)):
        if not ((values >= 0) & (values <= 1)).all():
            raise NoSupportError(f"A {name} is no probability: it must lie between 0 and 1.")
    acted = log.acted.astype(bool)
    impossible = int((np.where(acted, log.propensity, 1 - log.propensity) <= 0).sum())
    if impossible:
        raise NoSupportError(
            f"{impossible} logged decisions had propensity 0 and were taken all the same: the "
            "propensities do not describe how the contacts were made."
        )
    never = ((log.propensity <= 0) & (new > 0)) | ((log.propensity >= 1) & (new < 1))
    if never.any():
        raise NoSupportError(
            f"{never.mean():.0%} of the decisions have no support: the logged policy never did "
            "there what the new one might do; log contacts by chance (ads.explore_share)."
        )


def _mean(terms: Array, unit: NDArray[np.int64]) -> Estimate:
    """Mean of the terms with its normal interval, deviations of one unit's rows added up."""
    value = float(terms.mean())
    _, codes = np.unique(unit, return_inverse=True)
    sums = np.bincount(codes, terms - value)
    units = len(sums)
    if units < 2:
        return Estimate(value, float("nan"), float("nan"))
    spread = Z * float(np.sqrt((sums**2).sum() * units / (units - 1))) / len(terms)
    return Estimate(value, value - spread, value + spread)
