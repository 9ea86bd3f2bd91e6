"""The same work by Seqline, DuckDB, pandas and a RecBole-style build, side by side in one run.

    python -m benchmarks.peers --events 10_000_000 --rounds 3 --duckdb-path FOLDER_WITH_DUCKDB_2

The work: read the raw Parquet files of 90 days (ids are texts, as a contract's are; 3 % of the rows
were sent twice, 1 % are bad), drop bad rows, keep each event_id once, order each user's events by
(event_time, event_id), keep the newest 200, write the result with one row per user. Each contender
runs as a process of its own on two threads, in turns (ABCD ABCD …), and all results are compared.

* seqline: the library's own functions (identities by day, daily segments, sequences), two runs of
  days or two parts of the users at a time.
* duckdb: one SQL statement, `COPY … TO`; of nine formulations the fastest on two cores.
* duckdb, integer ids: the same on integer event, user and item ids, for what texts cost.
* pandas: read_parquet, drop_duplicates, sort_values, groupby.
* recbole style: as RecBole's `Dataset` builds in memory: all columns, ids remapped to integers,
  sorted, one slice per user, padded arrays of 200.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, date, datetime, time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.click_log import FIRST_DAY, ClickLog, generate
from benchmarks.measure import Measured, machine, measure, table

if TYPE_CHECKING:
    from collections.abc import Callable

    import polars as pl

LONGEST = 200
SHARDS = 256
TYPES = ("view", "add_to_cart", "purchase")
COLUMNS = ("event_id", "user_id", "event_time", "event_type", "item_id", "unit_price")
LISTS = {
    "item_ids": "item_id",
    "event_types": "event_type",
    "event_times": "event_time",
    "unit_prices": "unit_price",
}
THREADS = 2
ROWS_AT_ONCE = 250_000
ROWS_OF_PART = 1_000_000


# --- the raw files --------------------------------------------------------------------------------


def write_raw(log: ClickLog, folder: Path) -> None:
    """Write `text/` and `integer/` below `folder`, each with a folder per UTC day of the event."""
    import polars as pl

    def write(path: str, content: bytes) -> None:
        if not path.startswith("days/") or not content:
            return
        rows = pl.read_parquet(io.BytesIO(content)).select(
            "event_id",
            "user_id",
            event_type=pl.col("event_type").replace("cart", "add_to_cart"),
            item_id="product_id",
            event_time=pl.col("event_time").cast(pl.Datetime("us", "UTC")),
            quantity=pl.lit(None, pl.Float64),
            unit_price="price",
            event_date=pl.col("event_time").dt.date(),
        )
        as_text = rows.with_columns(
            event_id=pl.format("clicks:{}", "event_id"),
            user_id=_pseudonym(pl.col("user_id")),
            item_id=pl.col("item_id").cast(pl.String),
        )
        name = path.removeprefix("days/").replace("/", "-")
        for kind, frame in (("integer", rows), ("text", as_text)):
            for (day,), part in frame.partition_by("event_date", as_dict=True).items():
                target = folder / kind / str(day) / name
                target.parent.mkdir(parents=True, exist_ok=True)
                part.write_parquet(target, compression="zstd", compression_level=1)

    generate(log, write)


def _pseudonym(user: pl.Expr) -> pl.Expr:
    """32 hex digits per user, made as the pipeline makes them."""
    import polars as pl
    from polars_hash import CryptographicHashingNameSpace as Hashes

    return Hashes(user.cast(pl.String)).hmac_sha256(key="00" * 32).str.slice(0, 32)


# --- the contenders -------------------------------------------------------------------------------


def seqline(raw: Path, out: Path, end: date) -> None:
    """Days in runs: once each, segments; then users in parts: the newest of each.

    Two runs, or parts, at a time; what is in memory follows ROWS_AT_ONCE, not the log.
    """
    import polars as pl

    from seq_ml.clean.rules.duplicates import id_hash
    from seq_ml.sequences.read import read_sequences
    from seq_ml.sequences.segments import build_segments

    until = datetime.combine(end, time(), UTC)
    sound = (
        pl.col("event_type").is_in(TYPES)
        & (pl.col("unit_price") >= 0)
        & pl.col("user_id").is_not_null()
        & (pl.col("event_time") < until)
    )
    runs, rows = _runs_of_days(raw, end)
    parts = [out.parent / f"part-{n:03d}" for n in range(min(SHARDS, -(-rows // ROWS_OF_PART)))]
    for folder in (out, *parts):
        folder.mkdir()

    def build(number: int) -> None:
        files = [day / "*.parquet" for day in runs[number]]
        events = pl.scan_parquet(files).filter(sound).collect()
        once = events.filter(events.select(id_hash()).to_series().is_first_distinct())
        segments = build_segments(once, shards=SHARDS)
        part = (pl.col("shard") * len(parts) // SHARDS).alias("part")
        for (which,), mine in segments.group_by(part):
            file = parts[which] / f"{number:05d}.parquet"
            mine.write_parquet(file, compression="lz4", statistics=False)

    class Part:
        """The segments of some users on this disk instead of the table in a bucket."""

        def __init__(self, folder: Path) -> None:
            self.folder = folder

        def scan(self, _name: str, *, version: int | None = None) -> pl.LazyFrame:
            del version
            return pl.scan_parquet(self.folder / "*.parquet")

    def read(folder: Path) -> None:
        found = read_sequences(Part(folder), as_of=until, max_events=LONGEST)  # type: ignore[arg-type]
        found.write_parquet(out / f"{folder.name}.parquet")

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(build, range(len(runs))))
        list(pool.map(read, parts))


def _runs_of_days(raw: Path, end: date) -> tuple[list[list[Path]], int]:
    """Cut the days of the log into runs of about ROWS_AT_ONCE rows; return them and all rows."""
    import polars as pl

    runs: list[list[Path]] = []
    total = held = 0
    for day in sorted(raw.iterdir()):
        if not FIRST_DAY.isoformat() <= day.name < end.isoformat():
            continue  # of a broken clock
        rows = pl.scan_parquet(day / "*.parquet").select(pl.len()).collect().item()
        if not runs or held + rows > ROWS_AT_ONCE:
            runs.append([])
            held = 0
        runs[-1].append(day)
        held += rows
        total += rows
    return runs, total


def duckdb(raw: Path, out: Path, end: date) -> None:
    """Answer with one statement, on a database on disk, so that it may spill."""
    import duckdb as engine

    database = engine.connect(str(out.parent / "work.duckdb"))
    database.execute(f"SET threads = {THREADS}; SET memory_limit = '{MEMORY_LIMIT}'")
    database.execute("SET preserve_insertion_order = false")
    types = ", ".join(f"'{name}'" for name in TYPES)
    packed = ", ".join(f"{n}: {n}" for n in ("event_time", "event_id", *COLUMNS[3:]))
    lists = ", ".join(f"list_transform(s, lambda x: x.{c}) AS {n}" for n, c in LISTS.items())
    out.mkdir()
    database.execute(f"""
        COPY (
            SELECT user_id, {lists} FROM (
                SELECT user_id, list_sort(list({{{packed}}})) AS s FROM (
                    SELECT * FROM (
                        SELECT DISTINCT {", ".join(COLUMNS)}
                        FROM read_parquet('{raw}/*/*.parquet')
                        WHERE event_type IN ({types}) AND unit_price >= 0 AND user_id IS NOT NULL
                          AND event_time >= TIMESTAMPTZ '{FIRST_DAY} 00:00:00Z'
                          AND event_time < TIMESTAMPTZ '{end} 00:00:00Z'
                    ) QUALIFY row_number() OVER (
                        PARTITION BY user_id ORDER BY event_time DESC, event_id DESC
                    ) <= {LONGEST}
                ) GROUP BY user_id
            )
        ) TO '{out}/result.parquet' (FORMAT parquet, COMPRESSION zstd)
    """)


def _pandas_rows(raw: Path, end: date) -> Any:
    import pandas as pd

    rows = pd.read_parquet(raw, columns=list(COLUMNS))
    begin, until = pd.Timestamp(FIRST_DAY, tz="UTC"), pd.Timestamp(end, tz="UTC")
    sound = (
        rows["event_type"].isin(TYPES)
        & (rows["unit_price"] >= 0)
        & rows["user_id"].notna()
        & (rows["event_time"] >= begin)
        & (rows["event_time"] < until)
    )
    return rows[sound].drop_duplicates("event_id")


def pandas(raw: Path, out: Path, end: date) -> None:
    """The usual few lines."""
    rows = _pandas_rows(raw, end).sort_values(["user_id", "event_time", "event_id"])
    newest = rows.groupby("user_id", sort=False).tail(LONGEST)
    columns = {name: (column, list) for name, column in LISTS.items()}
    out.mkdir()
    newest.groupby("user_id", sort=False).agg(**columns).reset_index().to_parquet(
        out / "result.parquet"
    )


def recbole(raw: Path, out: Path, end: date) -> None:
    """Everything in memory, ids remapped, one slice per user, padded to the longest."""
    import numpy as np
    import pandas as pd

    rows = _pandas_rows(raw, end)
    tokens = {}
    for column in ("user_id", "item_id", "event_type"):
        codes, tokens[column] = pd.factorize(rows[column])
        rows[column] = codes + 1  # 0 is the padding
    rows = rows.sort_values(["user_id", "event_time", "event_id"], ignore_index=True)
    users = rows["user_id"].to_numpy()
    starts = np.flatnonzero(np.r_[True, users[1:] != users[:-1]])
    ends = np.r_[starts[1:], len(users)]
    lengths = np.minimum(ends - starts, LONGEST)
    out.mkdir()
    np.save(out / "lengths.npy", lengths)
    for name, column in LISTS.items():
        values = rows[column].to_numpy()
        if column == "event_time":
            values = rows[column].dt.as_unit("us").astype("int64").to_numpy()
        padded = np.zeros((len(starts), LONGEST), values.dtype)
        for user, (last, length) in enumerate(zip(ends, lengths, strict=True)):
            padded[user, :length] = values[last - length : last]
        np.save(out / f"{name}.npy", padded)
    for column, names in tokens.items():
        pd.Series(names).to_frame(column).to_parquet(out / f"{column}.parquet")


CONTENDERS: dict[str, tuple[str, Callable[[Path, Path, date], None]]] = {
    "seqline": ("text", seqline),
    "duckdb": ("text", duckdb),
    "duckdb, integer ids": ("integer", duckdb),
    "pandas": ("text", pandas),
    "recbole style": ("text", recbole),
}
MEMORY_LIMIT = os.environ.get("PEERS_DUCKDB_MEMORY", "2GB")


# --- the comparison -------------------------------------------------------------------------------


def findings(out: Path) -> dict[str, int]:
    """Return what two equal results agree in, whatever their layout; not part of the time."""
    import numpy as np
    import polars as pl

    if (out / "lengths.npy").exists():
        lengths = np.load(out / "lengths.npy")
        times = np.load(out / "event_times.npy")
        prices = np.load(out / "unit_prices.npy")
        position = np.arange(LONGEST)
        real = position < lengths[:, None]
        assert (np.diff(times, axis=1)[real[:, 1:]] >= 0).all(), "not in order"
        return {
            "users": len(lengths),
            "events": int(lengths.sum()),
            "times": int(np.where(real, times // 1000, 0).sum() % 2**61),
            "cents": int(np.where(real, np.round(prices * 100), 0).astype(np.int64).sum()),
            "weighted": int((np.where(real, times // 1000 % 997, 0) * (position + 1)).sum()),
        }
    lists = pl.scan_parquet(out / "*.parquet").select("user_id", *LISTS)
    ms = pl.col("event_times").dt.epoch("ms")
    return (
        lists.with_columns(n=pl.int_ranges(1, pl.col("event_times").list.len() + 1))
        .select("user_id", "event_times", "unit_prices", "n")
        .explode("event_times", "unit_prices", "n")
        .select(
            users=pl.col("user_id").n_unique(),
            events=pl.len(),
            times=ms.sum() % 2**61,
            cents=(pl.col("unit_prices") * 100).round().cast(pl.Int64).sum(),
            weighted=(ms % 997 * pl.col("n")).sum(),
        )
        .collect(engine="streaming")
        .row(0, named=True)
    )


def run_round(name: str, raw: Path, end: date, duckdb_path: str) -> tuple[Measured, dict[str, int]]:
    """Run one contender once; return the measurement and its findings."""
    with tempfile.TemporaryDirectory(dir=raw) as work:
        out = Path(work) / "out"
        command = [sys.executable, "-m", "benchmarks.peers", "--contender", name]
        command += ["--raw", str(raw / CONTENDERS[name][0]), "--out", str(out), "--end", str(end)]
        environment = {
            "POLARS_MAX_THREADS": str(THREADS),
            "OMP_NUM_THREADS": str(THREADS),
            "ARROW_NUM_THREADS": str(THREADS),
        }
        if name.startswith("duckdb") and duckdb_path:
            before = os.environ.get("PYTHONPATH", "")
            environment["PYTHONPATH"] = os.pathsep.join(p for p in (duckdb_path, before) if p)
        measured = measure(command, environment)
        return measured, findings(out)


def show(rounds: dict[str, list[Measured]]) -> str:
    """Lay out medians, and each contender's ratio to Seqline round by round."""
    ours = rounds["seqline"]
    rows: list[list[object]] = []
    for name, runs in rounds.items():
        pairs = list(zip(runs, ours, strict=True))
        ratios = {
            n: sorted(getattr(a, n) / getattr(b, n) for a, b in pairs)
            for n in ("wall_s", "cpu_s", "peak_mb")
        }
        rows.append(
            [
                name,
                *(median(getattr(m, n) for m in runs) for n in ("wall_s", "cpu_s", "peak_mb")),
                *(f"{median(r):.2f} ({r[0]:.2f}–{r[-1]:.2f})" for r in ratios.values()),
            ]
        )
    headings = ["", "s", "CPU s", "peak MB", "s ÷ ours", "CPU s ÷ ours", "memory ÷ ours"]
    return table(headings, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", default=",".join(CONTENDERS).replace(", ", " "))
    parser.add_argument("--duckdb-path", default="", help="folder with another version of DuckDB")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    for name in ("--raw", "--out"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--end", type=date.fromisoformat, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.contender:
        CONTENDERS[given.contender][1](given.raw, given.out, given.end)
        engine = sys.modules.get("duckdb")
        print(json.dumps({"duckdb": engine.__version__} if engine else {}))
        return
    chosen = [n for n in CONTENDERS if n.replace(", ", " ") in given.contenders.split(",")]
    log = ClickLog(given.events)
    about = machine()
    rounds: dict[str, list[Measured]] = {name: [] for name in chosen}
    agreed: dict[str, int] | None = None
    with tempfile.TemporaryDirectory(prefix="seqline-peers-", dir=given.folder) as folder:
        write_raw(log, Path(folder))
        for number in range(given.rounds):
            for name in chosen:
                measured, found = run_round(name, Path(folder), log.end, given.duckdb_path)
                agreed = agreed or found
                assert found == agreed, f"{name} found {found}, the first {agreed}"
                rounds[name].append(measured)
                line = f"{measured.wall_s:.1f} s, {measured.cpu_s:.1f} CPU s"
                print(f"{number + 1} {name}: {line}, {measured.peak_mb:,.0f} MB", file=sys.stderr)
    used = next((m.facts["duckdb"] for m in rounds.get("duckdb", ())), None)
    if given.json:
        numbers = {name: [asdict(m) for m in runs] for name, runs in rounds.items()}
        result = {"machine": about, "events": log.events, "result": agreed, "rounds": numbers}
        given.json.write_text(json.dumps(result, indent=1))
    print(json.dumps({**about, "duckdb used": used}))
    print(f"All agree: {agreed}\n\n{show(rounds)}")


if __name__ == "__main__":
    main()
