"""Champion and challenger meet: both predict the newest test rows, which neither was fitted on.

Each reads what it was fitted to read: the champion its own encoder and its own windows. Whether the
challenger is better is asked anew every night, on windows that nearly are those of the night
before. So the k-th look at a champion may err with chance α / (k (k + 1)) only: over all looks,
however much they have in common, that adds up to α (the union bound; spending by look as in Lan &
DeMets 1983). A champion is replaced by one that is not better with chance α at most, for as long as
it reigns.

Better on the whole is not enough: every slice that the report shows is protected. A challenger that
is worse than the champion on one of them, beyond chance, stays out.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.evaluation.backtest import improvement_of, parts_of
from seq_ml.metrics.estimate import Estimate
from seq_ml.storage.artifacts import is_forbidden
from seq_ml.storage.layout import ENCODER_PREFIX, MODELS_PREFIX, champion_key
from seq_ml.tasks.task import NotEnoughHistoryError

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from seq_ml.metrics.metric import Metric
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.tasks.candidate import Champion
    from seq_ml.tasks.data import SequenceModel, TaskData
    from seq_ml.tasks.judged import Backtest
    from seq_ml.tasks.task import Task

    Encoders = Callable[[str], SequenceModel | None]

ALPHA = 0.025
"""Chance that a champion is ever replaced by one that is not better."""


SIDES = ("challenger", "champion")
GONE, OTHER, LATER = "gone", "other", "later"
"""Why two cannot meet: the champion cannot serve any more (or may not), it answers another
question, or it was fitted on later data."""


class ApartError(Exception):
    """Champion and challenger cannot meet; the message says why, kind in which way."""

    def __init__(self, why: str, kind: str) -> None:
        super().__init__(why)
        self.kind = kind


@dataclass(frozen=True)
class Meeting:
    """What came of it.

    champion: version that was met, None before the first promotion. pointer: etag of the pointer
    that named it. look: how often it has been met, this time included. improvement: of the
    challenger, paired, positive is better; its interval leaves out at each end what this look may
    spend. worse: the slice where a challenger that is better on the whole is worse. apart: why they
    could not meet; kind: in which way.
    """

    champion: str | None = None
    pointer: str | None = None
    look: int = 0
    improvement: Estimate | None = None
    worse: str = ""
    apart: str = ""
    kind: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        gained = None if self.improvement is None else self.improvement.as_json()
        return {**vars(self), "improvement": gained}

    @classmethod
    def of_json(cls, values: dict[str, Any]) -> Meeting:
        """Take back what `as_json` returned."""
        gained = values["improvement"]
        numbers = {k: float("nan") if v is None else v for k, v in (gained or {}).items()}
        return cls(**{**values, "improvement": Estimate(**numbers) if gained else None})

    def verdict(self, *, wins: bool, metric: str) -> tuple[bool, str]:
        """Return whether the challenger replaces the champion, and why.

        wins: it beat the best baseline in its own backtest.
        """
        if self.champion is None:
            return True, "first version"
        if self.apart:
            stands = "it beats the best baseline on its own" if wins else "it is a baseline"
            said = f"not compared with the champion {self.champion}: {self.apart}; {stands}"
            return self.kind == GONE or (wins and self.kind == OTHER), said
        assert self.improvement is not None
        shown = f"{self.improvement.signed()} {metric}, look {self.look}"
        if np.isnan(self.improvement.low):
            return False, f"the test window cannot tell them apart ({shown})"
        if self.worse:
            return False, f"better by {shown}, but worse where {self.worse}"
        if self.improvement.low > 0:
            return True, f"better than the champion {self.champion} by {shown}"
        return False, f"not better than the champion {self.champion} beyond chance ({shown})"


def spent(look: int) -> float:
    """Return the chance of an error that the look may take.

    >>> [round(spent(look), 5) for look in (1, 2, 30)], round(sum(map(spent, range(1, 10**5))), 4)
    ([0.0125, 0.00417, 3e-05], 0.025)
    """
    return ALPHA / (look * (look + 1))


def meet(
    objects: ObjectStore,
    task: Task,
    version: str,
    result: Backtest,
    data: TaskData,
    encoders: Encoders,
    load: Callable[[], Champion],
) -> Meeting:
    """Compare a challenger with the champion, if there is one.

    version, result: of the challenger. data: of its round. encoders: gives an encoder by version;
    KeyError where it is gone. load: restores the champion; LookupError where that cannot be.
    """
    try:
        body, etag = objects.get_with_etag(champion_key(task.name))
    except KeyError:
        return Meeting()
    pointer = json.loads(body)
    current = str(pointer["version"])
    # The same challenger once more is the same look.
    look = pointer.get("looks", 0) + (pointer.get("looked_at") != version)
    met = Meeting(current, etag, look)
    if version == current:
        return met
    try:
        test, predictions = _both(objects, task, result, data, encoders, load)
    except ApartError as reason:
        return replace(met, apart=str(reason), kind=reason.kind)
    asked = (*SIDES, result.primary, data.seed)
    gained, _ = improvement_of(task, test, predictions, *asked, tail=spent(look))
    worse = _worse(task, result.primary, test, predictions, data.seed) if gained.low > 0 else ""
    return replace(met, improvement=gained, worse=worse)


def _worse(
    task: Task,
    metric: Metric,
    test: pl.DataFrame,
    predictions: dict[str, NDArray[np.float64]],
    seed: int,
) -> str:
    """Name the slice where the challenger loses most, beyond chance; an empty text without any.

    All slices together may say so by chance ALPHA.
    """
    parts = list(parts_of(task, test))
    lost = {}
    for column, value, rows in parts:
        theirs = {name: of[rows] for name, of in predictions.items()}
        part = test.filter(pl.Series(rows))
        tail = ALPHA / len(parts)
        gained, _ = improvement_of(task, part, theirs, *SIDES, metric, seed, tail=tail)
        if gained.high < 0:
            lost[f"{column} is '{value}': {gained.signed()}"] = gained.value
    return min(lost, key=lost.__getitem__, default="")


def _both(
    objects: ObjectStore,
    task: Task,
    result: Backtest,
    data: TaskData,
    encoders: Encoders,
    load: Callable[[], Champion],
) -> tuple[pl.DataFrame, dict[str, NDArray[np.float64]]]:
    """Return the test examples, and what challenger and champion say of them."""
    try:
        champion = load()
    except LookupError as error:
        raise ApartError(str(error), GONE) from error
    for version, prefix in (
        (champion.version, f"{MODELS_PREFIX}/{task.name}"),
        (champion.encoder, ENCODER_PREFIX),
    ):
        if version and is_forbidden(objects, prefix, version):
            raise ApartError("a person was erased who was in its data", GONE)
    test, later = result.test, champion.fitted_before
    if later is not None and later > result.windows["test"].first_origin:
        raise ApartError(f"it is fitted on later data ({later})", LATER)
    theirs = _as_read(task, champion, result, data, encoders)
    try:
        kept = champion.model.predict(theirs)
    except (KeyError, ValueError, pl.exceptions.PolarsError) as error:
        raise ApartError(
            f"it can no longer predict ({type(error).__name__}: {error})", GONE
        ) from error
    predictions = {"challenger": result.predictions[result.published.name], "champion": kept}
    if theirs is not test:
        return _side_by_side(task, test, theirs, predictions)
    return test, predictions


def _as_read(
    task: Task, champion: Champion, result: Backtest, data: TaskData, encoders: Encoders
) -> pl.DataFrame:
    """Return the test examples as the champion reads them: those of the round where it can."""
    own, now = champion.encoder, data.encoder.version if data.encoder else None
    windows = champion.periods
    alike = windows is None or windows.like(data.periods)
    if alike and (own is None or own == now):
        return result.test
    encoder = data.encoder
    if own is not None and own != now:
        try:
            encoder = encoders(own)
        except (KeyError, FileNotFoundError) as error:
            raise ApartError(f"its encoder {own} is gone", GONE) from error
    data = replace(data, encoder=encoder, periods=windows or data.periods)
    try:
        theirs = task.test_examples(data, result.as_of)
    except (NotEnoughHistoryError, ValueError) as error:
        raise ApartError(f"in its own windows there is no test ({error})", OTHER) from error
    return theirs.sort("origin", *task.key)


def _side_by_side(
    task: Task,
    ours: pl.DataFrame,
    theirs: pl.DataFrame,
    predictions: dict[str, NDArray[np.float64]],
) -> tuple[pl.DataFrame, dict[str, NDArray[np.float64]]]:
    """Return the rows that both were asked about, with both predictions.

    Where candidates differ by encoder, what one of them does not name is at the end of its list.
    Raises ApartError where the same rows were asked something else, or there are none.
    """
    key = ["origin", *task.key]
    asked = ours.select(*key, "label", "label_end", row=pl.int_range(pl.len()))
    other = theirs.select(*key, "label", "label_end", row=pl.int_range(pl.len()))
    both = asked.join(other, on=key, how="inner", maintain_order="left")
    same = (pl.col("label") == pl.col("label_right")) & (
        pl.col("label_end") == pl.col("label_end_right")
    )
    if not both.height or not both.select(same.all()).item():
        raise ApartError("its windows ask another question", OTHER)
    if not task.encoder_names:
        rows = both["row"].to_numpy(), both["row_right"].to_numpy()
        return ours[rows[0]], {n: predictions[n][r] for n, r in zip(SIDES, rows, strict=True)}
    more = theirs[other.join(asked, on=key, how="anti", maintain_order="left")["row"].to_numpy()]
    columns = [c for c in ours.columns if c in more.columns]
    every = pl.concat([ours.select(columns), more.select(columns)], how="vertical_relaxed")
    order = every.select(*key)
    filled = {}
    for name, frame in (("challenger", ours), ("champion", theirs)):
        told = frame.select(*key, said=pl.Series(predictions[name]))
        said = order.join(told, on=key, how="left", maintain_order="left")["said"]
        filled[name] = said.fill_null(-np.inf).to_numpy()
    return every, filled
