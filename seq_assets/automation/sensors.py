"""Sensors: new drops start an ingest, filed days start a cleaning, failed runs are told.

No sensor keeps a memory of its own: what is done stands in the ledger, so a tick can be repeated,
missed or killed without skipping or doubling a file. The cursor of the drop sensor only says where
the next tick goes on to look.
"""

import hashlib
from collections.abc import Iterator
from datetime import date, timedelta
from typing import TYPE_CHECKING

import dagster as dg

from seq_assets.automation.alerts import tell
from seq_assets.automation.jobs import clean_days, ingest_drops
from seq_assets.resources import Storage
from seq_ml.settings import load_settings

if TYPE_CHECKING:
    from seq_ml.ingest.ledger import Ledger

ATTEMPTS = 3
"""A batch whose run failed is asked for again so many times; after that a person has to look."""
RUNS_PER_TICK = 8
LISTED_PER_TICK = 20_000
"""Objects below drops/ that one tick looks at: about two seconds."""
LONGEST_GAP = 31
"""Days without any event that a range of days to clean may span."""

RANGE_START = "dagster/asset_partition_range_start"
RANGE_END = "dagster/asset_partition_range_end"
BATCH = "seqline/batch"
FORGIVEN = "seqline/forgiven"
FAILED = [dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
IN_PROGRESS = [
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dg.sensor(
    job=ingest_drops,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Looks below drops/ for complete files that the ledger does not know.",
)
def drop_sensor(context: dg.SensorEvaluationContext, storage: Storage) -> dg.SensorResult:
    """Request one run for all complete new or corrected drops (identity: key + etag).

    Also for what a run that was killed has read, but not published to the reference tables.
    """
    from seq_ml.ingest.drops import find_pending
    from seq_ml.ingest.ledger import Ledger
    from seq_ml.ingest.mapping.bucket import load_sources

    ledger = Ledger(storage.tables)
    pending = find_pending(
        storage.objects,
        ledger.current(),
        load_sources(storage.objects),
        stable_seconds=storage.settings.stable_seconds,
        start_after=context.cursor or "",
        limit=LISTED_PER_TICK,
    )
    key = _next_key(context.instance, pending.digest) if pending.ready else None
    if key is not None:
        # until the run has taken them in, each tick finds the same batch: one run
        tags = {BATCH: pending.digest, "seqline/files": str(len(pending.ready))}
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=key, tags=tags)])
    context.update_cursor(pending.end)
    left = _left_over(context.instance, ledger)
    key = _next_key(context.instance, left) if left else None
    if key is not None:
        return dg.SensorResult(run_requests=[dg.RunRequest(run_key=key, tags={BATCH: left})])
    reason = "No new drops."
    if pending.ready:
        reason = (
            f"{len(pending.ready)} drops wait, but their run failed {ATTEMPTS} times: look at its "
            "error; a changed drop or mapping is tried at once."
        )
    elif pending.unfinished:
        reason = f"{pending.unfinished} files are still being written."
    if pending.end:
        reason += f" The next tick looks on after {pending.end}."
    return dg.SensorResult(skip_reason=reason)


@dg.sensor(
    job=clean_days,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Requests the cleaning of every day that got new rows; neighbours share a run.",
)
def day_sensor(context: dg.SensorEvaluationContext, storage: Storage) -> dg.SensorResult:
    """Request one run for each unbroken range of days with rows not yet cleaned."""
    from seq_ml.ingest.ledger import Ledger
    from seq_ml.ingest.mapping.source import MappingError

    try:
        version = storage.business.cleaning_version(storage.settings.first_day)
    except MappingError as error:
        return dg.SensorResult(skip_reason=str(error))
    ledger = Ledger(storage.tables)
    stale = ledger.stale("events", version, first_day=storage.settings.first_day)
    why: dict[date, str] = {}
    for day, since, reason in stale.rows():
        when = date.fromisoformat(day)
        why[when] = why.get(when, "") + f"{since} {reason}\n"
    partitions = ledger.current().filter(table="events")["partitions"].explode().drop_nulls()
    filed = {date.fromisoformat(day) for day in partitions.unique()}
    requests = []
    days = sorted(why)
    for first, last in _ranges(days, filed):
        # what makes the days stale: a range whose run failed is another batch when that changes
        state = hashlib.blake2b(version.encode(), digest_size=12)
        for day in days:
            if first <= day <= last:
                state.update(f"{day} {why[day]}".encode())
        batch = f"{first}:{last}:{state.hexdigest()}"
        key = _next_key(context.instance, batch)
        if key is not None:
            tags = {BATCH: batch, RANGE_START: first.isoformat(), RANGE_END: last.isoformat()}
            requests.append(dg.RunRequest(run_key=key, tags=tags))
    if not requests:
        reason = "Every day is clean."
        if days:
            reason = f"{len(days)} days wait, but their runs failed {ATTEMPTS} times: see the runs."
        return dg.SensorResult(skip_reason=reason)
    return dg.SensorResult(run_requests=requests[:RUNS_PER_TICK])


@dg.run_failure_sensor(
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Logs every failed run and posts it to SEQLINE_FAILURE_WEBHOOK when that is set.",
)
def failure_alert(context: dg.RunFailureSensorContext) -> None:
    """Tell a person: job, run and the first line of the error."""
    run = context.dagster_run
    error = (context.failure_event.message or "failed").splitlines()[0]
    context.log.error("%s failed in run %s: %s", run.job_name, run.run_id, error)
    tell(load_settings(), {"job": run.job_name, "run_id": run.run_id, "error": error})


def _left_over(instance: dg.DagsterInstance, ledger: "Ledger") -> str:
    """Identity of the reference rows that were read but not published, "" when there are none.

    While a run is at it, nothing is left over.
    """
    from seq_ml.schema import INPUT_TABLES

    at_work = dg.RunsFilter(job_name=ingest_drops.name, statuses=IN_PROGRESS)
    if instance.get_runs(filters=at_work, limit=1):
        return ""
    waiting = [
        f"{table} {partition} {since}"
        for table in sorted(INPUT_TABLES.keys() - {"events"})
        for partition, since, _ in ledger.stale(table).rows()
    ]
    text = "\n".join(waiting).encode()
    return hashlib.blake2b(text, digest_size=12).hexdigest() if waiting else ""


def _next_key(instance: dg.DagsterInstance, batch: str) -> str | None:
    """Return a run key for this batch: the same until its run failed, none after ATTEMPTS.

    A person who repeats the command asks anew: failures before that are tagged FORGIVEN.
    """
    runs = instance.get_runs(filters=dg.RunsFilter(tags={BATCH: batch}, statuses=FAILED))
    failed = sum(FORGIVEN not in run.tags for run in runs)
    return f"{batch}#{len(runs)}" if failed < ATTEMPTS else None


def _ranges(days: list[date], filed: set[date]) -> Iterator[tuple[date, date]]:
    """Yield (first, last) of each unbroken run of sorted days.

    A gap of days on which nothing was ever filed does not break a run: they cost nothing, and a
    run of its own for each side costs a process.
    """
    if not days:
        return
    first = last = days[0]
    for day in days[1:]:
        gap = [last + timedelta(days=n) for n in range(1, (day - last).days)]
        if len(gap) > LONGEST_GAP or filed.intersection(gap):
            yield first, last
            first = day
        last = day
    yield first, last


SENSORS = [drop_sensor, day_sensor, failure_alert]
