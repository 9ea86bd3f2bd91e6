"""What a night costs: one more day of clean events after many, beside building everything anew.

    python -m benchmarks.sequences_increment --events 10_000_000 --days 90

A storage server of its own below a temporary folder gets `--days` days of clean events (50 to a
user, a long tail of users and items). Measured, each in a process of its own: a full rebuild of the
sequences, the update after one more day, the same for the local copies that the tasks read, and
reading a snapshot shard by shard. Seconds and CPU seconds are those of the call, without the start
of the process; the peak is the process's. At the end the updated table is compared with a rebuilt
one, through the checksum of a snapshot.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from benchmarks.measure import machine, measure, table
from seq_ml.schema import EVENTS, USER_SEQUENCES
from seq_ml.storage.tables import TableStore

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST_DAY = date(2025, 1, 1)
EVENTS_PER_USER, EVENTS_PER_ITEM = 50, 200
MAX_EVENTS = 200


def make_day(day: int, events: int, users: int, items: int) -> pl.DataFrame:
    """Clean events of one day, schema EVENTS; the same arguments give the same rows."""
    random = np.random.default_rng([7, day])
    who = np.minimum(random.pareto(1.2, events) * users * 0.02, users - 1).astype(np.uint64)
    what = np.minimum(random.pareto(1.0, events) * items * 0.01, items - 1).astype(np.int64)
    midnight = datetime.combine(FIRST_DAY + timedelta(days=day), datetime.min.time(), tzinfo=UTC)
    moment = np.sort(random.integers(0, 86_400_000, events)) * 1000
    spread = (who * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    frame = pl.DataFrame({"who": who, "spread": spread, "what": what, "moment": moment})
    frame = frame.select(
        event_id=pl.format("{}-{}", pl.lit(f"{day:04d}"), pl.int_range(pl.len())),
        user_id=_hex(pl.col("spread")) + _hex(pl.col("who")),
        event_type=pl.Series(["view", "add_to_cart", "purchase"]).gather(
            random.choice(3, events, p=[0.93, 0.045, 0.025])
        ),
        item_id=pl.format("sku-{}", pl.col("what").cast(str).str.zfill(7)),
        event_time=pl.lit(midnight) + pl.duration(microseconds="moment"),
        quantity=pl.lit(1.0),
        unit_price=pl.Series(np.round(random.lognormal(2, 1, events), 2)),
        event_date=pl.lit(FIRST_DAY + timedelta(days=day)),
    )
    missing = {n: t for n, t in EVENTS.polars_schema().items() if n not in frame.columns}
    frame = frame.with_columns(pl.lit(None, dtype=t).alias(n) for n, t in missing.items())
    return frame.select(pl.col(n).cast(t) for n, t in EVENTS.polars_schema().items())


def _hex(number: pl.Expr) -> pl.Expr:
    digits = [
        (number // 16**place % 16).cast(pl.UInt8).replace_strict(
            list(range(16)), list("0123456789abcdef"), return_dtype=pl.String
        )
        for place in reversed(range(16))
    ]  # fmt: skip
    return pl.concat_str(digits)


class Stages:
    """The measured calls, on the bucket and folder that the environment names."""

    def __init__(self, options: argparse.Namespace) -> None:
        from seq_ml.settings import home, load_settings
        from seq_ml.storage import connect

        self.options = options
        self.settings = load_settings()
        self.work = home() / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.tables = TableStore(connect(self.settings))

    def fill(self) -> dict[str, Any]:
        """Days of clean events."""
        for day in range(self.options.days):
            self._publish(day)
        return {"bytes": self.tables.size(EVENTS.name)}

    def rebuild(self) -> dict[str, Any]:
        """All segments from nothing."""
        self.tables.objects.delete_prefix(f"{self.tables.prefix}/{USER_SEQUENCES.name}/")
        return self._update()

    def copy(self) -> dict[str, Any]:
        """The local copies of all days, from nothing."""
        shutil.rmtree(self.work / "events", ignore_errors=True)
        return self._copy()

    def one_more_day(self) -> dict[str, Any]:
        """One more day of clean events (not measured: it is published by the clean stage)."""
        self._publish(self.options.days)
        return {}

    def update(self) -> dict[str, Any]:
        """The segments after one more day."""
        return self._update()

    def copy_again(self) -> dict[str, Any]:
        """The local copies after one more day."""
        return self._copy()

    def read(self) -> dict[str, Any]:
        """A snapshot at the end, shard by shard."""
        from seq_ml.sequences.read import read_by_shard

        end = datetime.combine(FIRST_DAY, datetime.min.time(), tzinfo=UTC)
        end += timedelta(days=self.options.days + 1)
        users = events = checksum = 0
        for part in read_by_shard(self.tables, as_of=end, max_events=MAX_EVENTS):
            users += part.height
            events += int(part["length"].sum())
            rows = part.select("user_id", "item_ids", "event_times", "total_events")
            checksum += int(rows.hash_rows(seed=1).sum()) % 2**61
        return {"users": users, "events": events, "checksum": checksum % 2**61,
                "bytes": self.tables.size(USER_SEQUENCES.name)}  # fmt: skip

    def _publish(self, day: int) -> None:
        per_day = self.options.events // self.options.days
        users = self.options.events // EVENTS_PER_USER
        frame = make_day(day, per_day, users, self.options.events // EVENTS_PER_ITEM)
        self.tables.overwrite_partitions(EVENTS, frame, [FIRST_DAY + timedelta(days=day)])

    def _update(self) -> dict[str, Any]:
        from seq_ml.sequences.segments import update_sequences

        done = update_sequences(self.tables, self.settings)
        return {"days": len(done.days), "events": done.events}

    def _copy(self) -> dict[str, Any]:
        from seq_ml.clean.local_copy import local_events

        local_events(self.tables, self.work)
        return {}


ORDER = ("fill", "rebuild", "copy", "one_more_day", "update", "copy_again", "read", "rebuild",
         "read")  # fmt: skip


def run_stage(name: str, options: argparse.Namespace) -> None:
    """Do one stage in this process; the last line of output is its facts."""
    stage: Callable[[], dict[str, Any]] = getattr(Stages(options), name)
    wall, cpu = time.monotonic(), time.process_time()
    facts = stage()
    facts |= {"wall_s": time.monotonic() - wall, "cpu_s": time.process_time() - cpu}
    print(json.dumps(facts))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--json", type=Path, help="File for the numbers.")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.stage:
        run_stage(options.stage, options)
        return
    from seq_ml.storage.server import EmbeddedServer

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        environment = {
            "SEQLINE_HOME": str(folder),
            "SEQLINE_BUCKET": "benchmark",
            **dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"), ""),
        }
        server = EmbeddedServer(folder / "server")
        server.start("benchmark")
        pid = json.loads(server.state_path.read_text())["pid"]
        found = []
        try:
            for name in ORDER:
                command = [sys.executable, "-m", "benchmarks.sequences_increment", "--stage", name]
                command += ["--events", str(options.events), "--days", str(options.days)]
                found.append((name, measure(command, environment, pid)))
                print(name, found[-1][1].facts, flush=True)
        finally:
            server.stop()
    facts = [measured.facts for _, measured in found]
    assert facts[6]["checksum"] == facts[8]["checksum"], "an update is not what a rebuild makes"
    print(machine())
    rows = [
        [name, m.facts["wall_s"], m.facts["cpu_s"], m.peak_mb, m.server_mb] for name, m in found
    ]
    print(table(["stage", "seconds", "CPU seconds", "peak MB", "server's peak MB"], rows))
    rebuild, increment = facts[7], facts[4]  # the rebuild of all days, the new one included
    ratios = {
        "update / rebuild, seconds": increment["wall_s"] / rebuild["wall_s"],
        "update / rebuild, CPU seconds": increment["cpu_s"] / rebuild["cpu_s"],
        "copy of one day / of all, seconds": facts[5]["wall_s"] / facts[2]["wall_s"],
    }
    for name, ratio in ratios.items():
        print(f"{name}: 1/{1 / ratio:.1f}")
    if options.json:
        options.json.write_text(json.dumps({"stages": facts, "ratios": ratios}, indent=1))


if __name__ == "__main__":
    main()
