"""Pre-train the encoder on token shards.

A training is identified by the hash of its configuration and data. Its checkpoints lie under that
id: the same call after a crash goes on from the newest complete one and ends bit for bit where an
undisturbed run ends (on CPU). A finished training called again returns at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import shutil
import time
from collections import Counter
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save_file

from seq_ml.encoder.data.augment import Augmenter
from seq_ml.encoder.data.batches import to_device
from seq_ml.encoder.data.order import Order, Replay, split_windows
from seq_ml.encoder.memory import is_out_of_memory, return_freed_blocks
from seq_ml.encoder.model.behaviour import BehaviourModel
from seq_ml.encoder.objectives.questions import (
    NothingToLearnError,
    Objectives,
    Question,
    check_answers,
)
from seq_ml.encoder.training.checkpoints import FORMAT, copied
from seq_ml.encoder.training.growth import continued, grow, read_start
from seq_ml.encoder.training.held_out import held_out_losses
from seq_ml.encoder.training.logs import TrainingLog
from seq_ml.encoder.training.loop import DivergedError, TrainingLoop
from seq_ml.tokens.shards import read_shards

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.data.texts import ItemTexts
    from seq_ml.encoder.data.windows import Window, WindowTable
    from seq_ml.encoder.training.checkpoints import Weights
    from seq_ml.encoder.training.growth import Start
    from seq_ml.tokens.vocabulary import Vocabulary

log = logging.getLogger(__name__)
USUAL = 1024
"""Windows by which the forecast head begins with what is usual."""


@dataclass(frozen=True)
class TrainingResult:
    """What a training found; `completed` is False when it was asked to stop before.

    held_out: the best mean losses on users that training never saw, by loss: nats, or
    units of what is true of everybody (forecasts);
    empty without such users.  continued_from: the training that this one goes on from, if any;
    scratch_before: the cut-off of the training from scratch behind it.
    """

    training_id: str
    continued_from: str | None
    scratch_before: datetime
    fitted_before: datetime
    completed: bool
    step: int
    best_step: int
    held_out: dict[str, float]
    seconds: float


def training_id(
    vocabulary: Vocabulary,
    config: EncoderConfig,
    data_version: str,
    texts: ItemTexts | None = None,
    start: Start | None = None,
) -> str:
    """Return the hash of everything that decides the weights."""
    read = "" if texts is None else texts.version
    if start is not None:
        read += f":{start.training_id}"
    content = f"{FORMAT}:{vocabulary.version}:{data_version}:{read}:".encode() + config.to_bytes()
    return hashlib.sha256(content).hexdigest()[:16]


def pretrain(
    shards_dir: Path,
    vocabulary: Vocabulary,
    config: EncoderConfig,
    out_dir: Path,
    *,
    texts: ItemTexts | None = None,
    start: Path | None = None,
    on_step: Callable[[dict[str, float]], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainingResult:
    """Train, or go on with, the encoder of this configuration and data.

    shards_dir: what `write_shards` wrote with this vocabulary.  texts: of the vocabulary's items,
    when the configuration reads them.  start: the folder of an earlier encoder to continue from,
    grown to this vocabulary (see growth.py).  out_dir receives config.json, vocabulary.json,
    model.safetensors and training.json when complete, checkpoints and TensorBoard logs underneath.
    on_step gets step, learning_rate, loss (unless the step had nothing to ask), and the held-out
    losses when they were computed.
    should_stop is asked after each step; True saves a checkpoint and returns.

    Raises DivergedError when the loss is not finite, NothingToLearnError before the first step
    when no user has two baskets or no event could answer a question, ValueError when the shards
    were made with another vocabulary, or `start` cannot be continued from.
    """
    began = time.monotonic()
    manifest, parts = read_shards(shards_dir)
    if manifest.vocabulary != vocabulary.version:
        raise ValueError(
            f"{shards_dir}: shards of vocabulary {manifest.vocabulary}, given {vocabulary.version}"
        )
    before = None if start is None else read_start(start, vocabulary, config)
    plan = config if before is None else continued(config)
    settings = plan.training
    identity = training_id(vocabulary, config, manifest.version, texts, before)
    checkpoints = out_dir / "checkpoints" / identity
    since = None if before is None else before.fitted_before
    train, held_out = split_windows(parts, plan, since)
    if not len(train):
        raise NothingToLearnError(
            f"No user did something at two instants before {manifest.as_of[:10]}: the encoder "
            "learns from what comes next."
        )
    check_answers(parts, config, vocabulary)
    torch.set_num_threads(settings.threads)
    return_freed_blocks()
    torch.manual_seed(settings.seed)
    model = BehaviourModel(config.model, vocabulary, texts)
    if before is not None:
        grow(model, before, vocabulary, texts)
    until = datetime.fromisoformat(manifest.as_of)
    trainer = Trainer(model, vocabulary, plan, until=int(until.timestamp()))
    trainer.begin_forecasts(train)
    trainer.restore(checkpoints)
    order = Order(train, plan) if since is None else Replay(train, plan, since)
    with TrainingLog(out_dir / "tensorboard", identity, plan, step=trainer.step) as board:

        def told(metrics: dict[str, float]) -> None:
            board.write(metrics)
            if on_step is not None:
                on_step(metrics)

        completed = trainer.run(
            lambda: trainer.update(order.batch(trainer.step)),
            lambda: trainer.evaluate(held_out),
            lambda: trainer.save(checkpoints),
            judge_start=before is not None,
            on_step=told,
            should_stop=should_stop,
        )
    result = TrainingResult(
        training_id=identity,
        continued_from=None if before is None else before.training_id,
        scratch_before=until if before is None else before.scratch_before,
        fitted_before=until,
        completed=completed,
        step=trainer.step,
        best_step=trainer.state["best_step"] if trainer.best else trainer.step,
        held_out=trainer.state["held_out"],
        seconds=time.monotonic() - began,
    )
    if completed:
        _publish(out_dir, trainer.best_weights(), vocabulary, texts, config, result)
    return result


class Trainer(TrainingLoop):
    """Pre-trains a model; `save` and `restore` leave nothing out that decides its next update."""

    def __init__(
        self, model: BehaviourModel, vocabulary: Vocabulary, config: EncoderConfig, *, until: int
    ) -> None:
        """until: the cut-off (seconds) of the events."""
        self.until = until
        self.config = config
        self.model = model.to("cuda" if torch.cuda.is_available() else "cpu")
        super().__init__(model, config.training, bf16=config.training.bf16)
        if config.training.compile and self.device.type == "cuda":
            self.model.backbone.compile(dynamic=True)  # type: ignore[attr-defined]
        self.objectives = Objectives(config, vocabulary, until=until)
        self.usual: dict[str, float] = {}
        """Answers that a window has to each forecast, on average."""
        self.average: Weights = {}
        if config.training.average:
            self.average = {name: w.detach().clone() for name, w in model.state_dict().items()}
        self.state |= {"held_out": {}, "parts": config.training.accumulate}

    def begin_forecasts(self, windows: WindowTable) -> None:
        """Let the forecast head begin with what is true of everybody, by some of the windows."""
        if "next_basket" not in self.objectives.weights:
            return
        step = -(-len(windows) // USUAL)
        some = [windows.window(number) for number in range(0, len(windows), step)]
        random = np.random.default_rng(self.config.training.seed)
        question = self.objectives.ask("next_basket", some, random)
        foreseen = to_device(question, self.device).foreseen
        if foreseen is not None:
            self.model.forecast.begin(foreseen.outcomes)
            self.model.following.begin(foreseen.following)
        parts = ("wait", "counts", "spend")
        self.usual = {part: question.counts.get(part, 0) / len(some) for part in parts}

    def update(self, windows: list[Window]) -> dict[str, float]:
        """Do one step on `accumulate` × `windows` windows of one task; return loss and rate.

        When memory runs out the step is done again in twice as many parts, and so are those that
        follow: the gradient is the same.
        """
        rate = self.begin()
        while True:
            try:
                loss = self._gradients(windows)
                break
            except (MemoryError, RuntimeError) as error:
                parts = 2 * self.state["parts"]
                if not is_out_of_memory(error) or parts > len(windows):
                    raise
                log.warning(
                    "Out of memory at step %d: from now on each batch of %d windows is read in %d "
                    "parts", self.step + 1, len(windows), parts,
                )  # fmt: skip
                self.state["parts"] = parts
        if loss is not None:
            self.follow()
        self.state["step"] += 1
        self._average()
        return {"learning_rate": rate} | ({} if loss is None else {"loss": loss})

    def _gradients(self, windows: list[Window]) -> float | None:
        """Leave the gradient of the mean loss over all questions; return the loss, None if none."""
        random = self.random()
        task = self.objectives.draw(random)
        questions = [
            self._ask(task, [windows[i] for i in part], random)
            for part in np.array_split(np.arange(len(windows)), self.state["parts"])
        ]
        total = Counter[str]()
        for question in questions:
            total.update(question.counts)
        # a tick weighs the same whether its batch has many or few: silent windows have many
        answers = total | {
            part: usual * len(windows) for part, usual in self.usual.items() if usual
        }
        questions = [to_device(question, self.device) for question in questions if question.counts]
        self.optimizer.zero_grad()
        if not questions:
            return None
        chosen = int(random.integers(2**62))
        loss = 0.0
        for question in questions:
            loss += self._backward(question, chosen, answers)
            if not math.isfinite(loss):
                raise DivergedError(self._diverged(task, loss, windows))
        if size := self.config.training.adversarial:
            with _perturbed(self.model, size):
                for question in questions:
                    self._backward(question, chosen, answers)
        return loss

    def _ask(self, task: str, windows: list[Window], random: np.random.Generator) -> Question:
        changes = Augmenter(self.config.training, windows, random)
        windows = changes.crop(windows)
        question = self.objectives.ask(task, windows, random, changes.reorder)
        return replace(question, events=changes.mask(question.events))

    def _backward(self, question: Question, seed: int, answers: dict[str, float]) -> float:
        """Add the gradient of a part of a batch; answers: how many weigh one for each loss."""
        random = np.random.default_rng(seed)  # the same negatives for all parts of a batch
        shares, task = self.objectives.shares, self.objectives.weights[question.task]
        with self.autocast():
            losses = self.objectives.losses(self.model, question, random)
            parts = [
                shares[name] / task * question.counts[name] / answers[name] * loss
                for name, loss in losses.items()
            ]
            loss = torch.stack(parts).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.item()

    def _diverged(self, task: str, loss: float, windows: Sequence[Window]) -> str:
        users = sorted({window.tokens.user[window.row].tobytes().hex() for window in windows})
        return (
            f"{task} loss is {loss} at step {self.step + 1}; lower the learning rate "
            f"({self.config.training.learning_rate}) or look at the events of the users "
            f"{', '.join(users)}"
        )

    def _average(self) -> None:
        """Move the running average towards the weights; faster in the first steps."""
        decay = min(self.config.training.average, (1 + self.step) / (10 + self.step))
        for name, tensor in self.model.state_dict().items() if self.average else ():
            self.average[name].lerp_(tensor, 1 - decay)

    def evaluate(self, held_out: Sequence[Window]) -> dict[str, float]:
        """Judge on users that training never sees, and remember the best weights."""
        with self._averaged():
            losses = held_out_losses(self.model, self.objectives, held_out)
            shares = self.objectives.shares
            total = sum(shares[name] * loss for name, loss in losses.items())
            if losses:
                self.judged(total, lambda: copied(self.model.state_dict()), held_out=losses)
        return {f"held_out/{task}": loss for task, loss in losses.items()}

    def best_weights(self) -> Weights:
        """Weights of the best evaluation; the last (averaged) ones when nothing was compared."""
        with self._averaged():
            return self.best or copied(self.model.state_dict())

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Lend the model its averaged weights."""
        if not self.average:
            yield
            return
        own = copied(self.model.state_dict())
        self.model.load_state_dict(self.average)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def save(self, folder: Path) -> None:
        """Write a checkpoint."""
        average = {name: tensor.cpu() for name, tensor in self.average.items()}
        self.checkpoint(folder, model=copied(self.model.state_dict()), average=average)

    def restore(self, folder: Path) -> None:
        """Go on from the newest complete checkpoint, if there is one."""
        if weights := self.resume(folder):
            self.model.load_state_dict(weights["model"])
            self.average = {n: tensor.to(self.device) for n, tensor in weights["average"].items()}


@contextlib.contextmanager
def _perturbed(model: BehaviourModel, size: float) -> Iterator[None]:
    """Move the embeddings by `size` along their gradient, and back (FGM, Miyato et al. 2017)."""
    moved = []
    for table in model.tables():
        gradient = table.weight.grad
        norm = None if gradient is None else gradient.norm()
        if gradient is not None and norm:
            moved.append((table.weight, table.weight.detach().clone()))
            table.weight.data.add_(gradient, alpha=float(size / norm))
    try:
        yield
    finally:
        for weight, before in moved:
            weight.data.copy_(before)


def _publish(
    out_dir: Path,
    weights: Weights,
    vocabulary: Vocabulary,
    texts: ItemTexts | None,
    config: EncoderConfig,
    result: TrainingResult,
) -> None:
    """Write the finished encoder; training.json comes last and says that the rest is whole."""
    report = asdict(result) | {
        "format": FORMAT,
        "fitted_before": result.fitted_before.isoformat(),
        "scratch_before": result.scratch_before.isoformat(),
        "vocabulary": vocabulary.version,
        "preset": config.name,
    }
    for other in (out_dir / "checkpoints").iterdir():
        if other.name != result.training_id:
            shutil.rmtree(other)  # of older data or another configuration
    (out_dir / "training.json").unlink(missing_ok=True)
    save_file(weights, out_dir / "model.safetensors")
    (out_dir / "config.json").write_bytes(config.to_bytes())
    (out_dir / "vocabulary.json").write_bytes(vocabulary.to_bytes())
    if texts is not None:
        texts.save(out_dir)
    (out_dir / "training.json").write_text(json.dumps(report, indent=1) + "\n")
