"""`seqline model finetune`: fit the encoder to churn, or to labels of your own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path  # noqa: TC003, typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import typer

from seq_assets.cli import terminal
from seq_ml.encoder.commands import plain_errors, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    import polars as pl

    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.tasks.data import TaskData

CARD, REPORT, NUMBERS, PREDICTIONS = "card.md", "report.md", "report.json", "predictions.parquet"


@dataclass(frozen=True)
class Given:
    """What is fitted, and to what.

    events: what the encoder reads.  data: what tells who churned.  end: both end before it.
    known: gives rows the ids of the events.  named: your own.
    """

    encoder: Encoder
    events: pl.LazyFrame
    data: TaskData
    end: datetime
    known: Callable[[pl.DataFrame], pl.DataFrame]
    named: Callable[[pl.DataFrame], pl.DataFrame]


def finetune(
    out: Annotated[Path, typer.Option(help="Folder of the result; a stopped one goes on.")],
    task: Annotated[str, typer.Option(help="What to learn: silence or decline (churn).")] = "",
    labels: Annotated[
        Path | None,
        typer.Option(exists=True, help="Your own: user_id, origin, label (0 or 1); Parquet, CSV."),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(help="full, frozen, partial, lora, adalora, adapter, prefix. Default: lora."),
    ] = None,
    settings: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="YAML: steps, learning_rate, rank …"),
    ] = None,
    encoder: Annotated[
        Path | None,
        typer.Option(
            exists=True, file_okay=False, help="What `train` wrote. Default: the current."
        ),
    ] = None,
    events: Annotated[
        Path | None,
        typer.Option(exists=True, help="Events of --encoder: a Parquet or CSV file, or a folder."),
    ] = None,
) -> None:
    """Fine-tune the encoder to churn, or to labels of your own; the same command goes on.

    Without --encoder and --events it takes the pipeline's. Writes to --out what was trained, a
    report beside the encoder as it is, a model card, and the probability of every user today.
    """
    with terminal.plain_errors(), plain_errors():
        import json

        from seq_ml.encoder.finetuning.card import card, worth_markdown
        from seq_ml.encoder.finetuning.worth import load_settings, tune
        from seq_ml.encoder.training.logs import progress
        from seq_ml.encoder.training.stopping import stop_on_signal

        if bool(task) == (labels is not None) or (encoder is None) != (events is None):
            raise ValueError("expected either --task or --labels, and --encoder with --events")
        plan = load_settings(settings, method)
        given = _of_files(encoder, events) if encoder and events else _of_pipeline()
        answers = _answers(given, task, labels)
        name = task or labels.stem  # type: ignore[union-attr]
        say(f"{name}: {answers.height:,} labels of {answers['user_id'].n_unique():,} users")
        with stop_on_signal() as should_stop:
            done = tune(
                given.encoder,
                given.events,
                answers,
                plan,
                name=name,
                checkpoints=out / "checkpoints",
                on_step=progress(say),
                should_stop=should_stop,
            )
        if done is None:
            say("stopped and saved; the same command goes on from here")
            raise typer.Exit(130)
        tuned, worth = done
        tuned.save(out)
        (out / CARD).write_text(card(tuned, worth))
        (out / REPORT).write_text(worth_markdown(worth))
        (out / NUMBERS).write_text(json.dumps(worth.as_json(), indent=1) + "\n")
        given.named(tuned.today(name, given.events, given.end)).write_parquet(out / PREDICTIONS)
        typer.echo(worth_markdown(worth))
        say(f"written to {out}: {CARD}, {REPORT}, {PREDICTIONS}")


def _answers(given: Given, task: str, labels: Path | None) -> pl.DataFrame:
    """Return the labels (schema LABELS) under the ids of the events."""
    from seq_ml.encoder.data.plain_files import plain_labels
    from seq_ml.tasks.churn.labels import DEFINITIONS, labels_since

    if labels is None:
        if task not in DEFINITIONS:
            raise ValueError(f"--task '{task}': expected one of {', '.join(DEFINITIONS)}")
        since = given.encoder.fitted_before
        return labels_since(task, given.data, given.end, since=since)
    theirs = plain_labels(labels, known_by=given.end)
    known = given.known(theirs)
    if known.is_empty():
        raise ValueError(f"{labels}: no user of the {theirs.height:,} labels has an event")
    return known


def _of_files(folder: Path, place: Path) -> Given:
    import polars as pl

    from seq_ml.business import Business
    from seq_ml.encoder.commands import load
    from seq_ml.encoder.data.plain_files import plain_events, plain_items
    from seq_ml.tasks.data import TaskData

    log, nothing, business = plain_events(place), pl.DataFrame(), Business()
    last = log.frame.select(pl.col("event_time").max()).collect().item()
    end = business.midnight_after(last, 1)
    counted = log.frame.with_columns(pl.col("quantity").fill_null(1.0))  # as cleaning does
    data = TaskData(counted, plain_items(None), nothing, nothing, nothing.lazy(), business)
    return Given(load(folder), log.frame, data, end, log.known, log.named)


def _of_pipeline() -> Given:
    from functools import partial

    from seq_assets.resources import Storage, load_encoder, task_data
    from seq_ml.sequences import cutoffs
    from seq_ml.tables.read import with_own_ids, with_pseudonyms

    storage = Storage()
    encoder = None
    try:
        as_of = cutoffs.recorded(storage.tables).as_of
        encoder = load_encoder(storage)
    except KeyError:
        pass
    if encoder is None:
        raise ValueError(
            "there is no encoder yet: `seqline run` or `seqline demo` trains one, or name your own "
            "with --encoder and --events"
        )
    ids, data = (storage.objects, storage.settings), task_data(storage, None)
    return Given(
        encoder,
        data.events,
        data,
        as_of,
        partial(with_pseudonyms, *ids),
        partial(with_own_ids, *ids),
    )
