"""`seqline quarantine`: what is held back, by which rule, of which files, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from seq_assets.cli import terminal

if TYPE_CHECKING:
    import polars as pl
    from rich.table import Table


def quarantine(
    table: Annotated[str, typer.Option(help="Only this input table, like events.")] = "",
    rule: Annotated[str, typer.Option(help="Only this rule, like minimum or type.")] = "",
    limit: Annotated[int, typer.Option(help="Files shown for each reason.", min=0)] = 3,
) -> None:
    """Show the rejected rows by rule and file, with an example and what to do about it."""
    with terminal.plain_errors():
        from seq_ml.clean.quarantine import (
            quarantine_by_file,
            quarantine_by_rule,
            undeclared_behaviours,
        )
        from seq_ml.ingest.mapping.bucket import load_business
        from seq_ml.roles import undeclared
        from seq_ml.storage.tables import TableStore

        tables = TableStore(terminal.connect())
        chosen = {"table": table or None, "rule": rule or None}
        reasons = quarantine_by_rule(tables, **chosen)
        if reasons.is_empty():
            terminal.console.print(
                "Nothing is in quarantine" + (" there." if table or rule else ".")
            )
            return
        terminal.console.print(_reasons(reasons))
        files = quarantine_by_file(tables, **chosen, limit=limit)
        if files.height:
            terminal.console.print(_files(files))
        for line in _advice(reasons):
            terminal.console.print(line)
        if "behaviour" in reasons["rule"]:
            known = load_business(tables.objects).roles
            for name, rows in undeclared_behaviours(tables):
                terminal.console.print(f"  {rows:,} rows: {undeclared(name, known)}", markup=False)


def _reasons(reasons: pl.DataFrame) -> Table:
    shown = terminal.table("table", "rule", "column", ">rows", ">files", "days")
    for row in reasons.to_dicts():
        days = sorted({str(row["first_day"]), str(row["last_day"])})
        shown.add_row(
            row["table"],
            row["rule"],
            row["column"] or "",
            f"{row['rows']:,}",
            f"{row['files']:,}",
            " to ".join(days),
        )
    return shown


def _files(files: pl.DataFrame) -> Table:
    shown = terminal.table("rule", "column", "file", ">rows", ">first row", "value there")
    for row in files.to_dicts():
        shown.add_row(
            row["rule"],
            row["column"] or "",
            row["source_file"],
            f"{row['rows']:,}",
            str(row["row_number"]),
            "" if row["value"] is None else repr(row["value"][:60]),
        )
    return shown


def _advice(reasons: pl.DataFrame) -> list[str]:
    from seq_ml.clean.rules.catalogue import describe_rule

    named = {one.name: one for rule in reasons["rule"] if (one := describe_rule(rule))}
    return [
        f"[bold]{name}[/bold]: {one.meaning} {one.advice}" for name, one in sorted(named.items())
    ]
