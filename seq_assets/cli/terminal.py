"""What the commands of `seqline` share: the terminal, the storage, the instance, plain errors."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from seq_ml.settings import load_settings, project_root

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dagster as dg
    from rich.table import Table

    from seq_ml.storage.objects import ObjectStore

console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 160)
_started_at = time.monotonic()


def connect() -> ObjectStore:
    """Open the storage; the embedded server is started when none is named."""
    from seq_ml import storage

    return storage.connect(load_settings(), start=True)


def dagster_home() -> Path:
    """Point Dagster at the instance of this checkout unless the user chose one."""
    folder = Path(os.environ.setdefault("DAGSTER_HOME", str(project_root() / "dagster_home")))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def instance() -> Iterator[dg.DagsterInstance]:
    """Open the instance as its only driver, with the runs of killed drivers swept away."""
    dagster_home()
    import dagster as dg

    from seq_assets.cli.driver import Driver
    from seq_assets.cli.errors import only_one

    with only_one("pipeline"), dg.DagsterInstance.get() as instance:
        driver = Driver(instance, say)
        swept = driver.sweep()
        driver.forgive()
        if swept:
            say(f"{swept} interrupted run(s) of an earlier command were closed; going on")
        yield instance


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn the errors that a person can act on into one sentence; everything else is a bug."""
    from pydantic import ValidationError

    from seq_assets.cli.errors import BusyError, RowsLostError, RunFailedError, full_disk
    from seq_ml.erasure.access import NoSuchUserError
    from seq_ml.ingest.mapping.source import MappingError
    from seq_ml.storage.objects import StorageError
    from seq_ml.tables.read import NoSuchTableError

    try:
        yield
    except (
        StorageError, MappingError, NoSuchTableError, NoSuchUserError, RunFailedError, BusyError,
        RowsLostError,
    ) as error:  # fmt: skip
        console.print(f"[bold red]seqline:[/bold red] {_sentences(error, full_disk())}", style=None)
        raise typer.Exit(1) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        console.print(f"[bold red]seqline:[/bold red] setting {where}: {first['msg']}")
        raise typer.Exit(1) from error
    except KeyboardInterrupt:
        console.print("\nstopped; the same command goes on from here")
        raise typer.Exit(130) from None
    except typer.Exit:
        raise
    except Exception as error:
        if full := full_disk():  # whoever could not write, said it in words of their own
            console.print(f"[bold red]seqline:[/bold red] {_sentences(error, full)}", style=None)
            raise typer.Exit(1) from error
        raise


def _sentences(error: Exception, more: str) -> str:
    said = escape(str(error))
    return f"{said}{'' if said.endswith('.') else '.'} {more}" if more else said


def table(*names: str, fold: bool = False) -> Table:
    """Make a plain table; a name with `>` is a column of numbers. fold: long cells take lines."""
    from rich.table import Table

    shown = Table(box=None, header_style="bold")
    for name in names:
        shown.add_column(
            name.lstrip(">"),
            justify="right" if name[0] == ">" else "left",
            overflow="fold" if fold else "ellipsis",
        )
    return shown


def say(text: str) -> None:
    """Print a line with the time since the command began."""
    seconds = int(time.monotonic() - _started_at)
    console.print(f"[dim]{seconds // 60:2d}:{seconds % 60:02d}[/dim] {escape(text)}", markup=True)
    sys.stdout.flush()
