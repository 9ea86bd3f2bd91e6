"""The gate: a new encoder replaces the current one only if it serves simple questions as well.

User vectors of both are given to the same small network (`probe`), which learns from them what
users do in the span after one origin, and is judged by ROC-AUC on the span after the next
(`labels`: churn, conversion, category, item, new item, price band). The new one passes when its
mean over the sets is at most one paired standard error below the current one's, and none of the
sets more than two. Nothing is asked of the encoders but vectors, so those of different sizes,
objectives and vocabularies can be compared. Simple counts stand beside them (`counting`).

**Time.** The network is judged on the last days of the log (`SPAN`, less where the younger encoder
leaves less), from an origin on that neither encoder was fitted beyond: otherwise they have seen the
answers. Where they leave less than `LEAST`, nothing is judged. It learns one span earlier. Where an
encoder was fitted beyond that earlier origin (not beyond the later one) it has seen the answers of
the lesson, though not those of the test: the network may trust such vectors too much, which is held
against that encoder, never in its favour; the report says so.

**Chance.** The standard error is that of the users of the test (DeLong et al. 1988: each user's
part in every ROC-AUC; they are added up over labels and sets) and of the networks: DRAWS of them
are averaged, and how far they disagree is added.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.encoder.evaluation.counting import counts
from seq_ml.encoder.evaluation.labels import SPAN, WINDOW, Moment, label_sets
from seq_ml.encoder.evaluation.probe import CPU, probed
from seq_ml.metrics.probabilities import roc_auc_parts

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.encoder.evaluation.labels import LabelSet
    from seq_ml.encoder.evaluation.probe import Width
    from seq_ml.encoder.scoring.encoder import Encoder

    Vectors = NDArray[np.float32]
    Score = tuple[NDArray[np.float64], NDArray[np.float64]]
    """Mean ROC-AUC of a set by each network [draws], and each user's part in its error [users]."""

USERS = 2_048
"""Users of each origin, of those active in the window before it: the first ones by pseudonym."""
DRAWS = 2
"""Networks whose scores are averaged, each with weights and batches of its own."""
LEAST = timedelta(days=7)
MEAN, EACH = 1.0, 2.0
"""Standard errors that the mean, and each set, may be below the current encoder."""


@dataclass(frozen=True)
class Lead:
    """How much higher an ROC-AUC is than another, and its paired standard error."""

    value: float
    error: float

    def __str__(self) -> str:
        """Return the value with its standard error."""
        return f"{self.value:+.4f} ± {self.error:.4f}"


@dataclass(frozen=True)
class SetScore:
    """Mean ROC-AUC over the labels of a set.  lead: of the new encoder over the current one."""

    name: str
    labels: int
    new: float
    counts: float
    current: float | None
    lead: Lead | None


@dataclass(frozen=True)
class Gate:
    """What the gate found.

    why: empty, or why nothing was judged; then the new encoder passes.  seen: versions of encoders
    that had seen the lesson.
    """

    new: str
    current: str | None
    why: str = ""
    origin: datetime | None = None
    days: int = SPAN.days
    users: int = 0
    sets: tuple[SetScore, ...] = ()
    mean: Lead | None = None
    seen: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the new encoder may become the current one."""
        return not self.worse

    @property
    def worse(self) -> tuple[str, ...]:
        """Where it is too far below the current one: names of sets, or "mean"."""
        leads = [(each.name, each.lead, EACH) for each in self.sets] + [("mean", self.mean, MEAN)]
        return tuple(name for name, lead, most in leads if lead and lead.value < -most * lead.error)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values, for the record beside the encoder."""
        origin = None if self.origin is None else self.origin.isoformat()
        return asdict(self) | {"origin": origin, "passed": self.passed, "worse": list(self.worse)}


def judge(
    new: Encoder,
    current: Encoder | None,
    events: pl.LazyFrame,
    items: pl.DataFrame,
    *,
    end: datetime,
    conversions: Collection[str],
    users: int = USERS,
    width: Width = CPU,
) -> Gate:
    """Compare two encoders, or show one beside counts.

    events: schema EVENTS, complete up to `end`.  items: schema ITEMS.  conversions: behaviours that
    count.  users: of each origin.  Nothing is judged where one has seen nearly all, or where no
    question has users enough: then the new one passes, and `why` says so.
    """
    encoders = [new] if current is None else [new, current]
    versions = (new.version, None if current is None else current.version)
    last = max(encoders, key=lambda each: each.fitted_before)
    span = timedelta(days=min(SPAN, end - last.fitted_before).days)
    if span < LEAST:
        return Gate(
            *versions,
            f"encoder {last.version} was fitted before {last.fitted_before:%Y-%m-%d}, which leaves "
            f"less than {LEAST.days} days that it has not seen before {end:%Y-%m-%d}",
        )
    fit, test, some = _sample(events, end, span, users)
    interest = new.config.model.interest
    sets = label_sets(some, items, fit, test, conversions=conversions, interest=interest)
    if not sets:
        return Gate(*versions, "no question has users enough on either side")
    draws = range(DRAWS if current else 1)  # where nothing is decided, one shows enough
    ours = _scores(_vectors(new, some, fit, test), sets, width, draws)
    simple = _scores(counts(some, items, fit, test), sets, width, draws)
    theirs = None
    if current is not None:
        theirs = _scores(_vectors(current, some, fit, test), sets, width, draws)
    return Gate(
        *versions,
        origin=test.origin,
        days=span.days,
        users=len(test.users),
        sets=tuple(
            SetScore(
                each.name,
                each.fit.shape[1],
                float(ours[place][0].mean()),
                float(simple[place][0].mean()),
                None if theirs is None else float(theirs[place][0].mean()),
                None if theirs is None else _lead([ours[place]], [theirs[place]]),
            )
            for place, each in enumerate(sets)
        ),
        mean=None if theirs is None else _lead(ours, theirs),
        seen=tuple(each.version for each in encoders if each.fitted_before > fit.origin),
    )


def gate_markdown(gate: Gate) -> str:
    """Render what the gate found for people."""
    if gate.why:
        return f"The gate let encoder {gate.new} pass unjudged: {gate.why}."
    verdict = "passes" if gate.passed else f"stays out: worse in {', '.join(gate.worse)}"
    beside = f" beside the current one, {gate.current}" if gate.current else ""
    head = [
        f"Encoder {gate.new} {verdict}{beside}.",
        "",
        (
            f"ROC-AUC of what {gate.users:,} users did in the {gate.days} days from "
            f"{gate.origin:%Y-%m-%d} on, by a network fitted to vectors {gate.days} days before. "
            f"A new encoder stays out where its mean is more than {MEAN:g} standard error, or a "
            f"set more than {EACH:g}, below the current one's."
        ),
        "",
        "| set | labels | new | current | lead ± standard error | simple counts |",
        "|---|---|---|---|---|---|",
    ]
    rows = [
        f"| {each.name} | {each.labels} | {each.new:.4f} "
        f"| {'–' if each.current is None else f'{each.current:.4f}'} | {each.lead or '–'} "
        f"| {each.counts:.4f} |"
        for each in gate.sets
    ]
    mean = [f"| **mean** | | | | {gate.mean} | |"] if gate.mean else []
    seen = [
        "",
        f"Fitted beyond the origin of the lesson, which is against it: {', '.join(gate.seen)}.",
    ]
    return "\n".join([*head, *rows, *mean, *(seen if gate.seen else [])])


def _sample(
    events: pl.LazyFrame, end: datetime, span: timedelta, users: int
) -> tuple[Moment, Moment, pl.DataFrame]:
    """Return both moments, and the events of their users before `end`."""
    time = pl.col("event_time")
    fit, test = (
        Moment(
            origin,
            events.filter(time.is_between(origin - WINDOW, origin, closed="left"))
            .select(pl.col("user_id").unique().sort().head(users))
            .collect(engine="streaming")["user_id"]
            .to_list(),
            span,
        )
        for origin in (end - 2 * span, end - span)
    )
    chosen = sorted({*fit.users, *test.users})
    some = events.filter(pl.col("user_id").is_in(chosen), time < end)
    return fit, test, some.collect(engine="streaming")


def _vectors(encoder: Encoder, events: pl.DataFrame, *moments: Moment) -> list[Vectors]:
    """Return vectors f32 [users, dim] at each moment; zeros for a user without a sequence."""
    found = []
    for moment in moments:
        mine = events.lazy().filter(pl.col("user_id").is_in(moment.users))
        users, vectors = encoder.user_embeddings(mine, moment.origin)
        place = np.searchsorted(moment.users, users)
        values = np.zeros((len(moment.users), vectors.shape[1]), dtype=np.float32)
        values[place] = vectors
        found.append(values)
    return found


def _scores(
    vectors: Sequence[Vectors], sets: Sequence[LabelSet], width: Width, seeds: Sequence[int]
) -> list[Score]:
    draws = [_one_draw(vectors, sets, width, seed) for seed in seeds]
    return [
        (
            np.array([value for value, _ in scores]),
            np.mean([parts for _, parts in scores], axis=0),
        )
        for scores in zip(*draws, strict=True)
    ]


def _one_draw(
    vectors: Sequence[Vectors], sets: Sequence[LabelSet], width: Width, seed: int
) -> list[tuple[float, NDArray[np.float64]]]:
    """Fit one network to all sets together; each is judged at its best epoch."""
    labels = np.concatenate([each.fit for each in sets], axis=1)
    cuts = np.cumsum([each.fit.shape[1] for each in sets])[:-1]
    epochs = [
        [
            _mean_auc(each.judge, part)
            for each, part in zip(sets, np.split(logits, cuts, axis=1), strict=True)
        ]
        for logits in probed(vectors[0], labels, vectors[1], width=width, seed=seed)
    ]
    return [max(scores, key=lambda score: score[0]) for scores in zip(*epochs, strict=True)]


def _mean_auc(labels: Vectors, logits: Vectors) -> tuple[float, NDArray[np.float64]]:
    """Return the mean ROC-AUC over the labels, and each user's part in it [users]."""
    value, parts = 0.0, np.zeros(len(labels))
    for label, score in zip(labels.T, logits.T, strict=True):
        asked = ~np.isnan(label)
        one, part = roc_auc_parts(label[asked], score[asked])
        value += one / labels.shape[1]
        parts[asked] += part / labels.shape[1]
    return value, parts


def _lead(ours: Sequence[Score], theirs: Sequence[Score]) -> Lead:
    """Return the mean lead over some sets, all asked of the same users."""
    pairs = list(zip(ours, theirs, strict=True))
    values = np.mean([one - other for (one, _), (other, _) in pairs], axis=0)
    parts = np.mean([one - other for (_, one), (_, other) in pairs], axis=0)
    of_networks = values.var(ddof=1) / len(values)
    return Lead(float(values.mean()), float(np.sqrt((parts**2).sum() + of_networks)))
