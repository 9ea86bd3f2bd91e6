"""What the benchmarks of the tables share: the data, and where their sections are written."""

from __future__ import annotations

from pathlib import Path

from benchmarks.quality.table import write_document
from seq_ml.business import Business
from seq_ml.tasks.data import TaskData
from tests.data import journey

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks-tables.md"
SEED = 7
BUSINESS = Business(timezone="America/New_York")
HOUSEHOLDS = 5000
"""More than there are: all."""


def task_data() -> TaskData:
    """All of Complete Journey."""
    frames = journey(households=HOUSEHOLDS)
    return TaskData(
        events=frames["clean_events"].lazy(),
        items=frames["items"],
        campaigns=frames["campaigns"],
        campaign_items=frames["campaign_items"],
        promotions=frames["promotions"].lazy(),
        business=BUSINESS,
        seed=SEED,
    )


def write_section(name: str, text: str) -> None:
    """Print a section and put it between its marks; ValueError when the document has none."""
    print(text)
    write_document(f"{text}\n", DOCUMENT, (f"<!-- {name}: begin -->", f"<!-- {name}: end -->"))
