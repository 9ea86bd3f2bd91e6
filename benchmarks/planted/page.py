"""Outcomes as they are kept, and the tables of docs/benchmarks-planted.md that are made of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.planted.shares import CONSTANT, OPTIMUM, STACK
from benchmarks.quality.table import write_document
from seq_ml.metrics.estimate import Estimate

if TYPE_CHECKING:
    from typing import Any

    from benchmarks.planted.shares import Judged
    from benchmarks.planted.world import Planted
    from seq_ml.encoder.config import EncoderConfig

RESULTS = Path(__file__).parent / "results"
DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks-planted.md"
MARKS = ("<!-- planted: begin -->", "<!-- planted: end -->")
MEASURES = {"silence": "ROC-AUC", "items": "NDCG@10"}
TITLES = {"silence": "Silence of 28 days", "items": "Items within 14 days"}


def outcome(
    label: str, planted: Planted, config: EncoderConfig, found: dict[str, Judged], seconds: float
) -> dict[str, Any]:
    """What is kept of a log: for each question and arm loss, measure, share, and what is gained."""
    return {
        "label": label,
        "users": planted.users,
        "q": planted.q,
        "shuffled": planted.shuffled,
        "seed": planted.seed,
        "encoder": f"{config.name}, {config.training.steps} steps",
        "cpu_seconds": round(seconds),
        "found": {what: _kept(judged) for what, judged in found.items()},
    }


def _kept(judged: Judged) -> dict[str, Any]:
    return {
        "users": len(judged.loss[OPTIMUM]),
        "hand": judged.hand,
        "gain": judged.gain(judged.hand, STACK).as_json(),
        "recovered": judged.recovered(STACK).as_json(),
        "arms": {
            arm: {
                "loss": float(loss.mean()),
                "measure": judged.measure[arm],
                "share": judged.share(arm).as_json(),
                "below_optimum": judged.gain(arm, OPTIMUM).as_json(),
            }
            for arm, loss in judged.loss.items()
        },
    }


def keep(of: dict[str, Any], folder: Path) -> None:
    """Keep an outcome in a file of its own, in place of the last one of the same log and label."""
    folder.mkdir(exist_ok=True)
    shuffled = "-shuffled" if of["shuffled"] else ""
    name = f"{of['label']}-{of['users']}-{of['q']:g}{shuffled}-{of['seed']}.json"
    (folder / name).write_text(json.dumps(of, indent=1) + "\n")


def write(folder: Path) -> None:
    """Write the tables of all kept outcomes into the page: all in one, arms of the most signal."""
    outcomes = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    outcomes.sort(key=lambda of: (of["label"] != "before", of["users"], of["shuffled"], of["q"]))
    most = max(of["q"] for of in outcomes)
    shown = [of for of in outcomes if of["q"] == most and not of["shuffled"]]
    text = "\n\n".join([summary(outcomes), *map(arms, shown)])
    write_document(f"\n{text}\n\n", DOCUMENT, MARKS)


def _log(of: dict[str, Any]) -> str:
    shuffled = ", sessions shuffled" if of["shuffled"] else ""
    return f"{of['users']:,} users, q = {of['q']:g}{shuffled}"


def summary(outcomes: list[dict[str, Any]]) -> str:
    """A row for each log and question: shares of what can be known, and what the stack recovers."""
    heads = ["encoder", "log", "of", "hand features", "sequence", "stack", "recovered", "published"]
    lines = [f"| {' | '.join(heads)} |", "|---|---|---|--:|--:|--:|--:|---|"]
    for of in outcomes:
        for what, kept in of["found"].items():
            shares = [
                f"{kept['arms'][arm]['share']['value']:.3f}"
                for arm in (kept["hand"], "sequence", STACK)
            ]
            which = STACK if (kept["gain"]["low"] or 0) > 0 else kept["hand"]
            cells = [of["label"], _log(of), what, *shares, _text(kept["recovered"]), which]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def arms(of: dict[str, Any]) -> str:
    """A table of all arms for each question about a log."""
    return "\n\n".join(_arms(of, what) for what in of["found"])


def _arms(of: dict[str, Any], what: str) -> str:
    kept = of["found"][what]
    title = (
        f"**{TITLES[what]}**, {_log(of)}, encoder {of['label']} ({of['encoder']}); "
        f"{kept['users']:,} users judged, {of['cpu_seconds']} CPU-seconds"
    )
    lines = [
        title,
        "",
        f"| | log loss | {MEASURES[what]} | share of what can be known | nats short of it |",
        "|---|--:|--:|--:|--:|",
    ]
    for arm, numbers in kept["arms"].items():
        name = f"**{arm}**" if arm in (kept["hand"], STACK) else arm
        certain = arm in (CONSTANT, OPTIMUM)
        share = f"{numbers['share']['value']:.0f}" if certain else _text(numbers["share"])
        short = "" if arm == OPTIMUM else _text(numbers["below_optimum"])
        lines.append(
            f"| {name} | {numbers['loss']:.4f} | {numbers['measure']:.4f} | {share} | {short} |"
        )
    gain = Estimate.of_json(kept["gain"]).signed()
    lines.append("")
    lines.append(
        f"Stack over {kept['hand']}: {gain} nats; it recovers {_text(kept['recovered'])} of what "
        "they leave."
    )
    return "\n".join(lines)


def _text(numbers: dict[str, float | None]) -> str:
    return str(Estimate.of_json(numbers))
