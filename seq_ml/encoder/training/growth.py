"""Continue from an earlier encoder: which one, and how it grows for what is new.

The vocabulary is append-only, so every row of an old token keeps its place and its values. A row of
a new item begins as the mean of what stands nearest to it: the old items with the nearest texts,
else those of its category, else all of them. From there the training goes on with a fresh
optimizer, on windows with new events and a share of old ones (experience replay, Rolnick et al.
2019), and from time to time from scratch, so that errors do not pile up.
"""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file

from seq_ml.encoder.config import EncoderConfig
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.checkpoints import FORMAT, copied
from seq_ml.encoder.training.optimizers import LOWEST
from seq_ml.storage.artifacts import fetch_folder, is_forbidden
from seq_ml.tokens.vocabulary import SPECIAL, Vocabulary

if TYPE_CHECKING:
    from pathlib import Path

    from seq_ml.encoder.data.texts import ItemTexts
    from seq_ml.encoder.model.behaviour import BehaviourModel
    from seq_ml.encoder.training.checkpoints import Weights
    from seq_ml.storage.objects import ObjectStore

NEAREST = 8
"""Old items with the nearest texts whose mean a new item begins as."""
CHUNK = 256
"""New items that are compared with all old ones at once: bounds the memory."""
ITEM, BIAS = "item.weight", "bias"
OF_KINDS = (
    "fields.category.weight",
    "fields.behaviour.weight",
    "following.behaviour.weight",
    "following.behaviour.bias",
)
BY_TOKEN = (ITEM, BIAS, *OF_KINDS)
"""Weights with a row for each token, category or behaviour."""


@dataclass(frozen=True)
class Start:
    """An encoder to continue from; scratch_before: the cut-off of the training that began it."""

    training_id: str
    fitted_before: datetime
    scratch_before: datetime
    vocabulary: Vocabulary
    folder: Path


def read_start(folder: Path, vocabulary: Vocabulary, config: EncoderConfig) -> Start:
    """Read what `pretrain` wrote.

    Raises FileNotFoundError when that training is not complete, ValueError (one sentence) when a
    training of this vocabulary and configuration cannot continue from it.
    """
    facts = json.loads((folder / "training.json").read_text())
    name = f"encoder {facts['training_id']}"
    if facts.get("format") != FORMAT:
        raise ValueError(f"{name} is of another version of the training code")
    model = EncoderConfig.from_bytes((folder / "config.json").read_bytes()).model
    # A behaviour that is new to the business adds to what shows interest; nothing else changes.
    wanted = config.model
    if {*model.interest} <= {*wanted.interest} and {*model.conversions} <= {*wanted.conversions}:
        model = replace(model, interest=wanted.interest, conversions=wanted.conversions)
    if model != config.model:
        raise ValueError(f"{name} has another model configuration than {config.name}")
    old = Vocabulary.from_bytes((folder / "vocabulary.json").read_bytes())
    if broken := _does_not_extend(vocabulary, old):
        raise ValueError(
            f"vocabulary {vocabulary.version} does not extend that of {name}: {broken} differ"
        )
    return Start(
        training_id=facts["training_id"],
        fitted_before=datetime.fromisoformat(facts["fitted_before"]),
        scratch_before=datetime.fromisoformat(facts["scratch_before"]),
        vocabulary=old,
        folder=folder,
    )


def _does_not_extend(new: Vocabulary, old: Vocabulary) -> str:
    """Name what of the old ids does not mean the same in the new vocabulary, "" when all does."""
    same = {
        "tokens": new.tokens[: len(old.tokens)] == old.tokens,
        "categories": new.categories[: len(old.categories)] == old.categories,
        "price bands": new.price_edges == old.price_edges,
        "quantity bands": new.quantity_edges == old.quantity_edges,
        "time bands": new.gap_edges == old.gap_edges,
        "behaviours": new.behaviours[: len(old.behaviours)] == old.behaviours,
        "time zones": new.timezone == old.timezone,
    }
    return ", ".join(name for name, holds in same.items() if not holds)


def continued(config: EncoderConfig) -> EncoderConfig:
    """Return the configuration of a training that continues: fewer steps, a lower rate.

    The rate goes on where a schedule ends. Measured on Complete Journey, continued from July to
    August: at the full rate the held-out loss stays above that of the start, at a tenth it falls.
    """
    training = config.training
    settings = replace(
        training,
        steps=max(1, round(training.warm_steps * training.steps)),
        warmup_steps=round(training.warm_steps * training.warmup_steps),
        learning_rate=LOWEST * training.learning_rate,
    )
    return replace(config, training=settings)


def grow(
    model: BehaviourModel, start: Start, vocabulary: Vocabulary, texts: ItemTexts | None = None
) -> None:
    """Give a model of `vocabulary` the weights of `start`, whose vocabulary it extends.

    model: on the CPU.  texts: of the new vocabulary, when there are any.  Old rows are bit for bit
    the same.  The bias of a new item is the logarithm of its share of users, moved as training
    moved the old ones'.
    Raises ValueError when a weight has another shape.
    """
    weights, tokens = model.state_dict(), len(start.vocabulary)
    before = load_file(start.folder / "model.safetensors")
    shapes, old_shapes = _shapes(weights), _shapes(before)
    if shapes != old_shapes:
        name = min(name for name, _ in shapes.items() ^ old_shapes.items())
        raise ValueError(
            f"encoder {start.training_id} has {name} of shape {old_shapes.get(name)}, expected "
            f"{shapes.get(name)}: train from scratch"
        )
    for name, old in before.items():
        (weights[name][: len(old)] if name in BY_TOKEN else weights[name]).copy_(old)

    items = weights[ITEM]
    items[tokens:] = _like_the_nearest(items[:tokens], vocabulary, texts)
    for name in filter(weights.__contains__, OF_KINDS):
        known = len(before[name])
        weights[name][known:] = _mean(weights[name][1:known])
    users = torch.tensor(start.vocabulary.users, dtype=torch.float32) + 0.5
    moved = _mean((before[BIAS] - torch.log(users / users.sum()))[:, None])
    new = slice(tokens - SPECIAL, None)
    weights[BIAS][new] = model.popularity[new] + moved


def cut_back(encoder: Encoder, start: Encoder) -> Encoder:
    """Return the grown encoder over the vocabulary of the one it continued from.

    Both then answer the same questions about the same items: what differs is what they know.
    """
    model = copy.deepcopy(start.model)
    weights = copied(encoder.model.state_dict())
    for name, old in start.model.state_dict().items():
        if name in BY_TOKEN:
            weights[name] = weights[name][: len(old)]
    model.load_state_dict(weights)
    return Encoder(
        model,
        start.vocabulary,
        start.config,
        version=encoder.version,
        fitted_before=encoder.fitted_before,
    )


def choose_start(
    objects: ObjectStore,
    prefix: str,
    work: Path,
    vocabulary: Vocabulary,
    config: EncoderConfig,
    *,
    newest: str | None,
    full_retrain_days: int,
) -> tuple[Path | None, str]:
    """Return the published encoder to continue from, or None to train from scratch, and why.

    prefix, work: as in `seq_ml.storage.artifacts`.  vocabulary: of the training, whose cut-off is
    its `fitted_before`.  newest: version below `prefix` that was fitted last, not beyond it.  From
    scratch when the last such training is `full_retrain_days` of data ago, and when the version
    must not live on (an erased person was in its data).

    A training that is done again begins where it began before, so that it is the same training.
    """
    if newest is None:
        return None, "from scratch: there is no encoder yet"
    facts = _facts(objects, prefix, newest)
    if facts and datetime.fromisoformat(facts["fitted_before"]) == vocabulary.fitted_before:
        if facts.get("continued_from") is None:
            return None, "from scratch: so was the encoder of the same cut-off"
        facts = _facts(objects, prefix, facts["continued_from"])
    if not facts:
        return None, "from scratch: the encoder to continue from is not there any more"
    version = facts["training_id"]
    if is_forbidden(objects, prefix, version):
        return None, f"from scratch: a person was erased who was in the data of encoder {version}"
    folder = fetch_folder(objects, prefix, version, work)
    try:
        start = read_start(folder, vocabulary, config)
    except ValueError as error:
        return None, f"from scratch: {error}"
    earlier = f"encoder {version}, fitted before {start.fitted_before:%Y-%m-%d}"
    if start.fitted_before >= vocabulary.fitted_before:
        return None, f"from scratch: nothing is new to {earlier}"
    days = (vocabulary.fitted_before - start.scratch_before).days
    if days >= full_retrain_days:
        return None, f"from scratch: the last time that was {days} days of data ago"
    return folder, f"continued from {earlier}"


def _facts(objects: ObjectStore, prefix: str, version: str) -> dict[str, Any]:
    """Return training.json of a version, empty when the version was deleted."""
    try:
        facts: dict[str, Any] = json.loads(objects.get(f"{prefix}/{version}/training.json"))
    except KeyError:
        return {}
    return facts


def _shapes(weights: Weights) -> dict[str, tuple[int, ...]]:
    """Shape of each weight, without the number of rows where it may differ."""
    return {name: tuple(t.shape[name in BY_TOKEN :]) for name, t in weights.items()}


def _like_the_nearest(
    rows: torch.Tensor, vocabulary: Vocabulary, texts: ItemTexts | None
) -> torch.Tensor:
    """Rows f32 [new tokens, dim] for the tokens of `vocabulary` behind those of `rows`."""
    tokens = len(rows)
    category = torch.from_numpy(vocabulary.token_categories)
    sums = rows.new_zeros(len(vocabulary.categories) + 1, rows.shape[1])
    sums.index_add_(0, category[SPECIAL:tokens], rows[SPECIAL:])
    counts = torch.bincount(category[SPECIAL:tokens], minlength=len(sums))
    means = sums / counts.clamp(min=1)[:, None]
    means[counts == 0] = means[0] = _mean(rows[SPECIAL:])
    begun = means[category[tokens:]]
    if texts is None:
        return begun
    old, new = texts.vectors[: tokens - SPECIAL], texts.vectors[tokens - SPECIAL :]
    described = np.flatnonzero(old.any(axis=1))
    for begin in range(0, len(new) if len(described) else 0, CHUNK):
        part = begin + np.flatnonzero(new[begin : begin + CHUNK].any(axis=1))
        near = torch.from_numpy(new[part] @ old[described].T)
        best = near.topk(min(NEAREST, len(described))).indices.numpy()
        begun[part] = rows[SPECIAL + described[best]].mean(dim=1)
    return begun


def _mean(rows: torch.Tensor) -> torch.Tensor:
    """Mean row, zeros when there is none."""
    return rows.sum(dim=0) / max(len(rows), 1)
