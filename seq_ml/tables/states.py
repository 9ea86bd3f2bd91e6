"""What became of each table in the run that made it last: published, smaller, refused or failed.

One small object for each table, written by the step that makes it:

    states/<table>.json    table, as_of, state, why, rows, run_id

published: all that the table can hold; `why` names the tasks that no model could be fitted for.
smaller: something is missing, and `why` says what. refused: there is nothing to publish, and `why`
says what the logs would have to hold. failed: the error. Refused and failed leave every snapshot as
it was.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from seq_ml.storage.layout import STATES_PREFIX

if TYPE_CHECKING:
    from seq_ml.storage.objects import ObjectStore

State = Literal["published", "smaller", "refused", "failed"]
PSEUDONYM = re.compile(r"\b[0-9a-f]{32}\b")
LONGEST = 500


@dataclass(frozen=True)
class TableState:
    """What one run made of a table; rows: of the snapshot that it published, 0 without one.

    as_of: None where the step failed before it knew.
    """

    table: str
    as_of: datetime | None
    state: State
    run_id: str
    why: str = ""
    rows: int = 0

    def __str__(self) -> str:
        """One line for a person.

        >>> instant = datetime(2024, 5, 1, tzinfo=UTC)
        >>> str(TableState("ad_predictions", instant, "refused", "r", "no campaign is open"))
        'refused: no campaign is open'
        """
        said = f"{self.state}, {self.rows:,} rows" if self.rows else self.state
        return f"{said}: {self.why}" if self.why else said


def record(objects: ObjectStore, state: TableState) -> None:
    """Write what became of a table; of `why` the first line, and nobody's pseudonym."""
    lines = state.why.strip().splitlines() or [""]
    why = PSEUDONYM.sub("…", lines[0])[:LONGEST]
    as_of = state.as_of.isoformat() if state.as_of else None
    content = asdict(state) | {"why": why, "as_of": as_of}
    objects.put(f"{STATES_PREFIX}/{state.table}.json", json.dumps(content, indent=1).encode())


def recorded_state(objects: ObjectStore, table: str) -> TableState | None:
    """Return what became of a table last; None when no run came to it yet."""
    try:
        content: dict[str, Any] = json.loads(objects.get(f"{STATES_PREFIX}/{table}.json"))
    except KeyError:
        return None
    as_of = content["as_of"] and datetime.fromisoformat(content["as_of"]).astimezone(UTC)
    return TableState(**content | {"as_of": as_of})
