"""A fine-tuned encoder: predictions, one small artefact, and merging into plain weights.

The artefact holds only what was trained and lies on top of the one encoder it was fitted to:
`finetuned.safetensors` (weights) and `finetuned.json` (settings, tasks, base, what was found).
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import torch
from safetensors.torch import load_file, save_file

from seq_ml.encoder.config import changed
from seq_ml.encoder.finetuning.config import FineTuning
from seq_ml.encoder.finetuning.heads import BinaryHead, TunedModel
from seq_ml.encoder.finetuning.methods import prepare
from seq_ml.encoder.scoring.encoder import Encoder
from seq_ml.encoder.training.checkpoints import copied

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from seq_ml.encoder.training.checkpoints import Weights

FORMAT = 1
WEIGHTS, RECORD = "finetuned.safetensors", "finetuned.json"


@dataclass(frozen=True)
class TuningResult:
    """How a fine-tuning ended.

    version: hash of all that decided it.  tasks: kind ("binary", "items") by name.  fitted_before:
    no event and no answer at or after it was used.  validation: mean loss (nats) of each task at
    the kept step; untuned: before the first one.
    """

    version: str
    tasks: dict[str, str]
    fitted_before: datetime
    steps: int
    best_step: int
    validation: dict[str, float]
    untuned: dict[str, float]
    seconds: float


class FineTuned:
    """An encoder fitted to tasks; it never sees an event at or after the `as_of` asked about.

    `encoder` is the tuned one: item scores and user vectors come from it as from any encoder.
    """

    def __init__(
        self,
        base: Encoder,
        tuned: TunedModel,
        tuner: Any,
        settings: FineTuning,
        result: TuningResult,
    ) -> None:
        self.base = base
        self.tuned = tuned.eval()
        self.tuner = tuner
        self.settings = settings
        self.result = result
        self.encoder = Encoder(
            tuned.model,
            base.vocabulary,
            base.config,
            version=f"{base.version}+{result.version}",
            fitted_before=result.fitted_before,
        )

    def predict(
        self, task: str, events: pl.LazyFrame, as_of: datetime
    ) -> tuple[list[str], NDArray[np.float32]]:
        """Ids of all users with an event before `as_of`, sorted, and p(yes) f32 [users].

        KeyError for a task without a head: items are scored by `encoder.item_scores`.
        """
        if self.result.tasks.get(task) != "binary":
            raise KeyError(f"'{task}' is no binary task of this fine-tuning: {self.result.tasks}")
        users, vectors = self.encoder.user_embeddings(events, as_of)
        head = self.tuned.heads[task]
        with torch.inference_mode():
            states = torch.from_numpy(vectors).to(self.tuned.model.bias.device)
            p: NDArray[np.float32] = torch.sigmoid(head(states)).cpu().numpy()
        return users, p

    def today(self, task: str, events: pl.LazyFrame, as_of: datetime) -> pl.DataFrame:
        """Return user_id, p and as_of of `predict`."""
        users, p = self.predict(task, events, as_of)
        frame = pl.DataFrame(
            {"user_id": users, "p": p}, schema={"user_id": pl.String, "p": pl.Float32}
        )
        return frame.with_columns(as_of=pl.lit(as_of))

    @property
    def trained(self) -> int:
        """Number of parameters that were trained, heads included."""
        return sum(p.numel() for p in learning(self.tuned).values())

    def merged(self) -> FineTuned:
        """Put the low-rank change into the weights: the same predictions from a plain model.

        Its artefact holds all weights.  ValueError when the method left no change of matrices.
        """
        if self.tuner is None:
            raise ValueError(
                f"'{self.settings.method}' has nothing to merge: only lora and adalora change "
                "matrices by a product that can be added to them"
            )
        tuned = TunedModel(
            copy.deepcopy(self.tuner).merge_and_unload(),
            dict(copy.deepcopy(self.tuned.heads).items()),  # type: ignore[arg-type]
        )
        tuned.requires_grad_()
        return FineTuned(self.base, tuned, None, replace(self.settings, method="full"), self.result)

    def save(self, folder: Path) -> None:
        """Write the artefact; the record comes last and says that the rest is whole."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / RECORD).unlink(missing_ok=True)
        save_file(copied(learning(self.tuned)), folder / WEIGHTS)
        record = {
            "format": FORMAT,
            "base": {"version": self.base.version, "weights": weights_hash(self.base)},
            "settings": asdict(self.settings),
            "found": asdict(self.result) | {"fitted_before": self.result.fitted_before.isoformat()},
        }
        (folder / RECORD).write_text(json.dumps(record, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path, encoder: Encoder) -> FineTuned:
        """Lay what `save` wrote on its encoder; ValueError for any other encoder."""
        record = json.loads((folder / RECORD).read_text())
        base = record["base"]
        if (base["version"], base["weights"]) != (encoder.version, weights_hash(encoder)):
            raise ValueError(
                f"{folder}: fitted to the encoder {base['version']} (weights {base['weights']}), "
                f"given {encoder.version} (weights {weights_hash(encoder)}): load it on its own "
                "encoder or fine-tune again"
            )
        settings = changed(FineTuning(), record["settings"], where=str(folder / RECORD))
        values = record["found"]
        values["fitted_before"] = datetime.fromisoformat(values["fitted_before"])
        result = TuningResult(**values)
        rates = {name: 0.5 for name, kind in result.tasks.items() if kind == "binary"}
        tuned, tuner = build(encoder, settings, rates, items="items" in result.tasks.values())
        lay(tuned, load_file(folder / WEIGHTS))
        return cls(encoder, tuned, tuner, settings, result)


def build(
    encoder: Encoder, settings: FineTuning, base_rates: dict[str, float], *, items: bool
) -> tuple[TunedModel, Any]:
    """Copy the encoder's model, with heads, so that only what the method allows can learn.

    base_rates: of the binary tasks.  items: whether there is a task that asks for items.  Returns
    the model and peft's tuner.  ValueError when nothing is left to learn.
    """
    torch.manual_seed(settings.seed)
    model = copy.deepcopy(encoder.model)
    tuner = prepare(model, settings)
    if items and model.repeat is not None:
        model.repeat.requires_grad_()
    heads = {name: BinaryHead(model.dim, rate) for name, rate in base_rates.items()}
    tuned = TunedModel(model, heads).to(model.bias.device)
    if not learning(tuned):
        raise ValueError(
            f"'{settings.method}' leaves nothing to learn: items are scored by the encoder itself, "
            "and this one has no repeat head; use another method"
        )
    return tuned, tuner


def learning(tuned: TunedModel) -> dict[str, torch.nn.Parameter]:
    """Parameters that learn, by name."""
    return {name: p for name, p in tuned.named_parameters() if p.requires_grad}


def lay(tuned: TunedModel, weights: Weights) -> None:
    """Put weights in the place of what learns; KeyError when they are not of the same names."""
    parameters = learning(tuned)
    if parameters.keys() != weights.keys():
        raise KeyError(f"Weights of {sorted(weights)}, expected {sorted(parameters)}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])


def weights_hash(encoder: Encoder) -> str:
    """Hash of all weights of an encoder."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]
