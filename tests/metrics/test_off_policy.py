"""Off-policy estimates: by hand, under a log whose truth is known, and refusals."""

from __future__ import annotations

import numpy as np
import pytest

from seq_ml.metrics.off_policy import LoggedDecisions, NoSupportError, off_policy

N = 400


def logged(acted, reward, propensity, unit=None) -> LoggedDecisions:
    acted = np.asarray(acted, dtype=bool)
    unit = np.arange(len(acted)) if unit is None else np.asarray(unit)
    return LoggedDecisions(
        acted, np.asarray(reward, dtype=float), np.asarray(propensity, dtype=float), unit
    )


def bandit(seed: int, n: int = N):
    """Contacts by chance, responses that depend on x: the log, the new policy, its true value."""
    rng = np.random.default_rng(seed)
    x = rng.random(n)
    propensity = np.where(x > 0.5, 0.6, 0.2)
    acted = rng.random(n) < propensity
    q1, q0 = 0.2 + 0.5 * x, 0.3 - 0.2 * x
    reward = (rng.random(n) < np.where(acted, q1, q0)).astype(float)
    new = np.where(x > 0.7, 0.9, 0.1)
    truth = 0.7 * (0.1 * (0.2 + 0.5 * 0.35) + 0.9 * (0.3 - 0.2 * 0.35)) + 0.3 * (
        0.9 * (0.2 + 0.5 * 0.85) + 0.1 * (0.3 - 0.2 * 0.85)
    )
    return logged(acted, reward, propensity), new, q1, q0, truth


def test_four_decisions_by_hand():
    """Weights 2, 0.5, 1.5, 0 (repeated to be enough): the three estimates as written on paper."""
    repeat = 100
    acted = [True, True, False, False] * repeat
    propensity = [0.5, 0.5, 0.5, 0.5] * repeat
    new = np.array([1.0, 0.25, 0.25, 1.0] * repeat)
    reward = [3.0, 1.0, 2.0, 7.0] * repeat
    q1 = np.array([2.0, 2.0, 2.0, 2.0] * repeat)
    q0 = np.array([1.0, 1.0, 1.0, 1.0] * repeat)
    found = off_policy(logged(acted, reward, propensity), new, reward_acted=q1, reward_not=q0)
    assert found.logged.value == pytest.approx((3 + 1 + 2 + 7) / 4)
    assert found.ips.value == pytest.approx((2 * 3 + 0.5 * 1 + 1.5 * 2 + 0) / 4)
    assert found.snips.value == pytest.approx((2 * 3 + 0.5 * 1 + 1.5 * 2 + 0) / 4)  # Σw = n
    model = (2.0 + (0.25 * 2 + 0.75 * 1) * 2 + 2.0) / 4
    corrections = (2 * (3 - 2) + 0.5 * (1 - 2) + 1.5 * (2 - 1) + 0) / 4
    assert found.dr.value == pytest.approx(model + corrections)
    assert found.difference.value == pytest.approx(found.dr.value - found.logged.value)
    assert found.effective_sample == pytest.approx(4.0**2 / (4 + 0.25 + 2.25) * repeat)
    assert found.mean_weight.value == pytest.approx(1.0)
    assert found.largest_weight == pytest.approx(2.0)


def test_the_logged_policy_itself_has_the_logged_value():
    log, *_ = bandit(1)
    found = off_policy(log, log.propensity)
    for estimate in (found.ips, found.snips, found.dr):
        assert estimate.value == pytest.approx(log.reward.mean())
    assert found.effective_sample == pytest.approx(N)


def test_intervals_cover_the_truth_as_often_as_they_say():
    runs = 400
    covered = dict.fromkeys(("ips", "snips", "dr"), 0)
    for seed in range(runs):
        log, new, q1, q0, truth = bandit(seed)
        # a model that is wrong by a lot: the propensities alone must carry DR
        found = off_policy(log, new, reward_acted=0.3 * q1, reward_not=q0 + 0.1)
        for name in covered:
            estimate = getattr(found, name)
            covered[name] += estimate.low <= truth <= estimate.high
    for name, count in covered.items():
        assert 0.92 <= count / runs <= 0.98, (name, count / runs)


def test_doubly_robust_is_exact_with_a_perfect_model_and_narrower_with_a_good_one():
    log, new, q1, q0, _ = bandit(3)
    perfect = LoggedDecisions(log.acted, np.where(log.acted, q1, q0), log.propensity, log.unit)
    found = off_policy(perfect, new, reward_acted=q1, reward_not=q0)
    assert found.dr.value == pytest.approx(float((new * q1 + (1 - new) * q0).mean()), abs=1e-12)
    noisy = off_policy(log, new, reward_acted=q1, reward_not=q0)
    assert noisy.dr.high - noisy.dr.low < noisy.ips.high - noisy.ips.low


def test_rows_of_one_user_count_as_one():
    log, new, *_ = bandit(4)
    twice = logged(
        np.tile(log.acted, 2), np.tile(log.reward, 2), np.tile(log.propensity, 2),
        np.tile(log.unit, 2),
    )  # fmt: skip
    one, two = off_policy(log, new), off_policy(twice, np.tile(new, 2))
    assert two.ips.value == pytest.approx(one.ips.value)
    assert two.ips.high == pytest.approx(one.ips.high)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"propensity": [np.nan] * N}, "400 of 400 logged decisions have no propensity"),
        ({"propensity": [1.5] * N}, "no probability"),
        ({"acted": [True] * N, "propensity": [0.0] * N}, "had propensity 0 and were taken"),
        ({"acted": [False] * N, "propensity": [0.0] * N, "new": 0.5}, "have no support"),
        ({"acted": [True] * N, "propensity": [1.0] * N, "new": 0.5}, "have no support"),
        ({"acted": [True] * N, "propensity": [0.9] * N, "new": 0.0}, "worth 0 effective ones"),
        ({"acted": [True] * N, "propensity": [0.5] * N, "new": 0.9}, "weights average 1.8"),
        ({"acted": [], "reward": [], "propensity": []}, "No decision was logged"),
    ],
    ids=["missing", "above one", "contradicted", "never", "always", "apart", "dishonest", "empty"],
)
def test_refusals_say_why(change, message):
    values = {"acted": [True, False] * (N // 2), "reward": [1.0] * N, "propensity": [0.5] * N}
    values |= {name: value for name, value in change.items() if name != "new"}
    new = np.full(len(values["acted"]), change.get("new", 0.5))
    with pytest.raises(NoSupportError, match=message):
        off_policy(logged(**values), new)


def test_few_effective_decisions_are_refused():
    rng = np.random.default_rng(5)
    propensity = np.full(N, 0.02)
    acted = rng.random(N) < propensity
    with pytest.raises(NoSupportError, match="effective ones, 100 are needed"):
        off_policy(logged(acted, np.ones(N), propensity), np.full(N, 0.98))
