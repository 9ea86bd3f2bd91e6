"""A night with one new day on Complete Journey, and the demo before it: CPU-seconds of either.

    python -m benchmarks.night FOLDER

FOLDER keeps the deployment. The first call runs the demo there; each call lands one more day (the
newest one, moved by a day) and does what the sensors and the schedule of the daily tables do then:
ingest it, clean it, publish all tables with the champions; nothing is trained. The time of all
processes but the storage server counts, user and system, their start included; landing does not.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import shutil
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from benchmarks.measure import deployment, measure, table
from seq_ml.settings import FIRST_DAY, project_root
from seq_ml.storage.objects import ObjectStore
from seq_ml.storage.server import EmbeddedServer

if TYPE_CHECKING:
    from collections.abc import Mapping

DAYS = "drops/completejourney/days/"
FILE, TIME = "transactions.parquet", "transaction_time"


def land_day(objects: ObjectStore) -> date:
    """Drop the newest day again, as that of the next one; return it."""
    newest = max(info.key for info in objects.list(DAYS) if info.key.endswith(FILE))
    day = date.fromisoformat(newest.removeprefix(DAYS).split("/")[0]) + timedelta(days=1)
    rows = pl.read_parquet(objects.get(newest)).with_columns(pl.col(TIME).dt.offset_by("1d"))
    file = io.BytesIO()
    rows.write_parquet(file)
    objects.put(f"{DAYS}{day}/{FILE}", file.getvalue())
    objects.put(f"{DAYS}{day}/_SUCCESS", b"")
    return day


def night() -> dict[str, float]:
    """Do what a night does; return the CPU-seconds of its parts."""
    from seq_assets.cli import terminal
    from seq_assets.cli.driver import Driver

    with terminal.instance() as instance:
        driver, began = Driver(instance, terminal.say), _cpu()
        driver.settle()
        settled = _cpu()
        driver.execute("daily_tables")
    return {"start": began, "ingest, clean": settled - began, "tables": _cpu() - settled}


def _cpu() -> float:
    """CPU-seconds of this process and of those that it waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _demo(here: list[str], environment: Mapping[str, str], server: int, done: Path) -> float:
    """Return the CPU-seconds of the demo, which is run where it was not run yet."""
    if not done.exists():
        took = measure([*here, "--do", "demo"], environment, server)
        done.write_text(json.dumps(took.cpu_s))
    return float(json.loads(done.read_text()))


def main() -> None:
    """Run the demo where it was not run yet, then a night; print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--do", choices=["demo", "night"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.do == "night":
        print(json.dumps(night()))
        return
    if arguments.do == "demo":
        from seq_assets.cli.app import demo

        demo()
        print("{}")
        return
    folder = arguments.folder.resolve()
    dagster_home = folder / "dagster_home"
    dagster_home.mkdir(parents=True, exist_ok=True)
    shutil.copy(project_root() / "dagster_home" / "dagster.yaml", dagster_home)
    with deployment(folder, FIRST_DAY) as (environment, server):
        environment["DAGSTER_HOME"] = str(dagster_home)
        here = [sys.executable, "-m", "benchmarks.night", str(folder)]
        whole = _demo(here, environment, server, folder / "demo.json")
        day = land_day(ObjectStore(EmbeddedServer(folder / "server").config("benchmark")))
        took = measure([*here, "--do", "night"], environment, server)
    parts = [(f"{day}: {name}", f"{cpu:.1f}") for name, cpu in took.facts.items()]
    rows = [("demo", f"{whole:.0f}"), *parts, (f"{day}: in all", f"{took.cpu_s:.1f}")]
    print(table(("", "CPU s"), rows))
    print(f"The demo takes {whole / took.cpu_s:.1f} times as much; peak {took.peak_mb:.0f} MB.")


if __name__ == "__main__":
    main()
