"""The encoder from plain files, without the pipeline: `python -m seq_ml.encoder …`.

    config small > mine.yaml
    train events.parquet items.parquet --as-of 2017-10-02 --config mine.yaml --out model
    report model events.parquet
    score model events.parquet --as-of 2017-10-02 --out scores.parquet

`seqline model …` is the same, and has `finetune` beside. docs/encoder.md is the guide.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seq_ml.settings import THREADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import polars as pl

    from seq_ml.encoder.config import EncoderConfig
    from seq_ml.encoder.data.prepare import Prepared
    from seq_ml.encoder.scoring.encoder import Encoder

model = typer.Typer(
    help="Train the sequence model on plain files, search its settings, use it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EVENTS = Annotated[
    Path,
    typer.Argument(exists=True, help="Events: a Parquet or CSV file, or a folder of them."),
]
ITEMS = Annotated[Path | None, typer.Argument(exists=True, help="The catalogue, likewise.")]
FOLDER = Annotated[Path, typer.Argument(exists=True, file_okay=False, help="What `train` wrote.")]
AS_OF = Annotated[
    str, typer.Option(help="Only events before it are read: a day (its midnight) or time, UTC.")
]


@model.command()
def config(
    preset: Annotated[str, typer.Argument(help="tiny, small, base, large, or a YAML file.")],
) -> None:
    """Print a whole configuration with what each key means, to copy and edit."""
    with plain_errors():
        from seq_ml.encoder.config import load_config
        from seq_ml.encoder.config_yaml import config_yaml

        typer.echo(config_yaml(load_config(preset)), nl=False)


@model.command()
def train(
    events: EVENTS,
    out: Annotated[Path, typer.Option(help="Folder of the encoder; a stopped training goes on.")],
    as_of: AS_OF,
    items: ITEMS = None,
    config: Annotated[str, typer.Option(help="Preset or YAML file.")] = "small",
    start: Annotated[
        Path | None,
        typer.Option(exists=True, file_okay=False, help="An earlier encoder to continue from."),
    ] = None,
) -> None:
    """Pre-train an encoder; the same command goes on where it was stopped or killed.

    With --start the training is a short one on new events and some old ones, and every item that
    the earlier encoder knows keeps its token. Give it all events, the old ones too.
    """
    with plain_errors():
        from seq_ml.encoder.config import load_config
        from seq_ml.encoder.training.growth import continued
        from seq_ml.encoder.training.logs import progress
        from seq_ml.encoder.training.pretrain import pretrain
        from seq_ml.encoder.training.stopping import stop_on_signal

        settings = load_config(config)
        prepared = _prepare(events, items, settings, out, as_of, start)
        steps = (continued(settings) if start else settings).training.steps
        say(f"training {settings.name}: {steps} steps, TensorBoard logs in {out / 'tensorboard'}")
        with stop_on_signal() as should_stop:
            result = pretrain(
                prepared.shards,
                prepared.vocabulary,
                settings,
                out,
                texts=prepared.texts,
                start=start,
                on_step=progress(say),
                should_stop=should_stop,
            )
        if not result.completed:
            say(f"stopped and saved at step {result.step}; the same command goes on from here")
            raise typer.Exit(130)
        losses = ", ".join(f"{task} {loss:.4f}" for task, loss in result.held_out.items())
        say(f"done at step {result.step}; best at step {result.best_step}: held-out {losses}")
        say(f"encoder {result.training_id} lies in {out}")


@model.command()
def score(
    folder: FOLDER,
    events: EVENTS,
    as_of: AS_OF,
    out: Annotated[Path, typer.Option(help="Parquet file: user_id, rank, item_id, score.")],
    items: ITEMS = None,
    top: Annotated[int, typer.Option(min=1, help="Items for each user.")] = 10,
    filter_seen: Annotated[
        bool, typer.Option("--filter-seen/--keep-seen", help="Leave out the items of the sequence.")
    ] = False,
    deny: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Items that nobody gets: an id a line."),
    ] = None,
) -> None:
    """Write the best items of each user with an event before --as-of, of the whole catalogue.

    With ITEMS, its items that the encoder has no token for compete by category and text.
    """
    with plain_errors():
        import polars as pl

        from seq_ml.encoder.data.plain_files import plain_events, plain_items
        from seq_ml.encoder.scoring.cold import cold_items

        encoder, instant, log = load(folder), _instant(as_of), plain_events(events)
        denied = deny.read_text().splitlines() if deny else []
        cold = cold_items(encoder, plain_items(items), before=instant) if items else None
        if cold is not None and filter_seen:  # a sequence does not say which of them it met
            met = log.frame.filter(
                pl.col("event_time") < instant, pl.col("item_id").is_in(cold.item_ids)
            )
            denied += met.select("item_id").unique().collect()["item_id"].to_list()
        lists = encoder.top_items(
            encoder.sequences(log.frame, instant),
            instant,
            k=top,
            filter_seen=filter_seen,
            deny=denied,
            cold=cold,
        )
        rows = _write(out, (log.named(best.frame()) for best in lists))
        say(f"wrote {rows:,} rows to {out}")


@model.command()
def embed(
    folder: FOLDER,
    events: EVENTS,
    as_of: AS_OF,
    out: Annotated[Path, typer.Option(help="Folder for users.parquet and items.parquet.")],
) -> None:
    """Write the vectors of all users with an event before --as-of, and of the items."""
    with plain_errors():
        from seq_ml.encoder.data.plain_files import plain_events
        from seq_ml.encoder.scoring.vectors import item_rows, user_rows

        encoder, instant, log = load(folder), _instant(as_of), plain_events(events)
        out.mkdir(parents=True, exist_ok=True)
        parts = encoder.sequences(log.frame, instant)
        users = map(log.named, user_rows(encoder, parts, instant))
        rows, items = _write(out / "users.parquet", users), item_rows(encoder)
        items.write_parquet(out / "items.parquet")
        say(f"wrote {rows:,} users and {len(items):,} items to {out}")


@model.command()
def report(
    folder: FOLDER,
    events: EVENTS,
    as_of: AS_OF = "",
) -> None:
    """Judge an encoder on the 30 days after its cut-off, beside popularity and counting.

    Written to FOLDER/report as report.md and report.json.
    """
    with plain_errors():
        import json

        from seq_ml.encoder.data.plain_files import plain_events
        from seq_ml.encoder.evaluation.report import encoder_report, report_markdown

        encoder = load(folder)
        instant = _instant(as_of) if as_of else encoder.fitted_before
        judged = encoder_report(encoder, plain_events(events).frame, instant)
        place = folder / "report"
        place.mkdir(exist_ok=True)
        (place / "report.json").write_text(json.dumps(judged, indent=1) + "\n")
        (place / "report.md").write_text(report_markdown(judged) + "\n")
        typer.echo(report_markdown(judged))


@model.command()
def search(
    events: EVENTS,
    space: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="What to search.")],
    out: Annotated[Path, typer.Option(help="Folder of the search; a stopped one goes on.")],
    as_of: AS_OF,
    items: ITEMS = None,
) -> None:
    """Search hyper-parameters by held-out loss; the same command goes on where it stopped.

    Writes search.md, search.parquet and best.yaml, a configuration for `train`.
    """
    with plain_errors():
        from seq_ml.encoder.search.run import BEST, MARKDOWN
        from seq_ml.encoder.search.run import search as run
        from seq_ml.encoder.search.space import load_search
        from seq_ml.encoder.training.stopping import stop_on_signal

        wanted = load_search(space)
        prepared = _prepare(events, items, wanted.config, out, as_of)
        with stop_on_signal() as should_stop:
            result = run(prepared, wanted, out, on_trial=say, should_stop=should_stop)
        typer.echo((out / MARKDOWN).read_text())
        if not result.completed:
            say("stopped; the same command goes on from here")
            raise typer.Exit(130)
        say(f"best configuration: {out / BEST}")


def _prepare(
    events: Path,
    items: Path | None,
    settings: EncoderConfig,
    out: Path,
    as_of: str,
    start: Path | None = None,
) -> Prepared:
    """Read the files, or find what an earlier call made of them."""
    from seq_ml.encoder.data.plain_files import plain_events, plain_files, plain_items
    from seq_ml.encoder.data.prepare import origin_of, prepare

    instant = _instant(as_of)
    extends = None if start is None else load(start).vocabulary
    files = [*plain_files(events), *(plain_files(items) if items else [])]
    say(f"reading events before {instant:%Y-%m-%d %H:%M} UTC from {len(files)} files")
    prepared = prepare(
        plain_events(events).frame,
        plain_items(items),
        settings,
        out / "data",
        as_of=instant,
        origin=origin_of(files),
        extends=extends,
    )
    manifest = prepared.manifest
    say(
        f"{manifest.events:,} events of {manifest.users:,} users, "
        f"{len(prepared.vocabulary.item_tokens):,} items with a token of their own"
    )
    return prepared


def load(folder: Path) -> Encoder:
    """Load what `train` wrote; ValueError when it did not end, or an earlier release did it."""
    from seq_ml.encoder.scoring.encoder import Encoder
    from seq_ml.encoder.training.checkpoints import is_readable

    if not (folder / "training.json").exists():
        raise ValueError(f"{folder}: holds no finished encoder; train one, or let its training end")
    if not is_readable(folder):
        raise ValueError(f"{folder}: trained by another release, which this one cannot read")
    return Encoder.load(folder)


def _write(out: Path, frames: Iterable[pl.DataFrame]) -> int:
    """Write frames one after another into one Parquet file; return the number of rows.

    Raises ValueError when there are none.
    """
    import pyarrow.parquet as pq

    partial, writer, rows = out.with_name(f"{out.name}.partial"), None, 0
    for frame in frames:
        table = frame.to_arrow()
        writer = writer or pq.ParquetWriter(partial, table.schema)
        writer.write_table(table)
        rows += frame.height
    if writer is None:
        raise ValueError("There is no event before --as-of")
    writer.close()
    partial.replace(out)
    return rows


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"--as-of '{text}': expected a day or time like 2017-10-02 or 2017-10-02T05:00"
        ) from None
    return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a person can act on into one sentence."""
    os.environ.update({**THREADS, **os.environ})
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    try:
        yield
    except (ValueError, OSError, ArithmeticError) as error:  # the last: a training diverged
        logging.getLogger(__name__).debug("what happened", exc_info=True)
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        say("stopped; the same command begins again")
        raise typer.Exit(130) from None


_began = time.monotonic()


def say(text: str) -> None:
    """Print a line with the time since the command began."""
    seconds = int(time.monotonic() - _began)
    typer.echo(f"{seconds // 60:3d}:{seconds % 60:02d} {text}")
