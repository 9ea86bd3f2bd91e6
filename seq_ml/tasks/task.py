"""The one shape of a prediction task, and the protocol that every task is judged by.

A task says how examples are made at an origin (features strictly before it, labels strictly from
it on), which baselines and models compete, by which metrics, and how predictions become rows of
its table. Everything else is shared:

1. every candidate is fitted on the `fit` examples; the best model and the best baseline are chosen
   on the `validation` examples, whose label windows begin after those of `fit` ended; one that
   adds something to another one only if what it adds is better than nothing beyond chance there;
2. all are fitted again on everything before the test window (`fit`, `validation`, and `embargo`:
   examples whose label windows overlap those of `validation`, which step 1 may not use) and judged
   once on the `test` examples, whose label windows begin after the others ended;
3. what was judged is what is published: the model if the lower bound of its paired improvement
   over the baseline is above zero over all windows of the walk-forward, and it is not worse beyond
   chance in the newest; else the baseline.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

if TYPE_CHECKING:
    from seq_ml.metrics.metric import Metric
    from seq_ml.pages.page import Section
    from seq_ml.schema import Table
    from seq_ml.tasks.candidate import Champion, Model
    from seq_ml.tasks.data import TaskData
    from seq_ml.tasks.judged import Backtest

SPLITS = ("fit", "validation", "test")
LONGEST_WINDOW = timedelta(days=400)
"""How far ahead of `as_of` a label window may end; a year's value fits in."""
EARLIER_FOLDS = 2
"""Earlier rounds, at most, of the walk-forward (`seq_ml.evaluation.walk_forward`)."""
EMBARGO = "embargo"
"""Split (optional) of examples that overlap validation: used only in the fit before the test."""


class NotEnoughHistoryError(ValueError):
    """The data cannot carry this task yet; the message says what is missing."""


class NotApplicableError(NotEnoughHistoryError):
    """Nobody asked: an optional input that the task lives by was never dropped."""


def check_conversions(data: TaskData, as_of: datetime, task: str, *, items: bool = False) -> None:
    """Raise NotEnoughHistoryError where nothing converted before `as_of`.

    items: also where no conversion names its item.
    """
    events, many = data.events_before(as_of), data.business.conversion_noun()
    conversions = events.filter(data.business.of_role("conversion"))
    counts = conversions.select(pl.len(), pl.col("item_id").count())
    there, named = counts.collect(engine="streaming").row(0)
    if not there:
        kinds = events.group_by("event_type").len().sort("len", "event_type", descending=True)
        rows = [f"{count:,} {kind}" for kind, count in kinds.collect().rows()]
        raise NotEnoughHistoryError(
            f"{task}: no {data.business.conversion_noun(many=False)} before {as_of:%Y-%m-%d}; the "
            f"logs hold {', '.join(rows) or 'no event'}. `business.conversion` in the mapping says "
            "which behaviour the business lives by."
        )
    if items and not named:
        raise NotEnoughHistoryError(
            f"{task}: none of the {there:,} {many} before {as_of:%Y-%m-%d} says of which item it "
            f"is: log item_id with {many}."
        )


@dataclass(frozen=True)
class Serving:
    """What a table is predicted from.

    examples: the columns of `Task.examples` without split, label and label_end, at origin =
    `as_of`. read: what the task read to make them and its rows need again; events are read once.
    """

    examples: pl.DataFrame
    read: Any = None


class Task(ABC):
    """One prediction task. Subclasses are stateless: all state lives in the models."""

    name: ClassVar[str]
    title: ClassVar[str]
    table: ClassVar[Table]
    key: ClassVar[tuple[str, ...]]
    """Columns that identify an example at one origin."""
    unit: ClassVar[str]
    """Column that the bootstrap resamples: rows of one unit stay together."""
    primary_metric: ClassVar[str]
    slices: ClassVar[tuple[str, ...]] = ()
    """Columns of the examples, of few values, by which the report is cut; never features."""
    by_user: ClassVar[bool] = False
    """Whether rows of some users are made of their events and of `TaskData.once` alone."""
    limits: ClassVar[tuple[str, ...]] = ()
    """What the numbers of the report do not say, one sentence each."""
    encoder_names: ClassVar[bool] = False
    """Whether the encoder names some of the examples (candidates of lists), whatever scores them:
    other encoders, other examples; and rows are made with the current one where the published model
    reads none."""

    @abstractmethod
    def examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Labelled examples of all splits, all label windows closed before `as_of`.

        Columns: split ("fit", "validation", "test", "embargo"), origin and label_end (datetime),
        the key, the unit, label, and the features. Raises NotEnoughHistoryError.
        """

    def earlier_examples(
        self, data: TaskData, as_of: datetime, later: pl.DataFrame
    ) -> pl.DataFrame:
        """Return `examples(data, as_of)`, of data without an encoder.

        later: the examples of a round after `as_of`, of the same shop, perhaps with an encoder. A
        task that finds origins of its own among them need not make those again.
        """
        return self.examples(data, as_of)

    def foretold_at(self, data: TaskData, as_of: datetime) -> set[datetime]:
        """Return the origins at which it reads what the sequence model foresaw (none by default).

        Of what is served at `as_of`, and of the examples of this round and of earlier ones.
        """
        return set()

    def test_examples(self, data: TaskData, as_of: datetime) -> pl.DataFrame:
        """Return the test examples alone; a task that can make them at less cost does.

        A champion that reads another encoder, or other windows, is asked about its own.
        """
        return self.examples(data, as_of).filter(pl.col("split") == "test")

    @abstractmethod
    def serving(self, data: TaskData, as_of: datetime, units: pl.Series | None = None) -> Serving:
        """Read what is known before `as_of` and return the examples that the table speaks of.

        units: of these at least, where not of all. The check `feature_time` looks at a sample; a
        task whose examples of everybody cost much more than those of a few makes no others.
        Statistics stay those of everybody. Raises NotEnoughHistoryError.
        """

    @abstractmethod
    def candidates(self) -> list[Model]:
        """Return new, unfitted candidates: baselines and models."""

    @abstractmethod
    def metrics(self) -> list[Metric]:
        """Metrics of the report; one is called `primary_metric`."""

    @abstractmethod
    def rows(
        self, data: TaskData, as_of: datetime, serving: Serving, champion: Champion
    ) -> pl.DataFrame:
        """Turn champion predictions into the table's rows; serving: of the same data and `as_of`.

        Without the stamp columns, except `source` where it differs by row.
        """

    def cluster(self, examples: pl.DataFrame) -> pl.Series | None:
        """Return what the bootstrap draws beside the units [rows] (none by default).

        It is what rows of different units have in common, and a claim is about: a campaign, weeks.
        """
        return None

    def across(self, rows: pl.LazyFrame, data: TaskData, as_of: datetime) -> pl.DataFrame | None:
        """Return what only all rows of a table together tell of each one (nothing by default).

        rows: of all shards of the data, where there are several. Returns the table's key (without
        `as_of`) and the columns that take the place of those that a shard alone filled.
        """
        return None

    def rows_without_champion(self, data: TaskData, as_of: datetime) -> pl.DataFrame | None:
        """Return the rows that the table has although nothing can be predicted (none by default).

        Without the stamp columns, except `source`.
        """
        return None

    def predicts_beside(self, model: str) -> tuple[str, ...]:
        """Name candidates that may predict rows where `model` is published (none by default).

        Earlier windows judge them too.
        """
        return ()

    def remark(self, result: Backtest) -> str:
        """Return what the verdict does not say of the table's rows, a sentence (none by default).

        Such as which rows come from another candidate than the published one.
        """
        return ""

    def sections(self, data: TaskData, result: Backtest) -> list[Section]:
        """Return what the report says beyond what every task's says (none by default)."""
        return []

    def outcomes(self, data: TaskData, predictions: pl.DataFrame, until: datetime) -> pl.DataFrame:
        """Say what became of published rows whose label window closed by `until`.

        predictions: rows of the table, of one `as_of`, filled by this task, without the columns
        that hold lists (evidence and vectors: nothing to judge). Returns one row per
        prediction that can be judged: the table's key without `as_of`, target (what was predicted,
        such as "p_churn"), predicted (f64), realised (f64), window_end (datetime). A row whose
        window is still open is left out: never a 0 for what is not known yet.
        """
        types = self.table.polars_schema()
        return pl.DataFrame(
            schema={
                **{name: types[name] for name in self.table.key if name != "as_of"},
                "target": pl.String,
                "predicted": pl.Float64,
                "realised": pl.Float64,
                "window_end": pl.Datetime("us", "UTC"),
            }
        )

    def window_ends(self, data: TaskData, predictions: pl.DataFrame) -> pl.Series:
        """Return the ends of the label windows of published rows (of one `as_of`, at least one).

        Asked once, before anything happened: a task whose `outcomes` leave out rows because of what
        did not happen yet says here when their windows end.
        """
        as_of: datetime = predictions["as_of"][0]
        return self.outcomes(data, predictions, as_of + LONGEST_WINDOW)["window_end"]


def check_examples(examples: pl.DataFrame, task: Task, as_of: datetime) -> None:
    """Prove the temporal rule of the examples; ValueError names the broken one.

    A label window may not begin before its origin nor end after `as_of`, and every split's windows
    begin only after those of the earlier splits have ended.
    """
    if examples.filter(pl.col("label_end") > as_of).height:
        raise ValueError(f"{task.name}: a label window ends after as_of {as_of}")
    if examples.filter(pl.col("label_end") <= pl.col("origin")).height:
        raise ValueError(f"{task.name}: a label window ends at or before its origin")
    for earlier, later in (*combinations(SPLITS, 2), (EMBARGO, "test")):
        ends = examples.filter(pl.col("split") == earlier)["label_end"].max()
        begins = examples.filter(pl.col("split") == later)["origin"].min()
        if ends is not None and begins is not None and ends > begins:  # type: ignore[operator]
            raise ValueError(
                f"{task.name}: a label window of '{earlier}' ends at {ends!s}, after the first "
                f"origin {begins!s} of '{later}'"
            )
    doubles = examples.height - examples.select("origin", *task.key).n_unique()
    if doubles:
        raise ValueError(f"{task.name}: {doubles} examples repeat (origin, {task.key})")
