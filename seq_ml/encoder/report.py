"""What the encoder learnt, judged on events after its cut-off and beside counting.

The question: which items will each user buy in the next 30 days? Every ranking may repeat what the
user bought before. The encoder's own scores stand alone here; blends are the business of the
recommendation task.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from seq_ml.encoder.batches import Window
from seq_ml.encoder.objectives import Objectives
from seq_ml.encoder.training import held_out_losses
from seq_ml.sequences.build import build_sequences

if TYPE_CHECKING:
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.encoder.scoring import Encoder

TOP = 10
HALF_LIFE_DAYS = 120.0
RESAMPLES = 1000
Lists = dict[str, list[str]]
Judged = tuple["NDArray[np.float64]", "NDArray[np.float64]"]


def encoder_report(
    encoder: Encoder, events: pl.LazyFrame, as_of: datetime, *, horizon_days: int = 30
) -> dict[str, Any]:
    """Judge an encoder at `as_of` on what users bought in the `horizon_days` after it.

    events: schema EVENTS, reaching beyond the horizon.  Returns `users` (with a purchase in the
    horizon and an event before), `rankings` {name: ndcg and recall at 10, 95 % bounds over users,
    the encoder's paired lead over the ranking with its bounds} for the encoder, the
    popularity of the last 28 and 91 days, the user's own frequency, plain and decayed (120 days),
    and `held_out` losses (nats) on the events after `as_of`.

    Raises ValueError when the encoder was fitted on events at or after `as_of`, or nobody bought.
    """
    if encoder.fitted_before > as_of:
        raise ValueError(
            f"The encoder was fitted before {encoder.fitted_before}; events from {as_of} on cannot "
            "judge it"
        )
    until = as_of + timedelta(days=horizon_days)
    bought = events.filter(pl.col("event_type") == "purchase", pl.col("item_id").is_not_null())
    past = bought.filter(pl.col("event_time") < as_of).select("user_id", "item_id", "event_time")
    past = past.collect().lazy()
    known = events.filter(pl.col("event_time") < as_of).select("user_id").unique()
    truth = (
        bought.filter(pl.col("event_time") >= as_of, pl.col("event_time") < until)
        .join(known, on="user_id", how="semi")
        .select("user_id", "item_id")
        .unique()
        .sort("user_id", "item_id")
        .collect()
    )
    users = truth["user_id"].unique().sort().to_list()
    if not users:
        raise ValueError(f"Nobody bought anything between {as_of} and {until}")

    popular = {days: _popular(past, as_of, days) for days in (28, 91)}
    age = (pl.lit(as_of) - pl.col("event_time")).dt.total_seconds() / 86_400
    rankings = {
        "encoder": _encoder_lists(encoder, events, as_of, users),
        **{f"popularity_{days}d": dict.fromkeys(users, top) for days, top in popular.items()},
        "own_frequency": _own(past, 0.0 * age + 1.0, popular[28]),
        "own_frequency_decayed": _own(past, 0.5 ** (age / HALF_LIFE_DAYS), popular[28]),
    }
    return {
        "as_of": as_of.isoformat(),
        "horizon_days": horizon_days,
        "users": len(users),
        "rankings": _compare({name: _judge(lists, truth) for name, lists in rankings.items()}),
        "held_out": _losses_after(encoder, events, as_of, until),
    }


def report_markdown(report: dict[str, Any]) -> str:
    """Render a report of `encoder_report` for people."""
    losses = report["held_out"]
    rows = [
        f"| {name} | {values['ndcg']:.4f} [{values['ndcg_low']:.4f}, {values['ndcg_high']:.4f}] "
        f"| {values['recall']:.4f} | {_lead(name, values)} |"
        for name, values in sorted(
            report["rankings"].items(), key=lambda pair: -float(pair[1]["ndcg"])
        )
    ]
    question = (
        f"Items bought in the {report['horizon_days']} days from {report['as_of']} on, by "
        f"{report['users']} users; repeats count. The encoder saw no event of that time."
    )
    after = "Loss after the cut-off (nats): " + ", ".join(
        f"{task} {loss:.3f}" for task, loss in losses.items()
    )
    head = [
        "| ranking | NDCG@10 [95 %] | Recall@10 | the encoder's lead over it [95 %] |",
        "|---|---|---|---|",
    ]
    return "\n".join([question, "", *head, *rows, "", after])


def _lead(name: str, values: dict[str, float]) -> str:
    if name == "encoder":
        return ""
    return f"{values['lead']:+.4f} [{values['lead_low']:+.4f}, {values['lead_high']:+.4f}]"


def _popular(past: pl.LazyFrame, as_of: datetime, days: int) -> list[str]:
    recent = past.filter(pl.col("event_time") >= as_of - timedelta(days=days))
    ranked = recent.group_by("item_id").len().sort("len", "item_id", descending=[True, False])
    return ranked.head(TOP).collect()["item_id"].to_list()


def _own(past: pl.LazyFrame, weight: pl.Expr, popular: list[str]) -> Lists:
    """Each user's items by weight, filled up with popular ones."""
    ranked = (
        past.group_by("user_id", "item_id")
        .agg(weight=weight.sum().round(9))  # sums differ in their last digits
        .sort("user_id", "weight", "item_id", descending=[False, True, False])
        .group_by("user_id", maintain_order=True)
        .agg(pl.col("item_id").head(TOP))
        .collect()
    )
    return {
        user: [*items, *(item for item in popular if item not in items)][:TOP]
        for user, items in ranked.iter_rows()
    }


def _encoder_lists(
    encoder: Encoder, events: pl.LazyFrame, as_of: datetime, users: list[str]
) -> Lists:
    item_ids, scores = encoder.item_scores(events, as_of, users)
    if not item_ids:
        return {}
    names = np.array(item_ids)
    top = min(TOP, len(names))
    lists = {}
    for user, row in zip(users, scores, strict=True):
        best = np.argpartition(-row, top - 1)[:top]
        lists[user] = names[best[np.argsort(-row[best], kind="stable")]].tolist()
    return lists


def _judge(lists: Lists, truth: pl.DataFrame) -> Judged:
    """NDCG@10 (binary gains) and Recall@10 of each user of `truth`, in order."""
    discount = 1 / np.log2(np.arange(2, TOP + 2))
    ndcg, recall = [], []
    for (user,), group in truth.group_by("user_id", maintain_order=True):
        wanted = set(group["item_id"])
        hits: NDArray[np.bool_] = np.zeros(TOP, dtype=bool)
        for place, item in enumerate(lists.get(str(user), [])):
            hits[place] = item in wanted
        ndcg.append((hits * discount).sum() / discount[: len(wanted)].sum())
        recall.append(hits.sum() / len(wanted))
    return np.array(ndcg), np.array(recall)


def _compare(judged: dict[str, Judged]) -> dict[str, dict[str, float]]:
    """Means over users, 95 % percentile bootstrap of NDCG and of the encoder's paired lead."""
    users = len(judged["encoder"][0])
    rng = np.random.default_rng(0)
    counts = rng.multinomial(users, np.full(users, 1 / users), size=RESAMPLES) / users
    found = {}
    for name, (ndcg, recall) in judged.items():
        lead = judged["encoder"][0] - ndcg
        low, high = np.quantile(counts @ ndcg, [0.025, 0.975])
        lead_low, lead_high = np.quantile(counts @ lead, [0.025, 0.975])
        found[name] = {
            "ndcg": float(ndcg.mean()),
            "ndcg_low": float(low),
            "ndcg_high": float(high),
            "recall": float(recall.mean()),
            "lead": float(lead.mean()),
            "lead_low": float(lead_low),
            "lead_high": float(lead_high),
        }
    return found


def _losses_after(
    encoder: Encoder, events: pl.LazyFrame, as_of: datetime, until: datetime
) -> dict[str, float]:
    """Loss of the items bought after `as_of`, and of items hidden after it, one window a user."""
    sequences = build_sequences(events, as_of=until, max_events=encoder.config.max_events, shards=1)
    tokens = encoder.vocabulary.encode(sequences)
    moment, context = int(as_of.timestamp()), encoder.config.model.context
    windows = []
    for row in range(len(tokens.user)):
        begin, end = int(tokens.offset[row]), int(tokens.offset[row + 1])
        cut = begin + int(np.searchsorted(tokens.time[begin:end], moment, side="left"))
        start, stop = max(begin, cut - context), min(end, cut + context // 2)
        if cut < end:
            windows.append(Window(tokens, row, start, stop))
    objectives = Objectives(encoder.config, encoder.vocabulary)
    return held_out_losses(encoder.model, objectives, windows, after=as_of)
