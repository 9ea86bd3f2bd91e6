"""The model card of a version (Mitchell et al. 2019): what it is for, what is known about it.

The numbers are those of its report; beside them stand use, limits, lineage and the way back.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import datetime
from functools import cache
from importlib.metadata import version as installed
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seq_ml.pages.page import Section, markdown

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seq_ml.pages.page import Page
    from seq_ml.tasks.task import Task


def model_card(task: Task, report: Page, config: Mapping[str, Any]) -> str:
    """Return the card as Markdown: the report, and what it does not say.

    config: what `config.json` of the version holds.
    """
    kind = "a baseline: no model beat it" if config["is_baseline"] else "a model"
    key = ", ".join(name for name in task.table.key if name != "as_of")
    use = (
        f"Fills the table {task.table.name}, one row per {key}: {task.table.description}\n\n"
        "- For ranking, planning and deciding about many: its numbers mean to be right on average, "
        "and the report below says how far they are.\n"
        "- Not as a statement about one person or one item, which only the interval of its group "
        "covers; not beyond the horizon that the row names; not as the effect of an action.\n"
        "- For the business it was fitted on: another one's data need another version."
    )
    ended = datetime.fromisoformat(config["fitted_before"])
    fitted = (
        f"It is {config['model']}, {kind}. It learnt from label windows that ended by "
        f"{ended:%Y-%m-%d %H:%M}, and was judged once on the window that began then; the table "
        "'Windows' below has all dates."
    )
    back = (
        f"This version is models/{task.name}/{config['version']} in the bucket. To publish the "
        f"version before the champion again: seq_ml.registry.versions.rollback(objects, task), as "
        "in docs/operations.md; the next run of the tables reads it. A version that was rolled "
        "back is not promoted again."
    )
    return markdown(
        replace(
            report,
            title=f"Model card: {task.name} {config['version']}",
            sections=(
                Section("What it is for", use),
                Section("What it is", fitted),
                *report.sections,
                Section("How to go back", back),
            ),
        )
    )


@cache
def code_version() -> str:
    """Return the release and a hash of the source of `seq_ml`, which a checkout changes daily."""
    folder = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(file.relative_to(folder).as_posix().encode() + file.read_bytes())
    return f"{installed('seqline')} ({digest.hexdigest()[:12]})"
