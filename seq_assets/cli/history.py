"""`seqline history`: everything that is known of one user's behaviour, under the user's own id."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003, typer reads the annotation
from typing import Annotated

import typer

from seq_assets.cli import terminal


def history(
    user: Annotated[str, typer.Argument(help="The user's id, as your files write it.")],
    out: Annotated[Path, typer.Argument(help="Parquet file to write.")],
    identity: Annotated[
        str, typer.Option(help="Whose id it is, where several sources' ids mean other people.")
    ] = "",
) -> None:
    """Write all clean events of one user to a Parquet file, with your own id."""
    with terminal.plain_errors():
        from seq_ml.erasure.access import export_history
        from seq_ml.settings import load_settings

        rows = export_history(terminal.connect(), load_settings(), user, out, identity)
        terminal.say(f"wrote {rows:,} events to {out}")
