"""The forecast head: what a user will do, from the user's vector, and what it says.

- wait: days until the next conversion, as hazards of the bins of WAITS (discrete-time survival,
  Singer and Willett 1993; Gensheimer and Narasimhan 2019).
- visits and lines in SPANS days: negative binomial.
- spend in SPANS days: zero or lognormal (Wang, Liu and Miao 2019, ZILN).

It starts from what is true of everybody, and its losses are told in units of that: 1 knows nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from seq_ml.encoder.data.outcomes import WAITS
from seq_ml.periods import FORESEEN_DAYS as SPANS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from seq_ml.encoder.data.outcomes import Outcomes

    Floats = NDArray[np.float64]

SHAPES = ((len(WAITS),), (2, len(SPANS), 2), (len(SPANS), 3))
SIZES = tuple(math.prod(shape) for shape in SHAPES)
"""Numbers that tell the wait, the counts and the spend."""
PARTS = ("wait", "counts", "spend")
FARTHEST = 15.0
"""Largest logit or logarithm that is told: no exponential overflows."""
LEAST_SCALE = 0.1
"""Nats that the loss of a constant counts at least: it may be near zero where all are alike."""


class ForecastHead(nn.Module):
    """Numbers of all distributions of a user, from the user's vector."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.inner = nn.Linear(dim, dim)
        self.outer = nn.Linear(dim, sum(SIZES))
        nn.init.zeros_(self.outer.weight)
        nn.init.zeros_(self.outer.bias)
        self.scale = nn.Buffer(torch.zeros(len(PARTS)))
        """Loss (nats) of what is true of everybody, 0 where nothing was known of a part."""

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return wait [users, WAITS], counts [users, 2, SPANS, 2], spend [users, SPANS, 3], f32."""
        with torch.autocast(states.device.type, enabled=False):
            numbers = self.outer(functional.silu(self.inner(states.float())))
            return _shaped(numbers.clamp(-FARTHEST, FARTHEST))

    def losses(self, states: torch.Tensor, outcomes: Outcomes) -> dict[str, torch.Tensor]:
        """Mean losses over the questions, in units of `scale`; of the parts that have one."""
        found = forecast_losses(self(states), outcomes)
        scale = self.scale.tolist()
        return {
            part: loss / scale[place]
            for place, (part, loss) in enumerate(zip(PARTS, found, strict=True))
            if scale[place]
        }

    @torch.no_grad()
    def begin(self, outcomes: Outcomes) -> None:
        """Begin the parts that were never learnt, where something is known of them, as usual."""
        usual, known = _usual(outcomes)
        new = known & (self.scale == 0)
        chosen = torch.repeat_interleave(new, torch.tensor(SIZES))
        self.outer.bias.copy_(torch.where(chosen, usual, self.outer.bias))
        constant = _shaped(usual.expand(len(outcomes), -1))
        losses = torch.stack(forecast_losses(constant, outcomes))
        self.scale.copy_(torch.where(new, losses.clamp(min=LEAST_SCALE), self.scale))


def _shaped(numbers: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Cut numbers [users, SIZES] into those of wait, counts and spend."""
    parts = torch.split(numbers, list(SIZES), dim=1)
    return tuple(part.reshape(-1, *shape) for part, shape in zip(parts, SHAPES, strict=True))


def forecast_losses(
    told: tuple[torch.Tensor, ...], outcomes: Outcomes
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean negative log-likelihoods (nats) of wait, counts and spend.

    told: as `ForecastHead.forward` returns it.  Means are over questions (wait) and over windows
    that had closed (counts, spend); 0 without any.
    """
    wait, counts, spend = told
    bins = torch.arange(len(WAITS), device=wait.device)
    came = bins == outcomes.wait[:, None]
    at_risk = (bins <= outcomes.wait[:, None]) & (bins < outcomes.seen[:, None])
    of_wait = functional.binary_cross_entropy_with_logits(wait, came.float(), reduction="none")
    asked = (outcomes.seen > 0).sum().clamp(min=1)
    closed = outcomes.closed.float()
    windows = closed.sum().clamp(min=1)
    # negative binomial with mean m and size r: variance m + m² / r
    mean, size = counts[..., 0].exp(), counts[..., 1].exp()
    number, log_both = outcomes.counts, torch.log(mean + size)
    of_counts = (
        torch.lgamma(size) + torch.lgamma(number + 1) - torch.lgamma(number + size)
        - size * (counts[..., 1] - log_both) - number * (counts[..., 0] - log_both)
    )  # fmt: skip
    nothing = (outcomes.spend <= 0).float()
    of_spend = functional.binary_cross_entropy_with_logits(spend[..., 0], nothing, reduction="none")
    log_spend = outcomes.spend.clamp(min=1e-6).log()
    width = functional.softplus(spend[..., 2]) + LEAST_WIDTH
    distance = (log_spend - spend[..., 1]) / width
    of_amount = width.log() + 0.5 * distance.square() + HALF_LOG_TAU
    of_spend = of_spend + (1 - nothing) * of_amount
    return (
        (of_wait * at_risk).sum() / asked,
        (of_counts.sum(1) * closed).sum() / windows,
        (of_spend * closed).sum() / windows,
    )


LEAST_WIDTH = 0.1
"""Least standard deviation of the logarithm of spend: a price that everybody pays is no certainty.
"""
HALF_LOG_TAU = 0.9189385332046727


def _usual(outcomes: Outcomes) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of the distributions that fit everybody, f32 [SIZES]; bool [PARTS], known of."""
    bins = torch.arange(len(WAITS))
    came = ((bins == outcomes.wait[:, None]) & (bins < outcomes.seen[:, None])).sum(0)
    risk = ((bins <= outcomes.wait[:, None]) & (bins < outcomes.seen[:, None])).sum(0)
    wait = torch.logit((came + 0.5) / (risk + 1.0))
    closed = outcomes.closed
    windows = closed.sum(0).clamp(min=1)
    counts = torch.where(closed[:, None], outcomes.counts, 0.0)
    mean = counts.sum(0) / windows + 1e-3
    spread = (torch.where(closed[:, None], outcomes.counts - mean, 0.0) ** 2).sum(0) / windows
    size = (mean.square() / (spread - mean).clamp(min=1e-3)).clamp(1e-2, 1e3)
    paid = closed & (outcomes.spend > 0)
    number = paid.sum(0).clamp(min=1)
    log_spend = torch.where(paid, outcomes.spend.clamp(min=1e-6).log(), 0.0)
    middle = log_spend.sum(0) / number
    width = ((torch.where(paid, log_spend - middle, 0.0) ** 2).sum(0) / number).sqrt()
    width = (width - LEAST_WIDTH).clamp(min=1e-2)
    zero = torch.logit((windows - paid.sum(0) + 0.5) / (windows + 1.0))
    usual = torch.cat(
        [
            wait,
            torch.stack([mean.log(), size.log()], dim=-1).flatten(),
            torch.stack([zero, middle, torch.expm1(width).log()], dim=-1).flatten(),
        ]
    )
    told = closed.any() & (counts.sum() > 0)
    return usual, torch.stack([came.sum() > 0, told, paid.any()])


@dataclass(frozen=True)
class Forecasts:
    """What the head says of some users at one instant.

    hazard: f64 [users, WAITS], probability of a conversion in each bin, given none before.  mean
    and size: f64 [users, 2, SPANS], of visits and lines, negative binomial.  zero, middle, width:
    f64 [users, SPANS], probability of no spend, and mean and standard deviation of its logarithm
    (currency of the business); None where no price was known.
    """

    user_ids: list[str]
    hazard: Floats
    mean: Floats
    size: Floats
    spend: tuple[Floats, Floats, Floats] | None

    @classmethod
    def of(cls, user_ids: list[str], told: tuple[torch.Tensor, ...], *, prices: bool) -> Forecasts:
        """Read what `ForecastHead.forward` returned."""
        wait, counts, spend = (part.double().cpu() for part in told)
        parts = (
            torch.sigmoid(spend[..., 0]).numpy(),
            spend[..., 1].numpy(),
            (functional.softplus(spend[..., 2]) + LEAST_WIDTH).numpy(),
        )
        return cls(
            user_ids,
            torch.sigmoid(wait).numpy(),
            counts[..., 0].exp().numpy(),
            counts[..., 1].exp().numpy(),
            parts if prices else None,
        )

    @classmethod
    def concat(cls, parts: list[Forecasts]) -> Forecasts:
        """Put the users of several parts, at least one, one after another."""
        spend = [part.spend for part in parts if part.spend is not None]
        return cls(
            [user for part in parts for user in part.user_ids],
            np.concatenate([part.hazard for part in parts]),
            np.concatenate([part.mean for part in parts]),
            np.concatenate([part.size for part in parts]),
            tuple(map(np.concatenate, zip(*spend, strict=True))) if spend else None,  # type: ignore[arg-type]
        )

    def silence(self, days: float) -> Floats:
        """Probability of no conversion within so many days, f64 [users].

        Within a bin the hazard is even; beyond the last one it stays as it was there.
        """
        edges = np.array((0, *WAITS), dtype=np.float64)
        share = (days - edges[:-1]) / np.diff(edges)
        share[:-1] = np.minimum(share[:-1], 1.0)
        share = np.maximum(share, 0.0)
        survived: Floats = np.exp(np.log1p(-np.minimum(self.hazard, 1 - 1e-9)) @ share)
        return survived

    def median_wait(self) -> Floats:
        """Days until half would have converted, f64 [users]; inf where fewer ever would."""
        edges = np.array((0, *WAITS), dtype=np.float64)
        steps = np.log1p(-np.minimum(self.hazard, 1 - 1e-9))
        after = np.cumsum(steps, axis=1)
        reached = after <= np.log(0.5)
        bin_ = reached.argmax(axis=1)
        at = np.arange(len(bin_))
        before = after[at, bin_] - steps[at, bin_]
        share = (np.log(0.5) - before) / steps[at, bin_]
        days = edges[bin_] + share * np.diff(edges)[bin_]
        return np.where(reached.any(axis=1), days, np.inf)

    def expected_orders(self, days: int) -> Floats:
        """Mean visits with a conversion in so many days, one of SPANS, f64 [users]."""
        return self.mean[:, 0, SPANS.index(days)]

    def expected_lines(self, days: int) -> Floats:
        """Mean converted lines in so many days, one of SPANS, f64 [users]."""
        return self.mean[:, 1, SPANS.index(days)]

    def expected_spend(self, days: int) -> Floats | None:
        """Mean spend in so many days, one of SPANS, f64 [users]; None without prices."""
        if self.spend is None:
            return None
        zero, middle, width = (part[:, SPANS.index(days)] for part in self.spend)
        expected: Floats = (1 - zero) * np.exp(np.minimum(middle + width**2 / 2, 30.0))
        return expected
