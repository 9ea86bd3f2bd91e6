"""2,000 small drops in one backlog: how long a sensor's tick takes, and whether all are taken in.

    python -m benchmarks.backlog --drops 2000

A storage server of its own below a temporary folder. Half of the drops wait; the other half lands
while the first half is being ingested. Every request of the sensors is answered by what the
requested run does, until nobody asks for more. Then the staged rows and the ledger are compared
with what was dropped, and the clean days with the truth of the generator.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import threading
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from benchmarks.click_log import FIRST_DAY, MAPPING, SOURCE, ClickLog, Truth, generate
from benchmarks.measure import deployment, machine, measure

if TYPE_CHECKING:
    import dagster as dg

    from seq_ml.storage.objects import ObjectStore

ROWS_PER_DROP = 50
DAYS = 14
LIMIT_S = 10


def drops(count: int) -> tuple[list[tuple[str, bytes]], Truth]:
    """Cut a click log into `count` files of ROWS_PER_DROP rows, in the order of arrival."""
    parts: list[pl.DataFrame] = []

    def keep(path: str, content: bytes) -> None:
        if path.startswith("days/") and content:
            parts.append(pl.read_parquet(io.BytesIO(content)))

    truth = generate(ClickLog(count * ROWS_PER_DROP, DAYS), keep)
    rows = pl.concat(parts)
    files = []
    for number in range(count):
        buffer = io.BytesIO()
        rows.slice(number * ROWS_PER_DROP, ROWS_PER_DROP).write_parquet(buffer)
        files.append((f"drops/{SOURCE}/days/{number:05d}/clicks.parquet", buffer.getvalue()))
    return files, truth


def work(count: int) -> dict[str, Any]:
    """Land, tick and ingest in this process; return what was seen."""
    import dagster as dg

    from seq_assets.resources import Storage
    from seq_ml.clean.publish import publish_days
    from seq_ml.ingest.ingest import ingest
    from seq_ml.ingest.ledger import Ledger
    from seq_ml.settings import home

    storage = Storage()
    objects, tables = storage.objects, storage.tables
    files, truth = drops(count)
    seen: dict[str, Any] = {"ticks": [], "ingests": []}
    objects.put(f"sources/{SOURCE}.yaml", MAPPING.encode())
    half = count // 2
    _land(objects, files[:half])
    with dg.DagsterInstance.ephemeral() as instance:
        later = threading.Thread(target=_land, args=(objects, files[half:]))
        later.start()
        while _tick(instance, "drop_sensor", seen):
            began = time.monotonic()
            done = ingest(objects, tables, storage.settings, on_progress=_say)
            assert not done.refused, done.refused
            seen["ingests"].append({"files": done.files, "s": time.monotonic() - began})
            later.join()
        days = [date.fromisoformat(day) for day in Ledger(tables).unclean_partitions("events")]
        requested = _tick(instance, "day_sensor", seen)
        assert requested
        began = time.monotonic()
        published = publish_days(tables, storage.settings, days, home() / "docs", on_progress=_say)
        assert not published.failed, published.failed
        seen["clean_s"] = time.monotonic() - began
        assert not _tick(instance, "day_sensor", seen)
        assert not _tick(instance, "drop_sensor", seen)
    ledger = Ledger(tables).current()
    staged = tables.scan("staged_events").group_by("source_file").len().collect()
    assert set(ledger["key"]) == {key for key, _ in files}, "a drop was missed"
    assert staged["len"].unique().to_list() == [ROWS_PER_DROP], "rows were missed or doubled"
    assert staged.height == count
    assert ledger["status"].unique().to_list() == ["clean"]
    found = ledger.select("rows_read", "rows_kept", "rows_duplicate", "rows_quarantined").sum()
    true = (truth.rows, truth.kept, truth.duplicates, truth.quarantined)
    assert found.row(0) == true, f"found {found.row(0)}, true {true}"
    return {"drops": count, **seen}


def _land(objects: ObjectStore, files: list[tuple[str, bytes]]) -> None:
    for key, body in files:
        objects.put(key, body)


def _tick(instance: dg.DagsterInstance, sensor: str, seen: dict[str, Any]) -> int:
    """Evaluate a sensor once, as the daemon does; return how many runs it requests."""
    import dagster as dg

    from seq_assets.definitions import defs
    from seq_assets.resources import Storage

    began = time.monotonic()
    context = dg.build_sensor_context(instance=instance, resources={"storage": Storage()})
    result = defs.resolve_sensor_def(sensor).evaluate_tick(context)
    requests = result.run_requests or []
    seconds = time.monotonic() - began
    seen["ticks"].append({"sensor": sensor, "s": seconds, "requests": len(requests)})
    _say(f"{sensor}: {seconds:.2f} s, {len(requests)} runs requested")
    return len(requests)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--drops", type=int, default=2_000)
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        print(json.dumps(work(given.drops)))
        return
    about = machine()
    with (
        tempfile.TemporaryDirectory(prefix="seqline-backlog-", dir=given.folder) as folder,
        deployment(Path(folder), FIRST_DAY) as (environment, pid),
    ):
        command = [sys.executable, "-m", "benchmarks.backlog", "--work"]
        measured = measure([*command, "--drops", str(given.drops)], environment, pid)
    slowest = max(tick["s"] for tick in measured.facts["ticks"])
    print(json.dumps({**about, **measured.facts}, indent=1))
    print(
        f"{given.drops:,} drops: slowest tick {slowest:.2f} s "
        f"({'within' if slowest < LIMIT_S else 'OVER'} {LIMIT_S} s), none missed, none doubled; "
        f"peak {measured.peak_mb:,.0f} MB"
    )


if __name__ == "__main__":
    main()
