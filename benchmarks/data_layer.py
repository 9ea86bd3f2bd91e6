"""Raw Parquet in S3 → clean → sequences → token shards: seconds and memory of every stage.

    python -m benchmarks.data_layer --events 1_000_000,10_000_000 --json out.json

For each size: an embedded storage server of its own below a temporary folder, the generated click
log (`benchmarks.click_log`) as 90 daily drops, then the pipeline's own functions, each stage in a
process of its own. At the end the counts are compared with the truth of the generator. Nothing
outside the temporary folder is touched, and the server is stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import UTC, date, datetime
from datetime import time as clock
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.click_log import FIRST_DAY, MAPPING, SOURCE, ClickLog, generate
from benchmarks.measure import Measured, deployment, machine, measure, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.tables import TableStore

LIMIT_MB = 4_000
MAX_EVENTS, MIN_USERS = 200, 5
TRUTH_KEY = "truth.json"


def land(objects: ObjectStore, _tables: TableStore, log: ClickLog) -> dict[str, Any]:
    """Generate the log straight into the bucket (not a stage of the pipeline)."""
    objects.put(f"sources/{SOURCE}.yaml", MAPPING.encode())
    size = 0

    def write(path: str, content: bytes) -> None:
        nonlocal size
        objects.put(f"drops/{SOURCE}/{path}", content)
        size += len(content)

    truth = generate(log, write)
    facts = {
        "rows": truth.rows,
        "files": truth.files,
        "megabytes": round(size / 1e6),
        "rows_read": truth.rows,
        "rows_kept": truth.kept,
        "rows_duplicate": truth.duplicates,
        "rows_quarantined": truth.quarantined,
    }
    objects.put(TRUTH_KEY, json.dumps(facts).encode())
    return facts


def ingest(objects: ObjectStore, tables: TableStore, _log: ClickLog) -> dict[str, Any]:
    """Drops → staged rows by day, with pseudonyms."""
    from seq_ml.clean.reference import publish_reference
    from seq_ml.ingest.ingest import ingest as take_in
    from seq_ml.settings import load_settings

    result = take_in(objects, tables, load_settings(), on_progress=_say)
    publish_reference(tables, "items")
    assert not result.refused, result.refused
    return {"files": result.files, **result.rows}


def clean(objects: ObjectStore, tables: TableStore, _log: ClickLog) -> dict[str, Any]:
    """Staged rows → clean days: rules, duplicates, bots, Great Expectations, Data Docs."""
    from seq_ml.clean.publish import publish_days
    from seq_ml.ingest.ledger import Ledger
    from seq_ml.settings import home, load_settings

    ledger = Ledger(tables)
    days = [date.fromisoformat(day) for day in ledger.unclean_partitions("events")]
    docs = home() / "site" / "docs"
    published = publish_days(tables, load_settings(), days, docs, on_progress=_say)
    failures = {str(d): published.verdicts[d].failed for d in published.failed}
    assert not failures, failures
    truth = json.loads(objects.get(TRUTH_KEY))
    counts = {n: int(published.counts[n].sum()) for n in published.counts.columns[1:]}
    wrong = {n: (counts[n], truth[n]) for n in counts if counts[n] != truth[n]}
    assert not wrong, f"(found, true): {wrong}"
    return counts


def sequences(_objects: ObjectStore, tables: TableStore, _log: ClickLog) -> dict[str, Any]:
    """Clean days → segments of every user and day."""
    from seq_ml.sequences.segments import update_sequences
    from seq_ml.settings import load_settings

    update = update_sequences(tables, load_settings(), on_progress=_say)
    return {"days": len(update.days), "events": update.events}


def vocabulary(objects: ObjectStore, tables: TableStore, log: ClickLog) -> dict[str, Any]:
    """Segments and items → the vocabulary."""
    from seq_ml.sequences.read import events_by_shard
    from seq_ml.tokens.store import update_vocabulary

    words, _ = update_vocabulary(
        objects,
        events_by_shard(tables, before=as_of(log)),
        tables.scan("items").collect(),
        before=as_of(log),
        min_users=MIN_USERS,
    )
    return {"tokens": len(words), "items": len(words.item_tokens)}


def shards(objects: ObjectStore, tables: TableStore, log: ClickLog) -> dict[str, Any]:
    """Segments → each user's newest events → token shards in the bucket."""
    from seq_ml.sequences.read import read_by_shard
    from seq_ml.settings import home
    from seq_ml.storage.artifacts import publish_folder
    from seq_ml.tokens.shards import MANIFEST, write_shards
    from seq_ml.tokens.store import newest_vocabulary

    words = newest_vocabulary(objects)
    assert words is not None
    folder = home() / "work" / "new_shards"
    sequences = read_by_shard(tables, as_of=as_of(log), max_events=MAX_EVENTS)
    manifest = write_shards(sequences, words, folder)
    names = [*(shard.file for shard in manifest.shards), MANIFEST]
    size = publish_folder(objects, "tokens/shards", manifest.version, folder, files=names)
    return {"users": manifest.users, "events": manifest.events, "megabytes": round(size / 1e6)}


STAGES: dict[str, Callable[[ObjectStore, TableStore, ClickLog], dict[str, Any]]] = {
    stage.__name__: stage for stage in (land, ingest, clean, sequences, vocabulary, shards)
}


def run_stage(name: str, log: ClickLog) -> None:
    """Do one stage in this process; the last line of output is its facts."""
    from seq_ml.settings import load_settings
    from seq_ml.storage import connect
    from seq_ml.storage.tables import TableStore

    objects = connect(load_settings())
    print(json.dumps(STAGES[name](objects, TableStore(objects), log)))


def run_size(log: ClickLog, folder: Path) -> list[tuple[str, Measured]]:
    """Measure every stage at one size."""
    done = []
    with deployment(folder, FIRST_DAY) as (environment, pid):
        for name in STAGES:
            command = [sys.executable, "-m", "benchmarks.data_layer", "--stage", name]
            command += ["--events", str(log.events), "--days", str(log.days)]
            measured = measure(command, environment, pid)
            done.append((name, measured))
            _say(f"{log.events:,} events, {name}: {measured.wall_s:.1f} s, {measured.facts}")
    return done


def show(sizes: dict[int, list[tuple[str, Measured]]]) -> str:
    """Lay out the stages of every size, and how time grew with the events."""
    parts = []
    for events, stages in sizes.items():
        rows: list[list[object]] = [
            [name, m.wall_s, m.cpu_s, m.server_cpu_s, m.peak_mb, m.server_mb, m.together_mb]
            for name, m in stages
        ]
        work = [m for name, m in stages if name != "land"]
        rows.append(
            [
                "pipeline",
                sum(m.wall_s for m in work),
                sum(m.cpu_s for m in work),
                sum(m.server_cpu_s for m in work),
                *(
                    max(getattr(m, n) for m in work)
                    for n in ("peak_mb", "server_mb", "together_mb")
                ),
            ]
        )
        headings = ["stage", "s", "CPU s", "server CPU s", "peak MB", "server MB", "together MB"]
        parts.append(f"### {events:,} events\n\n{table(headings, rows)}")
        most = max(m.together_mb for m in work)
        verdict = "within" if most <= LIMIT_MB else "OVER"
        parts.append(f"Peak of all processes {most:,.0f} MB: {verdict} {LIMIT_MB:,} MB.")
    names = [name for name in STAGES if name != "land"]
    growth = [
        [name, *(dict(stages)[name].cpu_s / events * 1e6 for events, stages in sizes.items())]
        for name in names
    ]
    growth.append(["pipeline", *(sum(row[i] for row in growth) for i in range(1, len(sizes) + 1))])
    headings = ["CPU s per million events", *(f"{events:,}" for events in sizes)]
    parts.append(f"### Growth\n\n{table(headings, growth)}")
    return "\n\n".join(parts)


def as_of(log: ClickLog) -> datetime:
    """Return the instant after the log's last day."""
    return datetime.combine(log.end, clock(), UTC)


_began = time.monotonic()


def _say(text: str) -> None:
    print(f"{time.monotonic() - _began:8.1f} s  {text}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--events", default="1_000_000", help="one size or several, with commas")
    parser.add_argument("--days", type=int, default=90)
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    logs = [ClickLog(int(size), given.days) for size in given.events.split(",")]
    if given.stage:
        run_stage(given.stage, logs[0])
        return
    about = machine()
    sizes = {}
    for log in logs:
        with tempfile.TemporaryDirectory(prefix="seqline-benchmark-", dir=given.folder) as folder:
            sizes[log.events] = run_size(log, Path(folder))
        if given.json:  # after each size: a long run that is cut off leaves what it measured
            numbers = {str(n): {k: asdict(m) for k, m in s} for n, s in sizes.items()}
            given.json.write_text(json.dumps({"machine": about, "sizes": numbers}, indent=1))
    print(json.dumps(about))
    print(show(sizes))


if __name__ == "__main__":
    main()
