"""How much of a CUDA card pre-training uses: tokens per second and the share of its matrix peak.

    python -m benchmarks.gpu                  # base, bf16, 50M events, 500,000 items
    python -m benchmarks.gpu --preset tiny --events 50000 --items 2000 --steps 5    # runs anywhere

The log is generated: speed depends on its sizes only. Work is counted, not estimated: torch's
counter adds up the operations of all matrix products and attention (on a CPU attention is missing),
forward and backward, in the very steps that are timed, done once more without compilation. The peak
is the maker's figure for dense bf16 products. A step is timed whole, with the making of its
questions on the CPU.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.measure import machine, table
from benchmarks.scoring import generated_users, generated_vocabulary

if TYPE_CHECKING:
    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.data.order import Order
    from seq_ml.encoder.training.pretrain import Trainer

PEAKS = {
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H200": 989e12, "A100": 312e12,
    "L40S": 362e12, "L4": 121e12,
}  # fmt: skip
"""Dense bf16 operations per second by a part of the card's name; the first that fits counts."""
WARM = 20
"""Steps before the clock starts: compilation, and memory that is fetched once."""
EVENTS_OF_A_USER = 100


def train(config: EncoderConfig, events: int, items: int, steps: int) -> dict[str, Any]:
    """Time `steps` steps after `WARM` ones, and count their work."""
    import torch

    from seq_ml.encoder.data.order import Order, split_windows
    from seq_ml.encoder.model.behaviour import BehaviourModel
    from seq_ml.encoder.training.pretrain import Trainer

    # generated ids are not drawn like pseudonyms: none is held out
    config = replace(config, training=replace(config.training, held_out_share=0.0))
    vocabulary = generated_vocabulary(items)
    users = max(config.training.windows, events // EVENTS_OF_A_USER)
    tokens = generated_users(0, users, items=items, events=EVENTS_OF_A_USER)
    order = Order(split_windows([tokens], config)[0], config)

    def fresh(*, compiled: bool) -> Trainer:
        torch.manual_seed(config.training.seed)
        chosen = replace(config, training=replace(config.training, compile=compiled))
        return Trainer(BehaviourModel(config.model, vocabulary), vocabulary, chosen)

    work = counted(fresh(compiled=False), order, steps)
    trainer = fresh(compiled=config.training.compile)
    cuda = trainer.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()  # the counting pass before was another one
    for step in range(WARM):
        trainer.update(order.batch(step))
    making = watch_making(trainer)
    tokens_read = 0
    began = _now()
    for step in range(WARM, WARM + steps):
        windows = order.batch(step)
        tokens_read += sum(window.stop - window.start for window in windows)
        trainer.update(windows)
    seconds = _now() - began
    name = torch.cuda.get_device_name() if cuda else "CPU"
    peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    return {
        "device": name,
        "steps_s": steps / seconds,
        "tokens_s": tokens_read / seconds,
        "tflop_s": work / seconds / 1e12,
        "peak_share": work / seconds / peak if peak else None,
        "making_share": sum(making) / seconds,
        "card_mb": torch.cuda.max_memory_allocated() / 1e6 if cuda else 0.0,
    }


def counted(trainer: Trainer, order: Order, steps: int) -> float:
    """Return the operations of all matrix products and attention in the steps after `WARM`."""
    from torch.utils.flop_counter import FlopCounterMode

    trainer.state["step"] = WARM
    with FlopCounterMode(display=False) as counter:
        for step in range(WARM, WARM + steps):
            trainer.update(order.batch(step))
    return float(counter.get_total_flops())


def watch_making(trainer: Trainer) -> list[float]:
    """Note the seconds in which each question is made, on the CPU, while the card waits."""
    spent: list[float] = []
    make = trainer._ask

    def timed(*args: Any) -> Any:
        began = time.perf_counter()
        try:
            return make(*args)
        finally:
            spent.append(time.perf_counter() - began)

    trainer._ask = timed  # type: ignore[assignment,method-assign]
    return spent


def _now() -> float:
    """Return the time after all that was asked of the card is done."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def main() -> None:
    """Measure and print one row."""
    from seq_ml.encoder.config import load_config

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="base")
    parser.add_argument("--events", type=int, default=50_000_000)
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    print(json.dumps(machine()))
    found = train(load_config(options.preset), options.events, options.items, options.steps)
    share = found["peak_share"]
    row = [
        found["device"], found["steps_s"], found["tokens_s"], found["tflop_s"],
        "unknown" if share is None else f"{share:.1%}", f"{found['making_share']:.1%}",
        found["card_mb"],
    ]  # fmt: skip
    heads = ["device", "steps/s", "tokens/s", "TFLOP/s", "of the peak", "making data", "card MB"]
    print(table(heads, [row]))


if __name__ == "__main__":
    main()
