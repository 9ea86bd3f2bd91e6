"""Search for the hyper-parameters with the lowest held-out loss (Optuna).

A search is a YAML file:

    config: small          # preset or YAML file that the trials change
    trials: 20
    seed: 7
    space:
      training.learning_rate: {low: 1.0e-4, high: 1.0e-2, log: true}
      model.layers: {low: 1, high: 4}
      model.dim: [32, 64, 128]

Each trial is one `pretrain`. The sampler is TPE (Bergstra et al. 2011), the pruner stops a trial
whose loss is worse than the median of the earlier ones at the same step. What is minimised is the
loss on users that no trial trains on: the exact losses (softmax over all items, no dropout, fixed
random numbers) of the pre-training tasks, averaged by their weights. Such losses compare only
between trials that are asked the same questions: what decides the questions (tasks, horizon,
context, held-out users) or the data cannot be searched.

The study is a journal in the search's folder. The same call goes on where it was cut off: a killed
trial is tried again, from its newest checkpoint. The draws of a trial depend on the seed and the
trials before it alone, so a search that was cut off finds what an undisturbed one finds.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import shutil
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
import polars as pl
from optuna.distributions import distribution_to_json
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from seq_ml.encoder.config import UnusableError, objective_weights
from seq_ml.encoder.config_yaml import config_yaml
from seq_ml.encoder.search.space import changed_by, values_of
from seq_ml.encoder.training.loop import DivergedError
from seq_ml.encoder.training.pretrain import pretrain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.data.prepare import Prepared
    from seq_ml.encoder.search.space import Search
    from seq_ml.encoder.training.pretrain import TrainingResult

log = logging.getLogger(__name__)

ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
TABLE, MARKDOWN, BEST = "search.parquet", "search.md", "best.yaml"


@dataclass(frozen=True)
class SearchResult:
    """What a search knows so far.

    trials: one row per trial that ended, in order: trial, state (complete or pruned), loss (nats,
    null when pruned), step, seconds, a column for each key of the space, and why it was pruned.
    best: the configuration of the lowest loss, None before a trial is complete.  completed:
    whether all trials ended.
    """

    trials: pl.DataFrame
    best: EncoderConfig | None
    completed: bool


def search(
    prepared: Prepared,
    wanted: Search,
    folder: Path,
    *,
    on_trial: Callable[[str], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SearchResult:
    """Run, or go on with, a search until `wanted.trials` trials ended.

    folder receives the study (study.jsonl), the trials' trainings, the table of trials
    (search.parquet, search.md) and the best configuration (best.yaml). on_trial gets a sentence
    when a trial begins and ends. should_stop is asked after each training step; True leaves the
    trial to the next call.

    Raises ValueError when the folder holds another search, when another process searches there, or
    when there are no held-out users.
    """
    say = on_trial or log.info
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # `say` speaks alone
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        study = _open(folder, wanted, _identity(wanted, prepared))
        stopped = False
        while not stopped and len(_ended(study)) < wanted.trials:
            trial = _next_trial(study, wanted)
            stopped = not _run(study, trial, prepared, wanted, folder, say, should_stop)
            _tidy(study, folder)
        result = SearchResult(_table(study, wanted), _best(study, wanted), not stopped)
    _write(result, folder)
    return result


def _next_trial(study: optuna.Study, wanted: Search) -> optuna.Trial:
    """Return the trial that was cut off, with what it reported so far, else a new one."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if trial.params.keys() == wanted.space.keys():  # else it was cut off while it was drawn
            return optuna.Trial(study, trial._trial_id)
    # the sampler knows nothing but the seed and the study
    study.sampler = optuna.samplers.TPESampler(seed=wanted.seed + len(_ended(study)))
    return study.ask(dict(wanted.space))


def _run(
    study: optuna.Study,
    trial: optuna.Trial,
    prepared: Prepared,
    wanted: Search,
    folder: Path,
    say: Callable[[str], None],
    should_stop: Callable[[], bool] | None,
) -> bool:
    """Train one trial and tell the study; False when it was asked to stop before its end."""
    chosen = values_of(trial.params)
    name = f"trial {len(_ended(study)) + 1}"
    say(f"{name} of {wanted.trials}: {_shown(chosen)}")
    if _ended_before(study, trial):
        return True
    reported = study.get_trials(deepcopy=False)[trial.number].intermediate_values
    pruned = False

    def on_step(metrics: dict[str, float]) -> None:
        nonlocal pruned
        if (loss := _weighted(wanted.config, metrics, "held_out/")) is not None:
            if metrics["step"] not in reported:  # before it was cut off
                trial.report(loss, int(metrics["step"]))
            pruned = trial.should_prune()

    def ask() -> bool:
        return pruned or (should_stop is not None and should_stop())

    try:
        config = changed_by(wanted.config, chosen)
        place = folder / "trials" / _hash(chosen)
        trial.set_user_attr("folder", place.name)
        result = pretrain(
            prepared.shards,
            prepared.vocabulary,
            config,
            place,
            texts=prepared.texts,
            on_step=on_step,
            should_stop=ask,
        )
    except (DivergedError, UnusableError) as error:  # a bad choice, not a broken search
        trial.set_user_attr("why", str(error))
        study.tell(trial, state=TrialState.PRUNED)
        say(f"{name} ended: {error}")
        return True
    if not result.completed and not pruned:
        return False
    say(f"{name}: {_tell(study, trial, wanted, result)}")
    return True


def _ended_before(study: optuna.Study, trial: optuna.Trial) -> bool:
    """Whether a trial made the same choices before; this one then ends the same."""
    same = next((old for old in _ended(study) if old.params == trial.params), None)
    if same is None:
        return False
    for name, value in same.user_attrs.items():
        trial.set_user_attr(name, value)
    study.tell(trial, same.value if same.state == TrialState.COMPLETE else None, same.state)
    return True


def _tell(study: optuna.Study, trial: optuna.Trial, wanted: Search, result: TrainingResult) -> str:
    """Tell the study how the training of a trial ended; return it in words."""
    trial.set_user_attr("step", result.step)
    trial.set_user_attr("seconds", round(result.seconds, 1))
    if not result.completed:
        trial.set_user_attr("why", why := "worse than the median")
        study.tell(trial, state=TrialState.PRUNED)
        return f"stopped at step {result.step}: {why}"
    loss = _weighted(wanted.config, result.held_out, "")
    if loss is None:
        raise ValueError(
            "There are no held-out users to compare trials on: raise training.held_out_share"
        )
    study.tell(trial, loss)
    return f"held-out loss {loss:.4f}, best {study.best_value:.4f}"


def _weighted(config: EncoderConfig, metrics: Mapping[str, float], prefix: str) -> float | None:
    """Mean of the tasks' losses by their weights; None when they were not computed."""
    weights = objective_weights(config.training)
    losses = {task: metrics[prefix + task] for task in weights if prefix + task in metrics}
    if not losses:
        return None
    total = sum(weights[task] * loss for task, loss in losses.items())
    return total / sum(weights[task] for task in losses)


def _identity(wanted: Search, prepared: Prepared) -> str:
    space = {key: distribution_to_json(domain) for key, domain in wanted.space.items()}
    texts = "" if prepared.texts is None else prepared.texts.version
    return _hash([json.loads(wanted.config.to_bytes()), space, wanted.seed,
                  prepared.manifest.version, texts])  # fmt: skip


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def _open(folder: Path, wanted: Search, identity: str) -> optuna.Study:
    """Open the study; ValueError when it is one of another space, configuration, seed or data."""
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(folder / "study.jsonl"))),
        study_name="search",
        load_if_exists=True,
        pruner=optuna.pruners.MedianPruner(n_warmup_steps=wanted.config.training.steps // 4),
    )
    before = study.user_attrs.get("identity")
    if before not in (None, identity):
        raise ValueError(
            f"{folder}: holds a search of another space, configuration, seed or data, whose losses "
            "do not compare: choose another folder or remove it"
        )
    if before is None:
        study.set_user_attr("identity", identity)
    return study


def _ended(study: optuna.Study) -> list[optuna.trial.FrozenTrial]:
    trials: list[optuna.trial.FrozenTrial] = study.get_trials(deepcopy=False, states=ENDED)
    return trials


def _best(study: optuna.Study, wanted: Search) -> EncoderConfig | None:
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        return None
    return changed_by(wanted.config, {"name": "best"} | values_of(study.best_params))


def _table(study: optuna.Study, wanted: Search) -> pl.DataFrame:
    rows = [
        {
            "trial": number,
            "state": trial.state.name.lower(),
            "loss": trial.value if trial.state == TrialState.COMPLETE else None,
            "step": trial.user_attrs.get("step"),
            "seconds": trial.user_attrs.get("seconds"),
            **trial.params,
            "why": trial.user_attrs.get("why"),
        }
        for number, trial in enumerate(_ended(study), 1)
    ]
    kinds = {"trial": pl.Int64, "state": pl.String, "loss": pl.Float64, "step": pl.Int64,
             "seconds": pl.Float64, **dict.fromkeys(wanted.space), "why": pl.String}  # fmt: skip
    return pl.DataFrame(rows, schema=kinds, infer_schema_length=None)


def _write(result: SearchResult, folder: Path) -> None:
    """Write the table, for programs and for people, and the best configuration."""
    result.trials.write_parquet(folder / TABLE)
    ranked = result.trials.sort("loss", "trial", nulls_last=True)
    names = ranked.columns
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    lines += [f"| {' | '.join(map(_cell, row))} |" for row in ranked.rows()]
    head = (
        "Held-out loss in nats, weighted over the tasks: lower is better. It compares trials of "
        "this table only."
    )
    (folder / MARKDOWN).write_text("\n".join([head, "", *lines, ""]))
    if result.best is not None:
        (folder / BEST).write_text(config_yaml(result.best))


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _shown(chosen: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_cell(value)}" for key, value in chosen.items())


def _tidy(study: optuna.Study, folder: Path) -> None:
    """Keep the weights of the best trial only; the TensorBoard logs of all stay."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    best = study.best_trial.user_attrs["folder"] if complete else ""
    for trial in _ended(study):
        place = folder / "trials" / trial.user_attrs.get("folder", "none")
        shutil.rmtree(place / "checkpoints", ignore_errors=True)
        if place.name != best:
            for file in place.glob("*.safetensors"):
                file.unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder: a second search would take the first one's trial for a killed one."""
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"{folder}: another process is searching here") from None
        yield
