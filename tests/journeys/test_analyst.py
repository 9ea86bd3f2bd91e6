"""What analysts do, as docs/tables.md says it: every example runs, own ids come back."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest

from seq_ml import schema
from seq_ml.privacy.pseudonyms import Pseudonyms
from seq_ml.schema import PREDICTION_OUTCOMES, reference
from seq_ml.storage.contracts import conform
from seq_ml.storage.tables import TableStore
from seq_ml.tables.publish import checked, publish_snapshot
from seq_ml.tables.read import (
    NoSuchTableError,
    export_table,
    list_published,
    read_table,
    with_own_ids,
)
from seq_ml.tasks.registered import published_tables
from tests import ROOT
from tests.shop import SETTINGS

if TYPE_CHECKING:
    from seq_ml.storage.objects import ObjectStore

PAGE = (ROOT / "docs" / "tables.md").read_text().partition(reference.BEGIN)[0]
"""Of docs/tables.md what is written by hand."""
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
DAYS = (datetime(2024, 6, 3, tzinfo=UTC), datetime(2024, 6, 10, tzinfo=UTC))
USERS = ("anna", "böle", "7")
TABLES = {**published_tables(), PREDICTION_OUTCOMES.name: PREDICTION_OUTCOMES}


def rows(table: schema.Table, users: pl.Series, as_of: datetime) -> pl.DataFrame:
    """One row per user that fits the contract; what a column means does not matter here."""

    def value(column: schema.Column) -> pl.Expr:
        if column.nullable:
            return pl.lit(None)
        if column.allowed:
            return pl.lit(column.allowed[0])
        return {
            "str": pl.format("{}-{}", pl.lit(column.name), pl.int_range(pl.len())),
            "bool": pl.lit(value=True),
            "datetime": pl.lit(as_of),
            "date": pl.lit(as_of.date()),
        }.get(column.dtype, pl.lit([]) if column.dtype.startswith("list") else pl.lit(1))

    columns = {c.name: value(c) for c in table.columns}
    columns |= {
        n: pl.lit(v) for n, v in {"risk_band": "high", "segment": "new"}.items() if n in columns
    }
    if "tags" in columns:
        one = pl.struct(
            tag=pl.lit("many_stores"),
            evidence=pl.lit("4 stores"),
            event_ids=pl.concat_list(pl.format("e-{}", "who")),
        )
        columns["tags"] = pl.concat_list(one)
    frame = users.alias("who").to_frame()
    if "user_id" in columns:
        columns["user_id"] = pl.col("who")
    schema_of = table.polars_schema()
    return conform(frame.select(e.cast(schema_of[n]).alias(n) for n, e in columns.items()), table)


@pytest.fixture(scope="module")
def shop(server, tmp_path_factory) -> ObjectStore:
    """A bucket in which every table is published twice, and the events behind the tags."""
    from dataclasses import replace

    from seq_ml.storage.objects import ObjectStore

    objects = ObjectStore(replace(server, bucket="analyst"))
    objects.check(create=True)
    objects.put("sources/shop.yaml", b"name: shop\nbusiness: {timezone: UTC}\nfiles: []\n")
    tables, pseudonyms = TableStore(objects), Pseudonyms(objects, SETTINGS)
    met = pseudonyms.apply(pl.DataFrame({"user_id": USERS}))["user_id"]
    pseudonyms.remember()
    for as_of in DAYS:
        for table in TABLES.values():
            part = checked(rows(table, met, as_of), table).lazy()
            publish_snapshot(tables, table, [part], as_of)
    events = rows(schema.EVENTS, met, DAYS[0]).with_columns(
        event_id=pl.format("e-{}", "user_id"), event_type=pl.lit("coupon_redeem")
    )
    tables.append("clean_events", events)
    return objects


@pytest.mark.parametrize("name", list(TABLES))
def test_every_table_comes_with_own_ids(shop, tmp_path, name):
    found = read_table(shop, SETTINGS, name)
    assert found.height == len(USERS)
    assert found["as_of"].unique().to_list() == [DAYS[1]]
    assert found.schema == TABLES[name].polars_schema()
    if "user_id" in found.columns:
        assert set(found["user_id"]) == set(USERS)
    earlier = read_table(shop, SETTINGS, name, date(2024, 6, 3))
    assert earlier["as_of"].unique().to_list() == [DAYS[0]]
    out = tmp_path / "new folder" / "t.parquet"
    assert export_table(shop, SETTINGS, name, out) == len(USERS)
    assert pl.read_parquet(out).equals(found)


def test_what_is_not_there_is_said_with_what_is(shop):
    with pytest.raises(NoSuchTableError, match=r"table 'churn'; there are: .*churn_"):
        read_table(shop, SETTINGS, "churn")
    with pytest.raises(NoSuchTableError, match=r"as of 2024-06-04; .*2024-06-03"):
        read_table(shop, SETTINGS, "user_profiles", date(2024, 6, 4))
    assert [row["name"] for row in list_published(shop)] == list(TABLES)


def test_a_pseudonym_without_a_way_back_stays(shop):
    unknown = pl.DataFrame({"user_id": ["f" * 32], "n": [1]})
    assert with_own_ids(shop, SETTINGS, unknown).equals(unknown)
    items = pl.DataFrame({"item_id": ["tea"]})
    assert with_own_ids(shop, SETTINGS, items).equals(items)


def test_the_examples_of_the_page_run(shop, monkeypatch):
    config = shop.config
    for name, value in {
        "AWS_ACCESS_KEY_ID": config.access_key,
        "AWS_SECRET_ACCESS_KEY": config.secret_key,
        "AWS_REGION": config.region,
        "AWS_ENDPOINT_URL": config.endpoint,
        "AWS_ALLOW_HTTP": "true",
        "SEQLINE_BUCKET": shop.bucket,
        "SEQLINE_PSEUDONYM_KEY": SETTINGS.pseudonym_key.get_secret_value(),
    }.items():
        monkeypatch.setenv(name, value)
    found = {}
    for example in EXAMPLES:
        scope: dict[str, object] = {}
        exec(example.replace("s3://seqline/", f"s3://{shop.bucket}/"), scope)
        found |= scope
    assert found["risky"].height == len(USERS)
    assert len(found["worth"]) == len(DAYS)
    assert found["segments"]["users"].tolist() == [len(USERS)]
    assert set(found["mine"]["user_id"]) == set(USERS)
    assert set(found["redeemed"]["user_id"]) == set(USERS)
    assert found["by_snapshot"].is_empty(), "rows of this shop are of another task"
    assert found["evidence"]["event_type"].to_list() == ["coupon_redeem"] * len(USERS)


def test_every_column_that_can_be_null_says_when():
    silent = [
        f"{table.name}.{column.name}"
        for table in TABLES.values()
        for column in table.columns
        if column.nullable and "null" not in column.description.lower()
    ]
    assert not silent, f"seq_ml/schema/published does not say when these are null: {silent}"


def test_the_page_names_every_table_and_every_common_column():
    missing = [f"`{name}`" for name in TABLES if f"`{name}`" not in PAGE]
    missing += [c.name for c in schema.STAMP if f"| `{c.name}` |" not in PAGE]
    assert not missing, f"docs/tables.md lacks {missing}"
