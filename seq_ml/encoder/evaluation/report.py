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

from seq_ml.encoder.data.windows import Window
from seq_ml.encoder.objectives.questions import Objectives
from seq_ml.encoder.training.growth import cut_back
from seq_ml.encoder.training.held_out import held_out_losses
from seq_ml.metrics import ranking
from seq_ml.metrics.bootstrap import mean_draws
from seq_ml.periods import RECENT_DAYS, WINDOW_DAYS
from seq_ml.sequences.build import build_sequences

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from numpy.typing import NDArray

    from seq_ml.encoder.scoring.encoder import Encoder

PURCHASE = ("purchase",)
HORIZON = timedelta(days=30)
"""What is judged: the events of so many days from an instant on."""
TOP = 10
HALF_LIFE_DAYS = 120.0
RESAMPLES = 1000
SAMPLE = 512
"""Users whose losses are told."""
Lists = dict[str, list[str]]
Judged = tuple["NDArray[np.float64]", "NDArray[np.float64]"]


def encoder_report(
    encoder: Encoder,
    events: pl.LazyFrame,
    as_of: datetime,
    *,
    start: Encoder | None = None,
    conversions: Sequence[str] = PURCHASE,
) -> dict[str, Any]:
    """Judge an encoder at `as_of` on what users bought in the `HORIZON` after it.

    events: schema EVENTS, reaching beyond the horizon.  conversions: behaviours that count as
    bought.  Returns `users` (who bought in the horizon and have an event before; without any, there
    are no rankings), `rankings` {name: ndcg and recall at 10, 95 % bounds over users,
    the encoder's paired lead over the ranking with its bounds} for the encoder, the
    popularity of the last 28 and 91 days, the user's own frequency, plain and decayed (120 days),
    and `held_out` losses (nats) of some users on the events after `as_of`.  With `start`, the
    encoder that this one continued from, also `continued`: what was gained and forgotten
    (`gained_and_forgotten`).

    Raises ValueError when the encoder was fitted on events at or after `as_of`.
    """
    if encoder.fitted_before > as_of:
        raise ValueError(
            f"The encoder was fitted before {encoder.fitted_before}; events from {as_of} on cannot "
            "judge it"
        )
    bought = _bought(events, conversions)
    past = bought.filter(pl.col("event_time") < as_of).select("user_id", "item_id", "event_time")
    past = past.collect().lazy()  # read once: four rankings are made of it
    truth = _bought_after(events, as_of, conversions)
    users = truth["user_id"].unique().sort().to_list()

    popular = {days: _popular(past, as_of, days) for days in (RECENT_DAYS, WINDOW_DAYS)}
    age = (pl.lit(as_of) - pl.col("event_time")).dt.total_seconds() / 86_400
    rankings = {
        "encoder": _encoder_lists(encoder, events, as_of, users),
        **{f"popularity_{days}d": dict.fromkeys(users, top) for days, top in popular.items()},
        "own_frequency": _own(past, 0.0 * age + 1.0, popular[RECENT_DAYS]),
        "own_frequency_decayed": _own(past, 0.5 ** (age / HALF_LIFE_DAYS), popular[RECENT_DAYS]),
    }
    more = {}
    if start is not None:
        more["continued"] = gained_and_forgotten(encoder, start, events, as_of, conversions)
    return more | {
        "as_of": as_of.isoformat(),
        "horizon_days": HORIZON.days,
        "users": len(users),
        "rankings": _compare({name: _judge(lists, truth) for name, lists in rankings.items()})
        if users
        else {},
        "held_out": _losses_after(encoder, events, as_of),
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
        f"Items chosen in the {report['horizon_days']} days from {report['as_of']} on, by "
        f"{report['users']} users; repeats count. The encoder saw no event of that time."
    )
    after = "Loss after the cut-off (nats): " + (
        ", ".join(f"{task} {loss:.3f}" for task, loss in losses.items()) or "nothing to ask"
    )
    head = [
        "| ranking | NDCG@10 [95 %] | Recall@10 | the encoder's lead over it [95 %] |",
        "|---|---|---|---|",
    ]
    body = [question, "", *head, *rows, "", after]
    return "\n".join([*body, *_continued_markdown(report)])


def gained_and_forgotten(
    encoder: Encoder,
    start: Encoder,
    events: pl.LazyFrame,
    as_of: datetime,
    conversions: Sequence[str] = PURCHASE,
) -> dict[str, Any]:
    """Compare an encoder with the one it continued from, on new and on old events.

    new: the `HORIZON` from `as_of` on, which neither saw.  old: see `forgotten`.  Returns for
    each slice what `paired_ndcg` says, over all items, and `losses_before`, `losses_after` (nats)
    over the items that `start` knows.
    """
    new = paired_ndcg(encoder, start, events, as_of, conversions=conversions)
    return {
        "start": start.version,
        "new": new | _losses(encoder, start, events, as_of),
        "old": forgotten(encoder, start, events, conversions),
    }


def forgotten(
    encoder: Encoder,
    start: Encoder,
    events: pl.LazyFrame,
    conversions: Sequence[str] = PURCHASE,
) -> dict[str, Any]:
    """Compare an encoder with an earlier one on the days before the cut-off of that one.

    Both were trained on them: what is worse now was forgotten. Only items that `start` knows are
    ranked and counted; returns as `gained_and_forgotten` does.
    """
    begin = start.fitted_before - HORIZON
    older = cut_back(encoder, start)
    found = paired_ndcg(older, start, events, begin, known=True, conversions=conversions)
    return found | _losses(encoder, start, events, begin)


def _losses(
    encoder: Encoder, start: Encoder, events: pl.LazyFrame, begin: datetime
) -> dict[str, dict[str, float]]:
    return {
        "losses_before": _losses_after(start, events, begin),
        "losses_after": _losses_after(cut_back(encoder, start), events, begin),
    }


def paired_ndcg(
    encoder: Encoder,
    other: Encoder,
    events: pl.LazyFrame,
    as_of: datetime,
    *,
    known: bool = False,
    conversions: Sequence[str] = PURCHASE,
) -> dict[str, Any]:
    """NDCG@10 at `as_of` of the other encoder (`before`) and of this one (`after`).

    known: count only items that `other` knows.  Returns also `from`, `users`, and the paired
    `difference` with its 95 % bounds `low` and `high`; without users only these two.
    """
    truth = _bought_after(events, as_of, conversions)
    if known:
        truth = truth.filter(pl.col("item_id").is_in(list(other.vocabulary.item_tokens)))
    users = truth["user_id"].unique().sort().to_list()
    found: dict[str, Any] = {"from": as_of.isoformat(), "users": len(users)}
    if users:
        judged = {
            name: _judge(_encoder_lists(each, events, as_of, users), truth)
            for name, each in (("encoder", encoder), ("before", other))
        }
        compared = _compare(judged)
        found |= {
            "before": compared["before"]["ndcg"],
            "after": compared["encoder"]["ndcg"],
            "difference": compared["before"]["lead"],
            "low": compared["before"]["lead_low"],
            "high": compared["before"]["lead_high"],
        }
    return found


def _continued_markdown(report: dict[str, Any]) -> list[str]:
    if "continued" not in report:
        return []
    found = report["continued"]
    days = report["horizon_days"]
    meanings = {
        "new": f"the {days} days after the cut-off, which neither saw",
        "old": f"the {days} days before the cut-off of the start, items it knows: forgetting",
    }
    rows = []
    for name, meaning in meanings.items():
        slice_ = found[name]
        if not slice_["users"]:
            continue
        rows.append(
            f"| {meaning} | NDCG@10 of {slice_['users']} users | {slice_['before']:.4f} "
            f"| {slice_['after']:.4f} "
            f"| {slice_['difference']:+.4f} [{slice_['low']:+.4f}, {slice_['high']:+.4f}] |"
        )
        for task, after in slice_["losses_after"].items():
            before = slice_["losses_before"][task]
            rows.append(
                f"| | loss of {task}, nats | {before:.3f} | {after:.3f} | {after - before:+.3f} |"
            )
    head = [
        "",
        f"Continued from encoder {found['start']}:",
        "",
        "| slice | measure | before | after | difference [95 %] |",
        "|---|---|---|---|---|",
    ]
    return [*head, *rows]


def _bought(events: pl.LazyFrame, conversions: Sequence[str]) -> pl.LazyFrame:
    return events.filter(pl.col("event_type").is_in(conversions), pl.col("item_id").is_not_null())


def _bought_after(
    events: pl.LazyFrame, as_of: datetime, conversions: Sequence[str]
) -> pl.DataFrame:
    """Distinct items (user_id, item_id) bought in the horizon by users with an event before it."""
    known = events.filter(pl.col("event_time") < as_of).select("user_id").unique()
    return (
        _bought(events, conversions)
        .filter(pl.col("event_time") >= as_of, pl.col("event_time") < as_of + HORIZON)
        .join(known, on="user_id", how="semi")
        .select("user_id", "item_id")
        .unique()
        .sort("user_id", "item_id")
        .collect()
    )


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
    wanted = events.filter(pl.col("user_id").is_in(users))
    found = encoder.top_items(encoder.sequences(wanted, as_of), as_of, k=TOP)
    return {
        user: items
        for some in found
        for user, items in zip(some.user_ids, some.item_ids, strict=True)
    }


def _judge(lists: Lists, truth: pl.DataFrame) -> Judged:
    """NDCG@10 (binary gains) and Recall@10 of each user of `truth`, in order."""
    frame = pl.DataFrame(
        {"unit": list(lists), "items": list(lists.values())},
        schema={"unit": pl.String, "items": pl.List(pl.String)},
    )
    pairs = truth.select(unit="user_id", item="item_id")
    _, hits, relevant = ranking.list_hits(frame, pairs, k=TOP)
    return ranking.ndcg(hits, relevant), ranking.recall(hits, relevant)


def _compare(judged: dict[str, Judged]) -> dict[str, dict[str, float]]:
    """Means over users, 95 % percentile bootstrap of NDCG and of the encoder's paired lead."""
    gains = np.stack([ndcg for ndcg, _ in judged.values()], axis=1)
    draws = dict(zip(judged, mean_draws(gains, seed=0, resamples=RESAMPLES), strict=True))
    found = {}
    for name, (_, recall) in judged.items():
        gain, lead = draws[name].estimate(), draws["encoder"].minus(draws[name])
        found[name] = {
            "ndcg": gain.value,
            "ndcg_low": gain.low,
            "ndcg_high": gain.high,
            "recall": float(recall.mean()),
            "lead": lead.value,
            "lead_low": lead.low,
            "lead_high": lead.high,
        }
    return found


def _losses_after(encoder: Encoder, events: pl.LazyFrame, as_of: datetime) -> dict[str, float]:
    """Loss of the items bought after `as_of`, and of items hidden after it, one window a user.

    Of about SAMPLE users, evenly drawn.
    """
    windows = _windows_after(encoder, events, as_of)
    objectives = Objectives(encoder.config, encoder.vocabulary)
    return held_out_losses(encoder.model, objectives, windows, after=as_of)


def _windows_after(encoder: Encoder, events: pl.LazyFrame, as_of: datetime) -> list[Window]:
    sequences = build_sequences(
        events, as_of=as_of + HORIZON, max_events=encoder.config.max_events, shards=1
    )
    tokens = encoder.vocabulary.encode(sequences)
    moment, context = int(as_of.timestamp()), encoder.config.model.context
    windows = []
    for row in range(len(tokens.user)):
        begin, end = int(tokens.offset[row]), int(tokens.offset[row + 1])
        cut = begin + int(np.searchsorted(tokens.time[begin:end], moment, side="left"))
        start, stop = max(begin, cut - context), min(end, cut + context // 2)
        if cut < end:
            windows.append(Window(tokens, row, start, stop))
    return windows[:: -(-len(windows) // SAMPLE) or 1]
