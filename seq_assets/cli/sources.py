"""`seqline sources`: try a mapping on a sample file, its JSON Schema, what the bucket holds."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seq_assets.cli import terminal

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table

    from seq_ml.business import Business
    from seq_ml.clean.preview import Preview
    from seq_ml.ingest.rows.try_out import Understood

sources = typer.Typer(help="Source mappings: how your files are read.", no_args_is_help=True)


@sources.command()
def check(
    mapping_file: Annotated[
        Path, typer.Argument(metavar="MAPPING.yaml", exists=True, dir_okay=False)
    ],
    sample: Annotated[Path, typer.Option(exists=True, dir_okay=False, help="One of your files.")],
    path: Annotated[str, typer.Option(help="Where the sample would lie below drops/<name>/.")] = "",
    rows: Annotated[int, typer.Option(help="Records and rejections shown.", min=1)] = 20,
) -> None:
    """Show what a mapping makes of a file: records, rejected rows with reasons, columns unused."""
    with terminal.plain_errors():
        from rich.markup import escape

        from seq_ml.clean.losses import worst
        from seq_ml.clean.preview import preview
        from seq_ml.ingest.files.text_files import UnreadableFileError
        from seq_ml.ingest.mapping.bucket import business_of
        from seq_ml.ingest.mapping.source import MappingError, parse_mapping
        from seq_ml.ingest.rows.try_out import choose_entry, understand
        from seq_ml.settings import SETTINGS_FILE, Settings, home

        mapping = parse_mapping(mapping_file.read_text(), str(mapping_file))
        business = business_of(mapping)
        entry = choose_entry(mapping, sample.name, path or None)
        terminal.console.print(
            f"{sample.name} is read by the entry {entry.match} of '{mapping.name}' "
            f"as {entry.table}",
            markup=False,
        )
        try:
            with sample.open("rb") as file:
                understood = understand(mapping, entry, sample.name, file)
        except UnreadableFileError as error:
            raise MappingError(str(error)) from error
        judged = preview(
            understood.records,
            entry.table,
            business=business,
            first_day=Settings(_env_file=home() / SETTINGS_FILE).first_day,
        )
        for line in [*_counts(understood, judged), *_undeclared(judged.rejected, business)]:
            terminal.console.print(line, markup=False)
        loss = worst(sample.name, understood.records.height, judged.rejected.lazy())
        if loss and loss.is_nearly_all:
            terminal.console.print(f"[bold red]{escape(str(loss))}[/bold red]")
        if understood.records.height > judged.rejected.height:
            terminal.console.print(_records(understood, judged, rows))
        if judged.rejected.height:
            terminal.console.print(_rejected(judged.rejected.sort("row_number", "part").head(rows)))
        if understood.absent:
            terminal.console.print(f"not in any line: {', '.join(understood.absent)}", markup=False)
        if understood.unmapped:
            terminal.console.print(f"unmapped: {', '.join(understood.unmapped)}", markup=False)


@sources.command()
def schema() -> None:
    """Print the JSON Schema of mappings, for editors."""
    import json

    from seq_ml.ingest.mapping.source import mapping_schema

    typer.echo(json.dumps(mapping_schema(), indent=1, ensure_ascii=False))


@sources.command("list")
def list_() -> None:
    """List the sources of the bucket, and what became of their drops."""
    with terminal.plain_errors():
        import polars as pl

        from seq_ml.ingest.ledger import Ledger
        from seq_ml.ingest.mapping.bucket import load_sources
        from seq_ml.storage.tables import TableStore

        objects = terminal.connect()
        mappings = load_sources(objects)
        drops = Ledger(TableStore(objects)).current()
        shown = terminal.table("source", "entries", "drops", "what is wrong with it", fold=True)
        names = {*mappings.usable, *mappings.broken, *drops["source"].drop_nulls()}
        for name in sorted(names):
            mine = drops.filter(pl.col("source") == name)["status"].value_counts(sort=True)
            mapping = mappings.usable.get(name)
            wrong = mappings.broken[name].reason if name in mappings.broken else ""
            shown.add_row(
                name,
                ", ".join(entry.match for entry in mapping.files) if mapping else "",
                ", ".join(f"{count:,} {status}" for status, count in mine.sort("status").rows()),
                wrong or ("" if mapping else "no mapping"),
            )
        terminal.console.print(shown if names else "There are no sources yet.")


def _counts(understood: Understood, judged: Preview) -> list[str]:
    """Say how much was read, and what becomes of it."""
    more = "" if understood.whole else " (the file has more)"
    records = understood.records.height
    line = f"{understood.rows:,} rows{more} → {records:,} records: {judged.kept:,} sound"
    if judged.duplicates:
        line += f", {judged.duplicates:,} duplicates"
    lines = [line + f", {judged.rejected.height:,} rejected"]
    rules = judged.rejected["rule"].value_counts(sort=True).sort("count", "rule", descending=True)
    return [*lines, *(f"  {count:,} {rule}" for rule, count in rules.rows())]


def _undeclared(rejected: pl.DataFrame, business: Business) -> list[str]:
    """Say of each behaviour that has no role how many rows it costs, and what to do."""
    from seq_ml.roles import undeclared

    names = rejected.filter(rule="behaviour")["value"].value_counts(sort=True)
    rows = names.sort("count", "value", descending=[True, False]).rows()
    return [f"  {count:,} rows: {undeclared(name, business.roles)}" for name, count in rows]


def _records(understood: Understood, judged: Preview, rows: int) -> Table:
    place = ["row_number", "part"]
    sound = understood.records.join(judged.rejected, on=place, how="anti", maintain_order="left")
    sound = sound.head(rows)
    mapped = [
        name for name in understood.entry.contract.names if sound[name].null_count() < len(sound)
    ]
    if "event_id" not in {name for record in understood.entry.records for name in record}:
        mapped = [name for name in mapped if name != "event_id"]
    several = ["part"] if understood.records["part"].max() else []
    return _filled(sound.select("row_number", *several, *mapped))


def _rejected(rejected: pl.DataFrame) -> Table:
    several = ["part"] if rejected["part"].max() else []
    return _filled(rejected.select("row_number", *several, "rule", "column", "value"))


def _filled(frame: pl.DataFrame) -> Table:
    shown = terminal.table(
        *("row" if name == "row_number" else name for name in frame.columns), fold=True
    )
    for row in frame.rows():
        shown.add_row(*(_cell(value) for value in row))
    return shown


def _cell(value: Any) -> str:
    from rich.markup import escape

    if value is None:
        return ""
    text = f"{value:%Y-%m-%d %H:%M:%S%z}" if hasattr(value, "hour") else str(value)
    return escape(text if len(text) <= 40 else f"{text[:39]}…")
