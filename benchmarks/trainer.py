"""Our training loop against the `Trainer` of transformers: the same model, batches and updates.

    python -m benchmarks.trainer [--preset small] [--steps 80]

Both loops train the same `BehaviourModel` on Complete Journey: the same windows in the same order,
the same questions, random numbers, optimizer, learning rates and clipping, fp32, one thread, no
logging, no checkpoints. The losses of all steps must be equal, bit for bit. The loops take turns
step by step in one process, so that whatever else the machine does meets both; memory is that of
processes of their own. The first steps are not counted. `Trainer` needs the package accelerate
(peft brings it).

Last, where the CPU time of a step of our loop goes.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.measure import measure, table

if TYPE_CHECKING:
    from collections.abc import Callable

    from seq_ml.encoder.data.order import Order
    from seq_ml.encoder.training.pretrain import Trainer

WARM = 5
"""First steps that are not counted."""
LOOPS = ("seqline", "transformers")


@dataclass
class Stopwatch:
    """Wall and CPU seconds of each lap; the time between `stop` and `start` is nobody's."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def start(self) -> None:
        """Begin a lap."""
        self.began = (time.perf_counter(), time.process_time())

    def stop(self) -> None:
        """End it."""
        self.wall.append(time.perf_counter() - self.began[0])
        self.cpu.append(time.process_time() - self.began[1])


def train(mode: str, preset: str, data: Path, steps: int) -> dict[str, Any]:
    """Train `WARM + steps` steps by one loop, or by both in turns; return what was measured."""
    import torch

    from seq_ml.encoder.config import load_config
    from seq_ml.encoder.data.order import Order, split_windows
    from seq_ml.encoder.memory import return_freed_blocks
    from seq_ml.encoder.model.behaviour import BehaviourModel
    from seq_ml.encoder.training.loop import deterministic
    from seq_ml.encoder.training.pretrain import Trainer
    from seq_ml.tokens.shards import read_shards
    from seq_ml.tokens.vocabulary import Vocabulary

    config = load_config(preset)
    config = replace(config, training=replace(config.training, threads=1))
    vocabulary = Vocabulary.from_bytes((data / "vocabulary.json").read_bytes())
    windows, _ = split_windows(read_shards(data)[1], config)
    torch.set_num_threads(1)
    return_freed_blocks()

    def fresh() -> tuple[Trainer, Order]:
        torch.manual_seed(config.training.seed)
        model = BehaviourModel(config.model, vocabulary)
        return Trainer(model, vocabulary, config), Order(windows, config)

    ours, theirs = Stopwatch(), Stopwatch()
    found: dict[str, Any] = {}
    with deterministic(torch.device("cpu")):
        if mode == "turns":
            mine: list[float] = []
            trainer, order = fresh()

            def our_turn() -> None:
                theirs.stop()
                ours.start()
                mine.append(trainer.update(order.batch(trainer.step))["loss"])
                ours.stop()
                theirs.start()

            theirs.start()
            losses = their_loop(*fresh(), WARM + steps, our_turn)
            assert losses == mine, "the loops did not do the same"
            found = {
                name: {"wall": watch.wall[WARM:], "cpu": watch.cpu[WARM:]}
                for name, watch in zip(LOOPS, (ours, theirs), strict=True)
            }
        elif mode == "transformers":
            their_loop(*fresh(), WARM + steps, lambda: None)
        else:
            trainer, order = fresh()
            spent: dict[str, list[float]] = defaultdict(list)
            if mode == "parts":
                watch_parts(trainer, spent)
            for step in range(WARM + steps):
                trainer.update(order.batch(step))
            found = {name: 1e3 * sum(laps[WARM:]) / steps for name, laps in spent.items()}
    return found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}


def their_loop(
    trainer: Trainer, order: Order, steps: int, after_step: Callable[[], None]
) -> list[float]:
    """Train by transformers' Trainer: ours only lends it model, optimizer and questions."""
    import numpy as np
    import torch
    import transformers

    from seq_ml.encoder.training.optimizers import learning_rate

    settings, losses = trainer.config.training, []

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.behaviour = trainer.model

        def forward(self, question: Any, seeds: tuple[int, int]) -> dict[str, torch.Tensor]:
            torch.manual_seed(seeds[0])
            random = np.random.default_rng(seeds[1])
            loss = trainer.objectives.loss(self.behaviour, question, random)
            losses.append(loss.detach())
            return {"loss": loss}

    class Steps(torch.utils.data.Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return steps

        def __getitem__(self, step: int) -> int:
            return step

    def collate(numbers: list[int]) -> dict[str, Any]:
        (step,) = numbers
        random = np.random.default_rng([settings.seed, 1, step])
        seed = int(random.integers(2**62))
        task = trainer.objectives.draw(random)
        question = trainer._ask(task, order.batch(step), random)
        return {"question": question, "seeds": (seed, int(random.integers(2**62)))}

    class Watch(transformers.TrainerCallback):
        def on_step_end(self, *_: Any, **more: Any) -> None:  # noqa: ARG002
            after_step()

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> torch.utils.data.Sampler[int]:
            return torch.utils.data.SequentialSampler(Steps())

    with tempfile.TemporaryDirectory() as out:
        arguments = transformers.TrainingArguments(
            output_dir=out,
            max_steps=steps,
            per_device_train_batch_size=1,  # one item of the data set is one batch of windows
            learning_rate=settings.learning_rate,
            max_grad_norm=settings.clip,
            use_cpu=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            trainer.optimizer,
            lambda step: learning_rate(settings, step + 1) / settings.learning_rate,
        )
        InOrder(
            model=Model(),
            args=arguments,
            train_dataset=Steps(),
            data_collator=collate,
            optimizers=(trainer.optimizer, schedule),
            callbacks=[Watch()],
        ).train()
    return [loss.item() for loss in losses]


def watch_parts(trainer: Trainer, spent: dict[str, list[float]]) -> None:
    """Note the CPU seconds of the parts of each step of our loop."""

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def timing(*args: Any, **kwargs: Any) -> Any:
            began = time.process_time()
            try:
                return call(*args, **kwargs)
            finally:
                spent[name].append(time.process_time() - began)

        return timing

    for owner, method, name in (
        (trainer, "update", "step"),
        (trainer, "_ask", "data"),
        (trainer.objectives, "states", "states"),
        (trainer.objectives, "loss", "forward"),
        (trainer, "_backward", "forward and backward"),
        (trainer.optimizer, "step", "optimizer"),
    ):
        setattr(owner, method, timed(name, getattr(owner, method)))


def make_data(folder: Path, preset: str) -> dict[str, int]:
    """Write token shards of Complete Journey up to 91 days before its end."""
    from seq_ml.encoder.config import load_config
    from seq_ml.encoder.data.prepare import prepare
    from tests.data import AS_OF, journey

    data = journey(5_000)
    prepared = prepare(
        data["clean_events"].lazy(),
        data["items"],
        load_config(preset),
        folder,
        as_of=AS_OF - timedelta(days=91),
        origin="completejourney",
    )
    return {"events": prepared.manifest.events, "items": len(prepared.vocabulary.item_tokens)}


def markdown(turns: dict[str, Any], peaks: dict[str, float], parts: dict[str, float]) -> str:
    """Render the comparison, and the parts of a step."""
    rows = []
    for loop in LOOPS:
        cpu, wall = np.array(turns[loop]["cpu"]), np.array(turns[loop]["wall"])
        rows.append([loop, 1 / np.median(wall), 1e3 * cpu.mean(), f"{peaks[loop]:,.0f}"])
    pairs = np.stack([turns[loop]["cpu"] for loop in LOOPS])
    chosen = np.random.default_rng(0).integers(pairs.shape[1], size=(2000, pairs.shape[1]))
    means = pairs[:, chosen].mean(axis=2)
    low, high = np.quantile(means[1] / means[0], [0.025, 0.975])
    ratio = pairs[1].mean() / pairs[0].mean()
    backward = parts["forward and backward"] - parts["forward"]
    shown = {
        "data: windows, questions, repeat features": parts["data"],
        "forward: embeddings and backbone": parts["states"],
        "forward: item scores, repeat head, loss": parts["forward"] - parts["states"],
        "backward": backward,
        "optimizer": parts["optimizer"],
    }
    shown["clipping and the rest"] = parts["step"] - sum(shown.values())
    said = (
        f"CPU time of transformers ÷ ours: {ratio:.3f} [{low:.3f}, {high:.3f}] over "
        f"{pairs.shape[1]} steps in turns; equal losses in all of them."
    )
    return "\n".join(
        [
            table(["loop", "steps/s (median)", "CPU ms a step", "peak MB"], rows),
            "",
            said,
            "",
            table(
                ["part of a step", "CPU ms", "%"],
                [[name, ms, 100 * ms / parts["step"]] for name, ms in shown.items()],
            ),
        ]
    )


def main() -> None:
    """Measure both loops."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="small")
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument(
        "--mode", choices=["data", "turns", *LOOPS, "parts"], help=argparse.SUPPRESS
    )
    parser.add_argument("--data", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.mode == "data":
        print(json.dumps(make_data(chosen.data, chosen.preset)))
    elif chosen.mode:
        print(json.dumps(train(chosen.mode, chosen.preset, chosen.data, chosen.steps)))
    else:
        with tempfile.TemporaryDirectory() as folder:

            def once(mode: str, steps: int) -> dict[str, Any]:
                command = [sys.executable, "-m", "benchmarks.trainer", "--preset", chosen.preset,
                           "--steps", str(steps), "--mode", mode, "--data", folder]  # fmt: skip
                environment = {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
                return measure(command, environment).facts

            print(once("data", 0), flush=True)  # a child's peak begins at its parent's size
            turns = once("turns", chosen.steps)
            peaks = {loop: once(loop, chosen.steps // 4)["peak_mb"] for loop in LOOPS}
            print(markdown(turns, peaks, once("parts", chosen.steps // 2)))


if __name__ == "__main__":
    main()
