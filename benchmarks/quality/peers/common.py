"""What every runner of a peer shares: reading a split, choosing ten items, measuring, writing.

The runners are scripts of their own environments, so this file imports only numpy and pandas:

    .venv-peers/replay/bin/python benchmarks/quality/peers/replay_models.py SPLIT OUT \\
        --model sasrec --seed 1 --epochs 50

OUT then holds `lists.parquet` (user, repeats, novel: the ten best items, of all candidates and of
those not in the user's history; `repeats` is null where the split asks for novel items only) and
`run.json` (seconds of training and scoring, sequences, events and users a second, peak memory,
number of parameters).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd

K = 10
USERS_AT_ONCE = 256
EVALUATE_EVERY = 4
PATIENCE = 12


class Task:
    """The arguments and the split; a runner calls `train`, then `recommend` or `write`."""

    def __init__(self, doc, models):
        parser = argparse.ArgumentParser(description=doc)
        parser.add_argument("split", type=Path)
        parser.add_argument("out", type=Path)
        parser.add_argument("--model", required=True, choices=models)
        parser.add_argument("--seed", type=int, default=1)
        parser.add_argument("--epochs", type=int)
        self.arguments = parser.parse_args()
        self.model, self.seed = self.arguments.model, self.arguments.seed
        self.epochs = self.arguments.epochs
        split = self.arguments.split
        self.meta = json.loads((split / "meta.json").read_text())
        self.items = self.meta["items"]
        self.history = pd.read_parquet(split / "history.parquet").sort_values(["user", "position"])
        self.scored = np.sort(pd.read_parquet(split / "truth.parquet")["user"].unique())
        self.sequences = _by_user(self.history)
        self.learnt = _by_user(self.history[self.history["learnt"]])
        self.kept = None
        self.evaluating = 0.0
        self.report = {"model": self.model, "seed": self.seed, "epochs": self.epochs}

    def train(self, fit, *, sequences, events, parameters):
        """Time `fit()`, which sees so many sequences and events an epoch.

        Rates count processor seconds, so that what else the machine does matters little.
        """
        begin, cpu = time.perf_counter(), time.process_time()
        fit()
        cpu = time.process_time() - cpu - self.evaluating
        self.report |= {
            "epochs": self.epochs,
            "kept_epoch": self.kept[1] if self.kept else self.epochs,
            "validation_ndcg": self.kept[0] if self.kept else None,
            "training_seconds": time.perf_counter() - begin,
            "training_cpu_seconds": cpu,
            "sequences_per_cpu_second": sequences * self.epochs / cpu,
            "events_per_cpu_second": events * self.epochs / cpu,
            "parameters": int(parameters()),
        }

    def judge(self, epoch, module, scores):
        """Keep the weights if the validation NDCG@10 rose; return whether it has stopped rising.

        The validation is each user's event that is read but not learnt; a split without any trains
        all epochs.  scores: see `recommend`.
        """
        users = [user for user in self.scored if len(self.learnt[user]) < len(self.sequences[user])]
        if not users:
            return False
        begin = time.process_time()
        targets = np.array([self.sequences[user][-1] for user in users])
        module.eval()
        hits = self._lists(scores, self.learnt, np.array(users), seen=False) == targets[:, None]
        module.train()
        ndcg = float(np.where(hits.any(1), 1 / np.log2(hits.argmax(1) + 2), 0.0).mean())
        print(f"epoch {epoch}: validation NDCG@10 {ndcg:.4f}", flush=True)
        if self.kept is None or ndcg > self.kept[0]:
            weights = {name: value.clone() for name, value in module.state_dict().items()}
            self.kept = (ndcg, epoch, weights)
        self.evaluating += time.process_time() - begin
        return epoch - self.kept[1] >= PATIENCE

    def restore(self, module, epochs):
        """Put the kept weights back after so many epochs."""
        self.epochs = epochs
        if self.kept is not None:
            module.load_state_dict(self.kept[2])

    def keep_best(self, callback, scores, module):
        """Return a Lightning callback that judges every few epochs and restores in the end."""
        task = self

        class KeepBest(callback):
            def on_train_epoch_end(self, trainer, *_):
                epoch = trainer.current_epoch + 1
                if epoch % EVALUATE_EVERY == 0:
                    trainer.should_stop = task.judge(epoch, module(), scores)

            def on_train_end(self, trainer, *_):
                task.restore(module(), trainer.current_epoch)

        return KeepBest()

    def recommend(self, scores):
        """Choose ten items for every scored user.

        scores(users, sequences) returns f32 [users, items] after reading `sequences[user]`.
        """
        begin = time.process_time()
        novel = self._lists(scores, self.sequences, self.scored, seen=False)
        seconds = time.process_time() - begin
        repeats = None
        if self.meta["repeats"]:
            repeats = self._lists(scores, self.sequences, self.scored, seen=True)
        self.write(novel, repeats, seconds)

    def write(self, novel, repeats, seconds):
        """Write what was recommended: [users, ten] in the order of `scored`."""
        self.report |= {
            "scoring_cpu_seconds": seconds,
            "users_per_cpu_second": len(self.scored) / seconds,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        lists = pd.DataFrame({"user": self.scored, "novel": list(novel)})
        lists["repeats"] = list(repeats) if repeats is not None else None
        self.arguments.out.mkdir(parents=True, exist_ok=True)
        lists.to_parquet(self.arguments.out / "lists.parquet", index=False)
        text = json.dumps(self.report, indent=1)
        (self.arguments.out / "run.json").write_text(text + "\n")
        print(text)

    def _lists(self, scores, sequences, users, *, seen):
        chosen = []
        for begin in range(0, len(users), USERS_AT_ONCE):
            part = users[begin : begin + USERS_AT_ONCE]
            table = np.asarray(scores(part, sequences), np.float32)
            chosen.append(ten_best(table, None if seen else [sequences[user] for user in part]))
        return np.concatenate(chosen)


def ten_best(table, excluded=None):
    """Numbers of the ten highest scores of each row, best first, ties by number.

    table: f32 [users, items], changed in place.  excluded: items of each user that do not count.
    """
    if excluded is not None:
        for row, items in enumerate(excluded):
            table[row, items] = -np.inf
    best = np.sort(np.argpartition(-table, K, axis=1)[:, :K], axis=1)
    order = np.argsort(-np.take_along_axis(table, best, 1), axis=1, kind="stable")
    return np.take_along_axis(best, order, 1).astype(np.int32)


def _by_user(events):
    """Items of each user in their order; every user has events, and their number is the place."""
    ends = np.flatnonzero(np.diff(events["user"].to_numpy())) + 1
    return np.split(events["item"].to_numpy(), ends)


def one_thread():
    """Use one thread; to be called before numpy's and torch's users are imported."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = "1"
    import torch

    torch.set_num_threads(1)
