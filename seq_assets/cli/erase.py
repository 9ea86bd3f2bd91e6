"""`seqline erase`: remove a person from everything that is stored, with a receipt."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from seq_assets.cli import terminal

if TYPE_CHECKING:
    from datetime import datetime

    import dagster as dg

    from seq_ml.erasure.receipt import Receipt, Survey


def erase(
    user: Annotated[str, typer.Argument(help="The user's id as your own files have it.")],
    identity: Annotated[
        str, typer.Option(help="Whose id it is, where several sources' ids mean other people.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be removed.")
    ] = False,
) -> None:
    """Erase a person from drops, tables, sequences, shards, pages and history; write a receipt."""
    with terminal.plain_errors(), terminal.instance() as instance:
        from seq_ml.erasure.erase import Erasure
        from seq_ml.settings import load_settings
        from seq_ml.storage import EmbeddedServer, uses_embedded

        began = _nothing_runs(instance)
        objects = terminal.connect()
        work = Erasure(objects, load_settings(), user, identity=identity, say=terminal.say)
        whose = f" ({', '.join(work.whom.identities)})" if work.whom.identities else ""
        terminal.say(f"Looking for the person{whose} in drops and tables")
        survey = work.survey()
        if not survey.known:
            terminal.say("no drop and no table knows this id: nothing to erase")
            return
        _show(survey)
        if dry_run:
            return
        if not yes:
            typer.confirm(
                "Erase this person for good? Older versions of every table go too: until the "
                "tables are published again there is nothing to roll back to.",
                abort=True,
            )
        own_server = uses_embedded(dict(os.environ))
        server = EmbeddedServer(work.home / "server")
        folders = {
            "work": work.home / "work",
            "site": work.home / "site",
            "dagster_home": Path(os.environ["DAGSTER_HOME"]),
        }
        if own_server:
            folders["server"] = server.folder
        receipt = work.run(
            survey, compact=server.compact if own_server else None, also_search=folders
        )
        _report(receipt)
        if _started_since(instance, began):
            terminal.console.print(
                "[bold red]seqline:[/bold red] a run began meanwhile and may have written what was "
                "removed: stop sensors and schedules, and repeat the command."
            )
            raise typer.Exit(1)
        if receipt.found:
            raise typer.Exit(1)


def _nothing_runs(instance: dg.DagsterInstance) -> datetime:
    """Return the time; BusyError while a run is in progress: it could bring back what goes."""
    from datetime import UTC, datetime

    import dagster as dg

    from seq_assets.automation.sensors import IN_PROGRESS
    from seq_assets.cli.errors import BusyError

    runs = instance.get_runs(filters=dg.RunsFilter(statuses=IN_PROGRESS), limit=1)
    if runs:
        raise BusyError(
            f"Run {runs[0].run_id} ({runs[0].job_name}) is in progress: wait for it to end, or "
            "cancel it, and stop the sensors and schedules (or `seqline ui`) meanwhile."
        )
    return datetime.now(UTC)


def _started_since(instance: dg.DagsterInstance, began: datetime) -> bool:
    import dagster as dg

    return bool(instance.get_runs(filters=dg.RunsFilter(created_after=began), limit=1))


def _show(survey: Survey) -> None:
    for info, found in survey.drops:
        what = "cannot be read and holds the id: goes as a whole"
        if found.rows is not None:
            what = f"{len(found.rows):,} records"
        terminal.console.print(f"  {info.key}: {what}")
    for name, rows in survey.tables.items():
        terminal.console.print(f"  {name}: {rows:,} rows")
    if survey.models:
        terminal.console.print(f"  trained on data with this person: {', '.join(survey.models)}")


def _report(receipt: Receipt) -> None:
    for where, number in receipt.removed.items():
        terminal.console.print(f"  removed, {where}: {number:,}")
    terminal.console.print(
        f"  removed, objects of older versions: {sum(receipt.history.values()):,}"
    )
    for remark in receipt.remarks:
        terminal.console.print(f"  {remark}")
    if receipt.models:
        terminal.console.print(
            f"  These models saw the person and stay until they are trained anew: "
            f"{', '.join(receipt.models)}"
        )
    if receipt.searched_for and not receipt.found:
        terminal.console.print("  The byte search found nothing.")
    for place, times in receipt.found.items():
        terminal.console.print(f"  [bold red]still found[/bold red] in {place}: {times} times")
    terminal.console.print(f"Receipt: {receipt.key}")
