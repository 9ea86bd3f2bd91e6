"""Judge an encoder by its loss on what training never saw: other users, or what came later."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch

from seq_ml.encoder.data.batches import collate, to_device

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from seq_ml.encoder.data.batches import Events
    from seq_ml.encoder.data.windows import Window
    from seq_ml.encoder.model.behaviour import BehaviourModel
    from seq_ml.encoder.objectives.questions import Objectives, Question


def held_out_losses(
    model: BehaviourModel,
    objectives: Objectives,
    windows: Sequence[Window],
    *,
    after: datetime | None = None,
) -> dict[str, float]:
    """Return the mean of each loss, exact, with fixed random numbers and no dropout.

    With `after`, only what happened at or after it is asked: next_basket at that instant, the other
    tasks for events from it on. A loss that nothing could be asked of is missing.
    """
    moment = None if after is None else int(after.timestamp())
    size, found = objectives.settings.windows, dict[str, list[tuple[int, float]]]()
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        for task in objectives.weights:
            random = np.random.default_rng(objectives.settings.seed)
            for start in range(0, len(windows), size):
                part = windows[start : start + size]
                question = _ask_after(objectives, task, part, moment, random)
                if question is None or not question.counts:
                    continue
                losses = objectives.losses(model, to_device(question, model.bias.device))
                for name, loss in losses.items():
                    found.setdefault(name, []).append((question.counts[name], loss.item()))
    model.train(was_training)
    return {
        name: sum(answers * loss for answers, loss in parts) / sum(answers for answers, _ in parts)
        for name, parts in found.items()
    }


def _ask_after(
    objectives: Objectives,
    task: str,
    windows: Sequence[Window],
    moment: int | None,
    random: np.random.Generator,
) -> Question | None:
    if moment is None:
        return objectives.ask(task, windows, random)
    if task == "next_basket":
        read = [_until(window, moment) for window in windows]  # nothing later is read
        read = [window for window in read if window.tokens.time[window.start] < moment]
        return objectives.ask_at(read, moment) if read else None

    def askable(events: Events) -> Events:
        return replace(events, item=_only_after(events.item, windows, moment))

    question = objectives.ask(task, windows, random, askable)
    return replace(question, events=collate(windows))


def _until(window: Window, moment: int) -> Window:
    """Cut a window where an instant comes; one event stays."""
    times = window.tokens.time[window.start : window.stop]
    return replace(window, stop=window.start + max(1, int(np.searchsorted(times, moment))))


def _only_after(item: torch.Tensor, windows: Sequence[Window], moment: int) -> torch.Tensor:
    """Items at or after an instant; the others become padding, which is never asked."""
    kept = torch.zeros_like(item)
    for row, window in enumerate(windows):
        later = torch.from_numpy(window.tokens.time[window.start : window.stop] >= moment)
        kept[row, : len(later)] = torch.where(later, item[row, : len(later)], 0)
    return kept
