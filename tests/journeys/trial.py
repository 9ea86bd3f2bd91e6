"""A business's trial of Seqline: the real command on its files, and what must come of that.

The command and the graph are those of a user. Two things are spared, which would be half of the
time: a process and its imports for each run, and a database on disk for each event of Dagster.
tests/journeys/test_graph.py has both.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar
from uuid import uuid4

import dagster as dg
import polars as pl
import pytest
from sqlalchemy import create_engine
from sqlalchemy.pool import SingletonThreadPool
from typer.testing import CliRunner

from seq_ml import schema
from seq_ml.storage.contracts import check_key, conform
from seq_ml.storage.objects import ObjectStore
from seq_ml.storage.tables import TableStore
from seq_ml.tables.states import recorded_state
from tests.journeys.shapes import SHAPES
from tests.journeys.shapes.shape import write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result

    from seq_assets.cli.driver import Driver
    from seq_ml.storage.objects import StorageConfig
    from tests.journeys.shapes.shape import Files


class Trial:
    """The files of a business, and `seqline run` on them."""

    def __init__(self, root: Path, server: StorageConfig, *, preset: str = "tiny") -> None:
        self.root = root
        self.files = root / "files"
        self.files.mkdir()
        self.said: Result
        """What the command said, once it ran."""
        self.instance = dg.DagsterInstance.ephemeral()
        events: Any = self.instance.event_log_storage
        # as it comes, it opens the database in memory anew for each event
        events._engine = create_engine(events._engine.url, poolclass=SingletonThreadPool)
        self.objects = ObjectStore(replace(server, bucket=f"trial-{uuid4().hex[:12]}"))
        self.objects.check(create=True)
        self.tables = TableStore(self.objects)
        self.environment = {
            "SEQLINE_HOME": str(root / "home"),
            "DAGSTER_HOME": str(root / "dagster"),  # nothing is written there
            "SEQLINE_BUCKET": self.objects.bucket,
            "SEQLINE_PRESET": preset,
            "SEQLINE_SHARDS": "1",
            "SEQLINE_PSEUDONYM_KEY": "ab" * 32,
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_ENDPOINT_URL": str(server.endpoint),
        }

    def lay_out(self, mapping: str, files: Files) -> None:
        """Write the files into the folder, and the mapping beside it."""
        write(files, self.files)
        (self.root / "business.yaml").write_text(mapping)

    def run(self, *options: str) -> Result:
        """`seqline run` on the folder, with `business.yaml` beside it as mapping."""
        mapping = str(self.root / "business.yaml")
        return self.seqline("run", "--source", mapping, str(self.files), *options)

    def seqline(self, *arguments: str) -> Result:
        """Run the command in this process."""
        from seq_assets.cli.app import app

        with self._deployed():
            return CliRunner().invoke(app, list(arguments))

    def publish_today(self) -> None:
        """Publish the tables as of the newest day, by what was trained before, as each morning."""
        from seq_assets.cli.driver import Driver

        with self._deployed():
            Driver(self.instance, lambda _: None).execute("daily_tables")

    def table(self, name: str) -> pl.DataFrame:
        """The rows of a table, none when it was never written."""
        if not self.tables.exists(name):
            return pl.DataFrame()
        return self.tables.scan(name).collect()

    def published(self) -> dict[str, pl.DataFrame]:
        """The published tables that hold rows."""
        tables = {name: self.table(name) for name in schema.PUBLISHED}
        return {name: rows for name, rows in tables.items() if rows.height}

    def failed_checks(self) -> dict[str, str]:
        """The asset checks that did not pass in any run, and what they said."""
        of_type = dg.DagsterEventType.ASSET_CHECK_EVALUATION
        evaluations = [
            entry.dagster_event.asset_check_evaluation_data
            for run in self.instance.get_runs()
            for entry in self.instance.all_logs(run.run_id, of_type=of_type)
            if entry.dagster_event is not None
        ]
        return {
            f"{check.asset_key.to_user_string()}: {check.check_name}": str(
                {name: getattr(value, "value", value) for name, value in check.metadata.items()}
            )
            for check in evaluations
            if not check.passed
        }

    def end(self) -> None:
        """Remove the bucket."""
        self.objects.delete_prefix("")
        self.objects.client.delete_bucket(Bucket=self.objects.bucket)

    @contextmanager
    def _deployed(self) -> Iterator[None]:
        from seq_assets.cli import driver
        from seq_assets.cli.worker import execute

        with pytest.MonkeyPatch.context() as patch:
            for name in list(os.environ):
                if name.startswith(("AWS_", "SEQLINE_")):
                    patch.delenv(name)
            for name, value in self.environment.items():
                patch.setenv(name, value)
            patch.setattr(driver, "in_worker", execute)
            patch.setattr(driver.Driver, "_watching", _watched_afterwards)
            patch.setattr(dg.DagsterInstance, "get", lambda: nullcontext(self.instance))
            yield


@contextmanager
def _watched_afterwards(driver: Driver, call: str) -> Iterator[None]:
    """Say what a run did when it is over: two threads lock each other out of SQLite in memory."""
    over = threading.Event()
    over.set()
    try:
        yield
    finally:
        driver._watch(call, over)


@dataclass(frozen=True)
class Expected:
    """What must come of one shape.

    Of every table: published (all of it, or all but what only an optional input fills), smaller or
    refused; of the last two the value is a piece of the sentence that says why. money: whether the
    business tells any amount. earlier: a day as of which the tables were published first; label
    windows have closed since, and judged are the tasks whose predictions met what happened.
    """

    shape: str
    published: tuple[str, ...] = ()
    smaller: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    money: bool = True
    earlier: str = ""
    judged: tuple[str, ...] = ()


class Business:
    """The tests of every shape: they take the name of a class for each business."""

    wanted: ClassVar[Expected]

    @pytest.fixture(scope="class")
    def trial(
        self, server: StorageConfig, tmp_path_factory: pytest.TempPathFactory
    ) -> Iterator[Trial]:
        """The business, once through the command, and published again where it began earlier."""
        trial = Trial(tmp_path_factory.mktemp("trial"), server)
        shape = SHAPES[self.wanted.shape]
        trial.lay_out(shape.mapping, shape.make())
        trial.said = trial.run(*(["--as-of", self.wanted.earlier] if self.wanted.earlier else []))
        if self.wanted.earlier:
            trial.publish_today()
        yield trial
        trial.end()

    def test_the_command_ends_well(self, trial: Trial) -> None:
        assert trial.said.exit_code == 0, trial.said.output
        assert "not executing" not in trial.said.output.lower()

    @pytest.mark.parametrize("table", schema.PUBLISHED)
    def test_what_became_of_the_table_is_said(self, trial: Trial, table: str) -> None:
        state = recorded_state(trial.objects, table)
        assert state is not None, trial.said.output
        if table in self.wanted.published:
            assert state.state in ("published", "smaller"), state
            lacks = re.sub(REMARKS, "", state.why)
            assert not lacks or lacks.startswith(OPTIONAL), state
        else:
            wanted, why = next(
                (name, of[table])
                for name, of in (("smaller", self.wanted.smaller), ("refused", self.wanted.refused))
                if table in of
            )
            assert state.state == wanted, state
            assert why in state.why, state
        assert bool(state.rows) == (table not in self.wanted.refused), state
        if not self.wanted.earlier:
            assert state.why in trial.said.output

    def test_the_checks_are_green(self, trial: Trial) -> None:
        absent = {*self.wanted.refused, *self.wanted.smaller}
        spared = NOTICES | {f"{table}: coverage" for table in absent}
        found = trial.failed_checks()
        assert {name: why for name, why in found.items() if name not in spared} == {}

    def test_predictions_meet_what_happened(self, trial: Trial) -> None:
        outcomes = trial.table(schema.PREDICTION_OUTCOMES.name)
        assert outcomes.is_empty() == (not self.wanted.earlier)
        if self.wanted.earlier:
            check_key(conform(outcomes, schema.PREDICTION_OUTCOMES), schema.PREDICTION_OUTCOMES)
            assert set(self.wanted.judged) <= set(outcomes["task"]), (
                outcomes["task"].unique().to_list()
            )
            assert nonsense(outcomes, money=True) == []

    def test_no_table_holds_nonsense(self, trial: Trial) -> None:
        problems = []
        for name, rows in trial.published().items():
            check_key(conform(rows, schema.PUBLISHED[name]), schema.PUBLISHED[name])
            problems += [
                f"{name}: {problem}" for problem in nonsense(rows, money=self.wanted.money)
            ]
        assert problems == []


NO_CAMPAIGN = {"ad_predictions": "no campaigns were dropped"}
NO_ITEM = {
    "recommendations": "says of which item it is: log item_id with",
    "item_to_item": "says of which item it is: log item_id with",
    "next_baskets": "it is made of recommendations, which was refused",
    "inventory_predictions": "says of which item it is: log item_id with",
}
"""Table → a piece of the refusal: without the table campaigns, and without items of conversions."""

OPTIONAL = "no row has a value in"
"""How a table begins to say which columns are null: those of stock, costs and the like."""
REMARKS = r"(; )?(\w+: )?(a score whose order holds, not its level: [^;]*|The baseline '.*)"
"""What is said of tasks whose probabilities are none, and at last of those without a model."""

NOTICES = {"clean_events: drift"}
"""Checks that tell a person of something unusual; small days are unusual often."""

MONEY = ("spend", "aov", "clv_", "value_", "discount_share")
MONEY += ("expected_spend", "expected_gain", "expected_revenue")
"""How the names of columns begin that hold currency units, or a share of them."""


def nonsense(rows: pl.DataFrame, *, money: bool) -> list[str]:
    """Say what no table may hold; money: whether the business tells any amount."""
    floats = [name for name, kind in rows.schema.items() if kind.is_float()]
    problems = [
        f"{name} holds {count} values that are no number"
        for name in floats
        if (count := rows.filter(~pl.col(name).is_finite()).height)
    ]
    problems += [
        f"{name} is no probability: {rows[name].min()} to {rows[name].max()}"
        for name in rows.columns
        if name.startswith(("p_", "base_rate", "stockout_prob", "propensity"))
        and rows.filter(~pl.col(name).is_between(0, 1)).height
    ]
    quantiles = [name for name in rows.columns if name[-4:-2] == "_p"]
    problems += [
        f"{low} is above {high}"
        for low, high in pairwise(quantiles)
        if low[:-3] == high[:-3] and rows.filter(pl.col(low) > pl.col(high) + 1e-9).height
    ]
    if not money:
        problems += [
            f"{name} holds money of a business without any"
            for name in floats
            if name.startswith(MONEY) and rows[name].drop_nulls().len()
        ]
    return problems
