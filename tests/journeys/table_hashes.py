"""Hash what every table would hold, to prove that a move moved nothing.

    python -m tests.journeys.table_hashes /tmp/before.json      # on the commit before
    python -m tests.journeys.table_hashes /tmp/after.json
    diff /tmp/before.json /tmp/after.json && echo the same, value for value

Every task, on all small shops and on 120 households of the Complete Journey: about
two CPU minutes. A table that is refused is its sentence.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from seq_ml.business import Business
from seq_ml.tasks.data import TaskData
from seq_ml.tasks.registered import load_tasks
from tests.data import AS_OF, journey
from tests.journeys.small_shops import PAIRS
from tests.journeys.test_small_businesses import published, table_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import polars as pl

HOUSEHOLDS = 120


def content(found: pl.DataFrame | str) -> str:
    """Hash of the rows, whatever their order, but for the moment of writing; or the sentence."""
    if isinstance(found, str):
        return found
    rows = found.drop("created_at").to_dicts()
    lines = sorted(json.dumps(row, default=str, sort_keys=True) for row in rows)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def hashes() -> Iterator[tuple[str, str]]:
    """Name of the shop and the task, and the hash of its table."""
    for shop, task in PAIRS:
        yield f"{shop} / {task}", content(published(shop, task))
    tables = journey(HOUSEHOLDS)
    data = TaskData(
        events=tables["clean_events"].lazy(),
        items=tables["items"],
        campaigns=tables["campaigns"],
        campaign_items=tables["campaign_items"],
        promotions=tables["promotions"].lazy(),
        business=Business(timezone="America/New_York"),
    )
    for task in load_tasks():
        yield f"Complete Journey / {task}", content(table_of(data, AS_OF, task))


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(json.dumps(dict(hashes()), indent=1) + "\n")
