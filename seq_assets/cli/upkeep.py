"""`seqline upkeep`: merge small files and delete old ones, or show what that would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from seq_assets.cli import terminal

if TYPE_CHECKING:
    from rich.table import Table


def upkeep(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be done.")
    ] = False,
) -> None:
    """Merge small files of the tables, delete old versions, artefacts and Data Docs."""
    with terminal.plain_errors():
        if dry_run:
            from datetime import UTC, datetime

            from seq_ml.settings import home, load_settings
            from seq_ml.storage.upkeep import plan, report

            steps = plan(terminal.connect(), load_settings(), home(), datetime.now(UTC))
            terminal.console.print(_table(report(steps).to_dicts()) if steps else "Nothing to do.")
            return
        with terminal.instance() as instance:
            from seq_assets.cli.driver import Driver

            terminal.connect()
            Driver(instance, terminal.say).execute("storage_upkeep")


def _table(rows: list[dict[str, Any]]) -> Table:
    shown = terminal.table("where", "what", ">files", ">then", ">bytes", ">then")
    for row in rows:
        numbers = (row[f"{n}_{when}"] for n in ("files", "bytes") for when in ("before", "after"))
        shown.add_row(row["target"], row["action"], *(f"{number:,}" for number in numbers))
    return shown
