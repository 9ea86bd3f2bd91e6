"""Continue from the last encoder, or train from scratch? Quality, forgetting and seconds.

Complete Journey, all households. An encoder is trained from scratch before 2017-09-01; from there
it is continued month by month, each time from the one before, with and without replay of old
windows, and compared with one trained from scratch on the same data. Nothing is fitted on the month
that it is judged on.

    python -m benchmarks.warm_start WORK [--preset small] [--replay 0 0.5] [--seed 7]

WORK keeps what was trained; a second call goes on where the first one stopped. The last lines are
the table of docs/benchmarks-quality.md.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq_ml.encoder.config import load_config
from seq_ml.encoder.evaluation.report import forgotten, paired_ndcg
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.pretrain import pretrain
from seq_ml.sequences.build import build_sequences
from seq_ml.tokens.shards import MANIFEST, write_shards
from seq_ml.tokens.vocabulary import Vocabulary
from tests.data import journey

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from seq_ml.encoder.config import EncoderConfig

CUTS = [datetime(2017, month, 1, 5, tzinfo=UTC) for month in (9, 10, 11)]
HOUSEHOLDS = 2500
SHARDS = 4
CPU_SECONDS = "cpu_seconds"
"""File beside an encoder; counts only the last piece of a training that was interrupted."""


@dataclass(frozen=True)
class Judged:
    """One encoder at one cut-off.

    steps, best_step, cpu_seconds: of its training.  month: NDCG@10 of the month after, and the lead
    over the one from scratch.  old: before and after on the month before the first cut-off; None
    when it was not trained again.
    """

    cut: datetime
    name: str
    steps: int
    best_step: int
    cpu_seconds: float
    month: dict[str, Any]
    old: dict[str, Any] | None


def write_data(work: Path, config: EncoderConfig) -> None:
    """Write the vocabulary, extended from cut-off to cut-off, and the shards of each."""
    data = journey(HOUSEHOLDS)
    events = data["clean_events"].lazy()
    words: Vocabulary | None = None
    for cut in CUTS:
        if words is None:
            words = Vocabulary.fit([events], data["items"], before=cut, min_users=config.min_users)
        else:
            words = words.extend([events], data["items"], before=cut)
        folder = work / f"{cut:%F}"
        if (folder / MANIFEST).exists():
            continue
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "vocabulary.json").write_bytes(words.to_bytes())
        sequences = build_sequences(events, as_of=cut, max_events=config.max_events, shards=SHARDS)
        write_shards(sequences.sort("shard").partition_by("shard"), words, folder)


def train(
    work: Path, name: str, cut: datetime, config: EncoderConfig, start: Path | None = None
) -> Path:
    """Train on the data before `cut`, from scratch or continued; return the encoder's folder."""
    data = work / f"{cut:%F}"
    out = work / f"{name} {cut:%F} seed {config.training.seed}"
    if not (out / "training.json").exists():
        words = Vocabulary.from_bytes((data / "vocabulary.json").read_bytes())
        began = time.process_time()
        pretrain(data, words, config, out, start=start)
        (out / CPU_SECONDS).write_text(f"{time.process_time() - began:.1f}")
    return out


def compare(work: Path, config: EncoderConfig, replays: Sequence[float]) -> Iterator[Judged]:
    """Train everything with one seed and judge it, cut-off by cut-off."""
    events = journey(HOUSEHOLDS)["clean_events"].lazy()
    champion = train(work, "from scratch", CUTS[0], config)
    last = dict.fromkeys(replays, champion)
    first = Encoder.load(champion)
    for cut in CUTS[1:]:
        scratch = train(work, "from scratch", cut, config)
        made = {"not trained again": champion, "from scratch": scratch}
        for replay in replays:
            settings = replace(config.training, replay_share=replay)
            name = f"continued, replay {replay:g}"
            last[replay] = made[name] = train(
                work, name, cut, replace(config, training=settings), start=last[replay]
            )
        full = Encoder.load(scratch)
        month: dict[str, Any] = {}
        for name, folder in made.items():
            encoder = Encoder.load(folder)
            old = None
            if folder != champion:
                old = forgotten(encoder, first, events)
            if folder == scratch:
                month = {"after": month["before"]}
            else:
                month = paired_ndcg(encoder, full, events, cut)
            training = json.loads((folder / "training.json").read_text())
            cpu_seconds = float((folder / CPU_SECONDS).read_text())
            steps, best = training["step"], training["best_step"]
            yield Judged(cut, name, steps, best, cpu_seconds, month, old)


def table(rows: Sequence[Judged]) -> str:
    """Render the comparison as Markdown."""
    columns = [
        "trained before",
        "encoder",
        "steps (best)",
        "CPU seconds",
        "NDCG@10, month after",
        "lead over from scratch [95 %]",
        "NDCG@10 of August, change [95 %]",
        "loss of August (nats), change",
    ]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        cells = [f"{row.cut:%F}", row.name, "0", "0", f"{row.month['after']:.4f}", "", "", ""]
        if row.name != "from scratch":
            cells[5] = _difference(row.month)
        if row.old is not None:
            after, before = (row.old[f"losses_{when}"] for when in ("after", "before"))
            cells[2:4] = [f"{row.steps} ({row.best_step})", f"{row.cpu_seconds:.0f}"]
            cells[6:] = [
                _difference(row.old),
                ", ".join(f"{task} {after[task] - before[task]:+.3f}" for task in after),
            ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _difference(found: dict[str, float]) -> str:
    return f"{found['difference']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}]"


def main() -> None:
    """Run the benchmark from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--replay", type=float, nargs="+", default=[0.0, 0.5])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    config = load_config(given.preset)
    settings = replace(config.training, seed=given.seed, threads=given.threads)
    config = replace(config, training=settings)
    write_data(given.work, config)
    rows = []
    for row in compare(given.work, config, given.replay):
        rows.append(row)
        print(f"{row.cut:%F} {row.name}: {json.dumps(asdict(row), default=str)}", flush=True)
    print(table(rows))


if __name__ == "__main__":
    main()
