"""The forecast head: starts from what is usual, finds what is planted, and says what it may."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from seq_ml.encoder.data.outcomes import WAITS, Outcomes
from seq_ml.encoder.model.forecast import PARTS, ForecastHead, Forecasts
from seq_ml.periods import FORESEEN_DAYS as SPANS


def outcomes(users: int = 4_000, seed: int = 0, *, rate=0.05, spend=True) -> Outcomes:
    """Users who convert at random with a rate a day each, asked 200 days before the cut-off."""
    random = np.random.default_rng(seed)
    rates = np.broadcast_to(rate, users)
    days = random.exponential(1 / rates)
    counts = np.stack([random.poisson(rates * span) for span in SPANS], axis=1)
    paid = np.where(counts > 0, np.exp(random.normal(3.0, 0.5, counts.shape)), 0.0)
    return Outcomes(
        torch.from_numpy(np.searchsorted(WAITS, days, side="right")),
        torch.full((users,), len(WAITS)),
        torch.from_numpy(np.stack([counts, 3 * counts], axis=1).astype(np.float32)),
        torch.from_numpy((paid * spend).astype(np.float32)),
        torch.ones(users, len(SPANS), dtype=torch.bool),
    )


def said(head: ForecastHead, states: torch.Tensor) -> Forecasts:
    with torch.no_grad():
        return Forecasts.of([str(user) for user in range(len(states))], head(states), prices=True)


def test_it_begins_with_what_is_usual_and_its_losses_are_one():
    head, answers = ForecastHead(8), outcomes()
    head.begin(answers)
    states = torch.randn(len(answers), 8)
    for part, loss in head.losses(states, answers).items():
        assert loss.item() == pytest.approx(1.0, abs=1e-5), part
    forecast = said(head, states[:3])
    for days in (7, 28, 84):
        assert forecast.silence(days) == pytest.approx(math.exp(-0.05 * days), abs=0.02)
    assert forecast.median_wait() == pytest.approx(math.log(2) / 0.05, rel=0.07)
    assert forecast.expected_orders(28) == pytest.approx(0.05 * 28, rel=0.05)
    assert forecast.expected_lines(84) == pytest.approx(3 * 0.05 * 84, rel=0.05)
    mean = answers.spend.mean(0)
    assert forecast.expected_spend(28) == pytest.approx(float(mean[0]), rel=0.05)


def test_it_tells_users_apart_by_their_vectors():
    random = torch.Generator().manual_seed(1)
    states = torch.randn(4_000, 8, generator=random)
    rate = torch.exp(-3.0 + states[:, 0]).numpy()
    answers, head = outcomes(rate=rate), ForecastHead(8)
    head.begin(answers)
    optimizer = torch.optim.Adam(head.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        sum(head.losses(states, answers).values()).backward()
        optimizer.step()
    later = outcomes(seed=2, rate=rate)
    assert all(loss < 0.95 for loss in head.losses(states, later).values())
    forecast = said(head, states)
    error = np.abs(forecast.silence(28) - np.exp(-28 * rate)).mean()
    assert error < 0.04
    waits, known = forecast.median_wait(), np.log(2) / rate < 100
    assert np.corrcoef(np.minimum(waits, 182)[known], np.log(2) / rate[known])[0, 1] > 0.9


def test_what_was_never_seen_is_not_asked_and_a_new_part_begins_later():
    head = ForecastHead(8)
    head.begin(outcomes(spend=False))
    states = torch.randn(4_000, 8)
    assert [*head.losses(states, outcomes(spend=False))] == [*PARTS[:2]]
    before = head.outer.bias.detach().clone(), head.scale.clone()
    head.begin(outcomes(rate=0.2, seed=3))
    assert torch.equal(head.scale[:2], before[1][:2])
    assert torch.equal(head.outer.bias[: len(WAITS)], before[0][: len(WAITS)])
    assert head.scale[2] > 0
    assert head.losses(states, outcomes(rate=0.2, seed=3))["spend"].item() == pytest.approx(
        1, abs=1e-5
    )


def test_a_wait_beyond_the_cut_off_says_only_that_nobody_came_until_then():
    answers = outcomes(20_000)
    # half of the users are asked ten days before the cut-off: nothing is known from then on
    seen = torch.where(torch.arange(20_000) % 2 == 0, len(WAITS), WAITS.index(10) + 1)
    wait = torch.where(answers.wait < seen, answers.wait, len(WAITS))
    head = ForecastHead(8)
    head.begin(Outcomes(wait, seen, answers.counts, answers.spend, answers.closed))
    assert said(head, torch.zeros(1, 8)).silence(84) == pytest.approx(math.exp(-4.2), abs=0.01)


def test_silence_within_a_bin_lies_between_its_ends():
    head = ForecastHead(8)
    head.begin(outcomes())
    forecast = said(head, torch.zeros(1, 8))
    days = [0, 0.5, 1, 28, 30, 42, 60, 182, 400]
    p = [float(forecast.silence(day)[0]) for day in days]
    assert p[0] == 1.0
    assert p == sorted(p, reverse=True)
    assert p[-1] < p[-2]  # somebody may still come after the last bin
    assert p[-1] > p[-2] ** 4


def test_absurd_vectors_give_finite_numbers():
    head = ForecastHead(8)
    head.begin(outcomes())
    torch.nn.init.normal_(head.outer.weight, std=100.0)
    states = 1e3 * torch.randn(50, 8)
    assert all(torch.isfinite(loss) for loss in head.losses(states, outcomes(50)).values())
    forecast = said(head, states)
    assert np.isfinite(forecast.expected_spend(28)).all()
    assert ((forecast.silence(28) >= 0) & (forecast.silence(28) <= 1)).all()
