"""The `seqline` command: the demo, your own files, the published tables, the UI, the storage."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path  # noqa: TC003  Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seq_assets.cli import terminal
from seq_assets.cli.erase import erase
from seq_assets.cli.finetune import finetune
from seq_assets.cli.history import history
from seq_assets.cli.quarantine import quarantine
from seq_assets.cli.sources import sources
from seq_assets.cli.upkeep import upkeep
from seq_ml.encoder.commands import model
from seq_ml.settings import home, load_settings

if TYPE_CHECKING:
    import dagster as dg

    from seq_ml.storage.objects import ObjectStore

app = typer.Typer(
    help="From raw behaviour logs to recommendation, churn, inventory and ad tables.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
storage_app = typer.Typer(help="The embedded S3 server.", no_args_is_help=True)
app.add_typer(storage_app, name="storage")
app.add_typer(sources, name="sources")
app.add_typer(model, name="model")
model.command()(finetune)

AS_OF = Annotated[
    str, typer.Option(help="Business day YYYY-MM-DD that has not begun; default: the newest.")
]


@app.command()
def demo() -> None:
    """Run a year of a real grocer through the pipeline: drops → tables."""
    with terminal.plain_errors(), terminal.instance() as instance:
        from seq_ml.ingest.landing import land_demo_days, land_demo_history

        objects = terminal.connect()
        terminal.say("Landing the history of Complete Journey as daily drops")
        changed = land_demo_history(objects, terminal.say)
        _settle(instance)
        terminal.say("Landing the last days as new drops")
        changed += land_demo_days(objects, terminal.say)
        _settle(instance)
        if not changed:
            terminal.say("  nothing new")
        _train_and_tell(instance, objects, as_of="")


@app.command()
def run(
    folder: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Your files.")],
    source: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="Source mapping.")],
    as_of: AS_OF = "",
) -> None:
    """Land everything in FOLDER as drops and carry it through to published tables."""
    with terminal.plain_errors(), terminal.instance() as instance:
        from seq_ml.ingest.landing import land_folder

        objects = terminal.connect()
        terminal.say(f"Landing {folder} as drops")
        began = datetime.now(UTC)
        land_folder(objects, folder, source.read_text(), str(source), terminal.say)
        _settle(instance)
        _stop_at_losses(objects, began)
        _train_and_tell(instance, objects, as_of=as_of)


@app.command()
def tables(
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable.")] = False,
) -> None:
    """List the tables: name, rows, as_of, version, URI, and what became of each in the last run."""
    with terminal.plain_errors():
        from seq_ml.tables.read import list_published

        listed = list_published(terminal.connect())
        if as_json:
            import json

            typer.echo(json.dumps(listed, indent=1, default=str))
        else:
            _show_tables(listed)


@app.command()
def export(
    table: Annotated[str, typer.Argument(help="Name of a published table.")],
    out: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    as_of: AS_OF = "",
) -> None:
    """Write one snapshot of a table to a Parquet file, with your own user ids."""
    with terminal.plain_errors():
        from datetime import date

        from seq_ml.tables.read import export_table

        day = date.fromisoformat(as_of) if as_of else None
        rows = export_table(terminal.connect(), load_settings(), table, out, day)
        terminal.say(f"wrote {rows:,} rows to {out}")


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of the Dagster UI.")] = 3000,
) -> None:
    """Open the Dagster UI on the instance of the demo, with sensors and schedules."""
    with terminal.plain_errors():
        from seq_assets.cli.errors import only_one
        from seq_assets.cli.ui import serve

        terminal.dagster_home()
        terminal.connect()
        with only_one("ui"):
            raise typer.Exit(serve(port, terminal.say))


app.command()(quarantine)
app.command()(history)
app.command()(erase)
app.command()(upkeep)


@storage_app.command("start")
def storage_start() -> None:
    """Start the embedded server (or check the storage that AWS_* names)."""
    with terminal.plain_errors():
        terminal.say(f"storage ready: {terminal.connect().config}")


@storage_app.command("stop")
def storage_stop() -> None:
    """Stop the embedded server."""
    with terminal.plain_errors():
        from seq_ml.storage import EmbeddedServer

        stopped = EmbeddedServer(home() / "server").stop()
        terminal.say("storage stopped" if stopped else "the storage did not run")


@storage_app.command("env")
def storage_env() -> None:
    """Print the variables that point DuckDB, pandas, Spark … at the storage."""
    with terminal.plain_errors():
        config = terminal.connect().config
        lines = {
            "AWS_ACCESS_KEY_ID": config.access_key,
            "AWS_SECRET_ACCESS_KEY": config.secret_key,
            "AWS_REGION": config.region,
        }
        if config.endpoint:
            lines |= {"AWS_ENDPOINT_URL": config.endpoint, "AWS_ALLOW_HTTP": "true"}
        for name, value in lines.items():
            typer.echo(f"export {name}={value}")


def _settle(instance: dg.DagsterInstance) -> None:
    from seq_assets.cli.driver import Driver

    terminal.say("Sensors look for work: ingest, clean, check, publish days")
    Driver(instance, terminal.say).settle()


def _stop_at_losses(objects: ObjectStore, since: datetime) -> None:
    """Raise RowsLostError when a file of this command lost nearly all rows to one rule."""
    from seq_assets.cli.errors import RowsLostError
    from seq_ml.clean.losses import losses
    from seq_ml.storage.tables import TableStore

    lost = losses(TableStore(objects), since=since)
    if lost:
        more = f" So do {len(lost) - 1:,} more files." if lost[1:] else ""
        raise RowsLostError(
            f"{lost[0]}{more} Nothing was trained; the same command again goes on without these "
            "rows, `seqline quarantine` shows them all."
        )


def _train_and_tell(instance: dg.DagsterInstance, objects: ObjectStore, *, as_of: str) -> None:
    """Run the retraining and say what became of the tables, also where steps of it failed."""
    from seq_assets.cli.errors import RunFailedError

    try:
        _train(instance, as_of=as_of)
    except RunFailedError as error:
        terminal.console.print()
        _list_tables(objects, failed=error.run_id)
        terminal.console.print()
        raise
    _summary(objects)


def _train(instance: dg.DagsterInstance, *, as_of: str) -> None:
    """Run the retraining unless it already ran through for exactly this data."""
    import dagster as dg

    from seq_assets.cli.driver import Driver
    from seq_assets.resources import Storage
    from seq_ml.registry.rounds import data_version

    storage = Storage()
    state = data_version(storage.tables, storage.settings, storage.business, as_of)
    done = instance.get_runs(
        filters=dg.RunsFilter(
            job_name="retrain",
            statuses=[dg.DagsterRunStatus.SUCCESS],
            tags={"seqline/data_version": state},
        ),
        limit=1,
    )
    if done:
        terminal.say(
            "Models and tables are up to date: nothing new has arrived since they were made"
        )
        return
    terminal.say("Sequences, tokens, encoder, tasks, tables")
    config: dict[str, Any] = {}
    if as_of:
        config = {"ops": {"cut_offs": {"config": {"as_of": as_of}}}}
    Driver(instance, terminal.say).execute(
        "retrain", tags={"seqline/data_version": state}, config=config
    )


def _summary(objects: ObjectStore) -> None:
    from seq_ml.registry.rounds import verdicts

    terminal.console.print()
    _list_tables(objects)
    terminal.console.print()
    for task, verdict in verdicts(objects).items():
        if not verdict.startswith("not judged"):  # the line of its table says why
            terminal.console.print(f"[bold]{task}[/bold]: {verdict}")
    terminal.console.print(
        "\nNext: [bold]make ui[/bold] (or seqline ui) shows runs, lineage, checks and reports; "
        "[bold]seqline export recommendations recs.parquet[/bold] writes a table with your own "
        "ids; [bold]seqline storage stop[/bold] ends the storage, which keeps running until then."
    )


def _list_tables(objects: ObjectStore, *, failed: str = "") -> None:
    """Show the tables; failed: a run that broke off, so that earlier ones told of the others."""
    from seq_ml.tables.read import list_published

    listed = list_published(objects)
    for row in listed:
        if failed and row["run_id"] not in ("", failed):
            row |= {"state": "as before", "why": "this run broke off before it"}
    _show_tables(listed)


def _show_tables(listed: list[dict[str, Any]]) -> None:
    """Print one line a table, and below why any is not all that it can be."""
    shown = terminal.table("table", "state", ">rows", "as_of", "version", "uri")
    for row in listed:
        shown.add_row(
            row["name"],
            row["state"],
            f"{row['rows']:,}",
            f"{row['as_of']:%Y-%m-%d %H:%M} UTC" if row["as_of"] else "",
            str(row["version"] if row["uri"] else ""),
            row["uri"] or "",
        )
    terminal.console.print(shown)
    for row in listed:
        if row["why"]:
            line = f"{row['name']}: {row['state']}: {row['why']}"
            terminal.console.print(line, markup=False)
