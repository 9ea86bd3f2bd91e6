"""The ladder: encoders as they could have been trained at earlier instants.

A rung reads and asks nothing from its cut on, so what it says at a later origin is a forecast, and
a backtest of what is built on it is honest. Rungs stand STEP_DAYS apart and never change; the
newest encoder stands above them at `as_of` and gives way to that of the next night, until it is
STEP_DAYS above the last rung and stays. At an origin the newest rung serves that was cut at or
before it.

Which rungs there are stands in one object of the bucket, written when an encoder is whole.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

from seq_ml.clean.days import clean_days
from seq_ml.encoder.training.checkpoints import FORMAT
from seq_ml.sequences.cutoffs import recorded
from seq_ml.storage.artifacts import is_forbidden
from seq_ml.storage.layout import ENCODER_PREFIX, LADDER_KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from seq_ml.business import Business
    from seq_ml.storage.objects import ObjectStore
    from seq_ml.storage.tables import TableStore

STEP_DAYS = 28
LEAST_HISTORY = timedelta(days=56)
"""Events before the cut of the lowest rung: what is asked about needs days after, too."""
STABLE = 0.1
"""Largest stability index of what a rung says, beside the rung before, with which it serves."""


@dataclass(frozen=True)
class Rung:
    """An encoder of the ladder.

    fixed: whether it stays; the newest one may not. psi: stability index of what it says of the
    same users at its cut as the rung before, by column; empty for the lowest.
    """

    cut: datetime
    version: str
    fixed: bool = True
    psi: dict[str, float] = field(default_factory=dict)

    @property
    def stable(self) -> bool:
        """Whether it says the same of a population as the rung below; else that one serves on."""
        return all(value < STABLE for value in self.psi.values())


def read_ladder(objects: ObjectStore) -> tuple[Rung, ...]:
    """Return the rungs by cut, the lowest first; none that this code cannot read.

    From the first one on that knew a person who was erased there is none.
    """
    try:
        content: dict[str, Any] = json.loads(objects.get(LADDER_KEY))
    except KeyError:
        return ()
    rungs: list[Rung] = []
    for values in content["rungs"] if content["format"] == FORMAT else ():
        if is_forbidden(objects, ENCODER_PREFIX, values["version"]):
            break
        rungs.append(Rung(**values | {"cut": datetime.fromisoformat(values["cut"])}))
    return tuple(rungs)


def record_rung(objects: ObjectStore, rung: Rung) -> tuple[Rung, ...]:
    """Put a rung into the ladder, in the place of one that is not fixed; return the ladder."""
    rungs = [other for other in read_ladder(objects) if other.fixed and other.cut != rung.cut]
    rungs = sorted([*rungs, rung], key=lambda each: each.cut)
    values = [asdict(each) | {"cut": each.cut.isoformat()} for each in rungs]
    content = json.dumps({"format": FORMAT, "rungs": values}, indent=1)
    objects.put(LADDER_KEY, content.encode())
    return tuple(rungs)


def to_climb(
    objects: ObjectStore, tables: TableStore, business: Business, number: int
) -> list[tuple[datetime, bool]]:
    """Return what `missing_cuts` does of the ladder in the bucket, as of the recorded cut-offs."""
    chosen = recorded(tables)
    first = min(day for day, state in clean_days(tables)[1].items() if state.rows)
    return missing_cuts(
        read_ladder(objects),
        business,
        as_of=chosen.as_of,
        cutoff=chosen.cutoff,
        first=datetime.combine(first, time(), UTC),
        number=number,
    )


def missing_cuts(
    rungs: Sequence[Rung],
    business: Business,
    *,
    as_of: datetime,
    cutoff: datetime,
    first: datetime,
    number: int,
) -> list[tuple[datetime, bool]]:
    """Return the cuts at which an encoder is to be trained, the lowest first; whether it is fixed.

    rungs: that there are. cutoff: at or before which there has to be one. first: instant of the
    first event. number: of rungs that are climbed where there is none yet; fewer where the history
    is short. The newest encoder is trained again as long as it is not fixed.
    """
    there = [rung.cut for rung in rungs if rung.fixed and rung.cut <= as_of]
    if there:
        cuts = _upwards(there[-1], as_of, business)[1:]
    else:
        wished = [business.midnight_after(as_of, -STEP_DAYS * k) for k in reversed(range(number))]
        cuts = [cut for cut in wished if cut >= first + LEAST_HISTORY]
        if not any(cut <= cutoff for cut in cuts):
            cuts = _upwards(cutoff, as_of, business)
    missing = [(cut, True) for cut in cuts]
    return missing if as_of in {*cuts, *there} else [*missing, (as_of, False)]


def _upwards(cut: datetime, as_of: datetime, business: Business) -> list[datetime]:
    """Return a cut and those above it until `as_of`."""
    cuts = [cut]
    while (after := business.midnight_after(cuts[-1], STEP_DAYS)) <= as_of:
        cuts.append(after)
    return cuts


def ladder_markdown(rungs: Sequence[Rung]) -> str:
    """Render the ladder for people, the newest encoder first."""
    rows = [
        "| cut | encoder | stays | stability beside the one below | serves |",
        "|---|---|---|---|---|",
    ]
    for rung in reversed(rungs):
        psi = ", ".join(f"{name} {value:.3f}" for name, value in rung.psi.items()) or "–"
        serves = "yes" if rung.stable else f"no, the one below does: not below {STABLE}"
        stays = "yes" if rung.fixed else "until the next night"
        rows.append(f"| {rung.cut:%Y-%m-%d} | {rung.version} | {stays} | {psi} | {serves} |")
    return "\n".join(rows)


def serving_at(rungs: Sequence[Rung], origin: datetime) -> Rung | None:
    """Return the rung that serves at an origin: the newest that was cut by then, or the one below.

    rungs: by cut. The one below where the newest is not stable, and there is another.
    """
    there = [rung for rung in rungs if rung.cut <= origin]
    if not there:
        return None
    return there[-1] if there[-1].stable or len(there) == 1 else there[-2]
