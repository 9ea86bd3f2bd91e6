"""The whole graph once, as a user runs it: `seqline run` on a folder of their own files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import dagster as dg
import polars as pl
import pytest

from seq_assets.cli.driver import _errors, _Lines
from seq_assets.definitions import defs
from seq_assets.resources import Storage
from seq_ml import schema
from seq_ml.erasure.search import Needle, search_bucket, search_folder
from seq_ml.ingest.ledger import Ledger
from seq_ml.sources import completejourney
from seq_ml.storage.contracts import check_key, conform
from seq_ml.storage.objects import ObjectStore, StorageConfig
from seq_ml.storage.tables import TableStore
from seq_ml.tables.states import recorded_state
from tests import ROOT
from tests.data import raw

HOUSEHOLDS = 60
STORES = (367, 406, 429)


class Shop:
    """A user's folder of files, an instance and a bucket of their own."""

    def __init__(self, root: Path, server: StorageConfig) -> None:
        self.root = root
        self.files = root / "files"
        self.mapping = root / "shop.yaml"
        text = completejourney.mapping_text().replace("name: completejourney", "name: shop")
        self.mapping.write_text(text)
        self.bucket = "graph-test"
        self.objects = ObjectStore(StorageConfig(**{**vars(server), "bucket": self.bucket}))
        self.objects.check(create=True)
        self.tables = TableStore(self.objects)
        (root / "dagster").mkdir()
        source = ROOT / "dagster_home" / "dagster.yaml"
        (root / "dagster" / "dagster.yaml").write_text(source.read_text())
        self.environment = {
            **os.environ,
            "SEQLINE_HOME": str(root / "home"),
            "DAGSTER_HOME": str(root / "dagster"),
            "SEQLINE_BUCKET": self.bucket,
            "SEQLINE_PRESET": "tiny",
            "SEQLINE_SHARDS": "2",
            "SEQLINE_FIRST_DAY": "2016-11-01",
            "SEQLINE_PSEUDONYM_KEY": "ab" * 32,
            "AWS_ACCESS_KEY_ID": server.access_key,
            "AWS_SECRET_ACCESS_KEY": server.secret_key,
            "AWS_ENDPOINT_URL": str(server.endpoint),
        }

    def write_files(self) -> None:
        """Put the first households' year into the folder."""
        users = raw("transactions").select("household_id").unique().sort("household_id")
        chosen = users.head(HOUSEHOLDS).collect()["household_id"].to_list()
        bought = raw("transactions").filter(pl.col("household_id").is_in(chosen))
        items = bought.select("product_id").unique().collect()["product_id"].to_list()
        for _, path, content in completejourney.write_days(chosen):
            self._write(path, content)
        for path, content in completejourney.write_reference(items, list(STORES)):
            self._write(path, content)

    def seqline(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command and return what it said."""
        return subprocess.run(
            [str(Path(sys.executable).with_name("seqline")), *arguments],
            capture_output=True, text=True, env=self.environment, check=False,
        )  # fmt: skip

    def run(self) -> subprocess.CompletedProcess[str]:
        """`seqline run` on the folder."""
        return self.seqline("run", "--source", str(self.mapping), str(self.files))

    def _write(self, path: str, content: bytes) -> None:
        target = self.files / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


@pytest.fixture(scope="module")
def shop(server: StorageConfig, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """The pipeline, run once."""
    made = Shop(tmp_path_factory.mktemp("shop"), server)
    made.write_files()
    done = made.run()
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def snapshot(shop: Shop, name: str) -> pl.DataFrame:
    """A table's content apart from what differs between any two runs."""
    frame = shop.tables.scan(name).collect()
    return frame.drop([c for c in ("run_id", "created_at") if c in frame.columns])


@pytest.mark.parametrize("name", list(schema.PUBLISHED))
def test_published_tables_keep_their_contract(shop: Shop, name: str) -> None:
    table = schema.PUBLISHED[name]
    rows = shop.tables.scan(name).collect()
    assert rows.height > 0
    assert rows.schema == table.polars_schema()
    check_key(conform(rows, table), table)


def test_recommendations_cover_every_user(shop: Shop) -> None:
    users = set(shop.tables.scan("clean_events").select("user_id").unique().collect()["user_id"])
    recommended = shop.tables.scan("recommendations").collect()
    assert set(recommended["user_id"]) == users
    no_goods = shop.tables.scan("items").filter(~pl.col("is_merchandise")).collect()["item_id"]
    assert not recommended["item_id"].is_in(no_goods.implode()).any()


def test_every_row_of_every_drop_is_accounted_for(shop: Shop) -> None:
    ledger = Ledger(shop.tables).current()
    assert set(ledger["status"]) == {"clean"}
    parts = ledger.select(pl.sum_horizontal("rows_kept", "rows_duplicate", "rows_quarantined"))
    assert (parts.to_series() == ledger["rows_read"]).all()
    kept = ledger.filter(pl.col("table") == "events")["rows_kept"].sum()
    assert shop.tables.scan("clean_events").select(pl.len()).collect().item() == kept


def test_no_source_id_leaves_the_identity_table(shop: Shop) -> None:
    users = shop.tables.scan("clean_events").select("user_id").unique().collect()["user_id"]
    assert users.str.contains("^[0-9a-f]{32}$").all()


def test_nothing_that_dagster_keeps_and_no_page_names_a_user(shop: Shop) -> None:
    users = shop.tables.scan("clean_events").select("user_id").unique().collect()["user_id"]
    needle = Needle.of(*users)
    assert search_folder(shop.root / "dagster", needle) == {}
    assert search_folder(shop.root / "home" / "site", needle) == {}
    assert search_bucket(shop.objects, needle, shop.root, prefix="site/") == {}


def test_an_analyst_reads_the_tables_with_duckdb_and_pandas(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    import duckdb
    from deltalake import DeltaTable

    table = DeltaTable(shop.tables.uri("churn_predictions"), storage_options=shop.objects.options)
    frame = table.to_pandas()
    assert set(frame["label_def"]) == {"silence", "decline"}
    arrow = table.to_pyarrow_table()  # noqa: F841, DuckDB reads the variable
    found = duckdb.sql("select count(*), max(p_churn) from arrow").fetchone()
    assert found is not None
    assert found[0] == len(frame)
    assert 0 <= found[1] <= 1


def test_export_gives_the_users_own_ids(shop: Shop, tmp_path: Path) -> None:
    out = tmp_path / "recs.parquet"
    done = shop.seqline("export", "recommendations", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    households = raw("transactions").select("household_id").unique().collect()["household_id"]
    own = {str(household) for household in households}
    assert set(pl.read_parquet(out)["user_id"]) <= own


def test_tables_lists_what_is_published(shop: Shop) -> None:
    done = shop.seqline("tables", "--json")
    listed: list[dict[str, Any]] = json.loads(done.stdout)
    assert [row["name"] for row in listed] == [*schema.PUBLISHED, "prediction_outcomes"]
    assert all(row["uri"].startswith("s3://") for row in listed)
    assert all(row["rows"] > 0 for row in listed if row["name"] in schema.PUBLISHED)


def test_a_second_run_changes_nothing(shop: Shop) -> None:
    before = {name: shop.tables.version(name) for name in ("clean_events", *schema.PUBLISHED)}
    done = shop.run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "up to date" in done.stdout
    after = {name: shop.tables.version(name) for name in before}
    assert after == before


def test_no_table_speaks_of_what_came_after_as_of(shop: Shop) -> None:
    as_of = snapshot(shop, "recommendations")["as_of"].unique().item()
    profiles = snapshot(shop, "user_profiles")
    assert (profiles["last_order_at"].drop_nulls() < as_of).all()


def test_reports_name_baselines_and_intervals(shop: Shop) -> None:
    from seq_ml.tasks.registered import task_names

    for name in task_names():
        pointer = json.loads(shop.objects.get(f"models/{name}/challenger.json"))
        if pointer["version"] is None:
            assert pointer["reason"]
            continue
        key = f"models/{name}/{pointer['version']}/metrics.json"
        metrics = json.loads(shop.objects.get(key))
        judged = [c for c in metrics["candidates"] if c["test"]]
        assert any(c["is_baseline"] for c in judged)
        for candidate in judged:
            assert {"value", "low", "high"} <= set(candidate["test"][metrics["primary_metric"]])


FAILING = ("encoder_ladder", "judge_spend", "judge_churn_decline")


@pytest.fixture(scope="module")
def bad_night(shop: Shop) -> tuple[dg.ExecuteInProcessResult, dg.DagsterInstance]:
    """The next run, in which some steps fail."""
    from seq_ml.registry import rounds

    def broken(*_: object, **__: object) -> NoReturn:
        raise RuntimeError("the card is on fire")

    judge, bad = rounds.judge, ("spend", "churn_decline")
    kept = ("cut_offs", "user_sequences", "vocabulary", "token_shards", "encoder_ladder",
            "user_embeddings", "item_embeddings", "sequence_predictions",
            *(f"{task}_{part}" for task in ("spend", "churn_decline", "churn_silence")
              for part in ("examples", "model", "report")))  # fmt: skip
    instance = dg.DagsterInstance.ephemeral()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in shop.environment.items():
            patch.setenv(name, value)
        patch.setattr("seq_ml.encoder.ladder.climbing.climb", broken)
        patch.setattr(rounds, "judge", lambda objects, task, *rest, **more: (
            broken() if task.name in bad else judge(objects, task, *rest, **more)))  # fmt: skip
        result = dg.materialize(
            list(defs.assets or []),
            selection=dg.AssetSelection.assets(*kept) | dg.AssetSelection.groups("tables"),
            resources={"storage": Storage()},
            instance=instance,
            raise_on_error=False,
        )
    return result, instance


def test_steps_that_fail_stop_no_table(
    shop: Shop, bad_night: tuple[dg.ExecuteInProcessResult, dg.DagsterInstance]
) -> None:
    result, _ = bad_night
    assert not result.success
    assert {e.step_key for e in result.all_events if e.is_step_failure} == set(FAILING)
    for name in schema.PUBLISHED:
        state = recorded_state(shop.objects, name)
        assert state is not None
        assert (state.run_id, state.state in ("published", "smaller")) == (result.run_id, True)
        assert state.rows == snapshot(shop, name).filter(as_of=state.as_of).height > 0
    began = [e.step_key for e in result.all_events if e.event_type_value == "STEP_START"]
    assert began.index("encoder_ladder") < began.index("user_embeddings")
    made = {e.asset_key.to_user_string() for e in result.all_events if e.is_step_materialization}
    assert "churn_silence_report" in made, "another task's judgement is promoted and told"
    assert "user_embeddings" in made, "with the encoder of the run before"
    assert "sequence_predictions" in made, "with the rungs of the run before"
    assert "encoder_ladder" not in made


def test_the_command_names_each_step_that_failed_and_no_cascade(
    bad_night: tuple[dg.ExecuteInProcessResult, dg.DagsterInstance],
) -> None:
    result, instance = bad_night
    head, *lines = _errors(instance, result.run_id).splitlines()
    assert head == "3 steps failed; what does not need them was done:"
    assert set(lines) == {f"  {step}: the card is on fire" for step in FAILING}
    of = _Lines().of
    said = [line for entry in instance.all_logs(result.run_id) if (line := of(entry))]
    assert {f"  ✗ {step}" for step in FAILING} == {line for line in said if "✗" in line}
    assert not [line for line in said if "Not executing" in line or "Skipping step" in line]
