"""What several assets share: how one refuses, leaks of examples, jumps of the quarantined share."""

from collections.abc import Container, Iterator
from datetime import datetime

import dagster as dg

from seq_assets.automation.alerts import tell
from seq_assets.metadata import sample
from seq_assets.resources import Storage

LEAKS = {
    "feature_time": "Features at an origin are the same when everything from the origin on is "
    "missing from the data.",
    "label_window": "Label windows end by as_of, and those of a split before the next one begins.",
    "duplicates": "No example is there twice, nor copied from one split into another.",
    "prediction_time": "What the sequence model says of an example was said by an encoder trained "
    "before its origin.",
}
"""Checks of the examples by name: what a backtest that cannot lie needs."""

REFUSED = "refused"
"""Metadata of an asset that is not made, for want of something: what, in a sentence."""

QUARANTINE_SHARE = "quarantine_share"


def refuse(
    context: dg.AssetExecutionContext, why: str, *, unmet: Container[str] = ()
) -> Iterator[dg.AssetCheckResult]:
    """Say why the assets of this step are not made, and answer their checks; warn by those `unmet`.

    Nothing fails: they are not materialized, and only steps that truly need them are skipped.
    """
    for asset in context.selected_asset_keys:
        context.log_event(dg.AssetObservation(asset, metadata={REFUSED: why}))
    for check in context.selected_asset_check_keys:
        yield dg.AssetCheckResult(
            check_name=check.name,
            asset_key=check.asset_key,
            passed=check.name not in unmet,
            severity=dg.AssetCheckSeverity.WARN,
            metadata={REFUSED: why},
        )


def warn(context: dg.AssetExecutionContext, storage: Storage, text: str) -> None:
    """Tell people, in the log and by the webhook, what is wrong though the run goes on."""
    context.log.warning(text)
    try:
        tell(storage.settings, {"job": context.job_name, "run_id": context.run_id, "error": text})
    except OSError as error:
        context.log.warning("the webhook did not take it: %s", error)


def quarantine_spec(asset: str) -> dg.AssetCheckSpec:
    """Return the check that `quarantine_check` answers."""
    return dg.AssetCheckSpec(
        QUARANTINE_SHARE,
        asset=asset,
        description="No drop lost a far larger share of its rows to quarantine than usual.",
    )


def quarantine_check(
    context: dg.AssetExecutionContext, storage: Storage, asset: str, table: str, since: datetime
) -> dg.AssetCheckResult:
    """Warn, also by the webhook, about the drops closed after `since` whose share jumped."""
    from seq_ml.clean.jumps import explained_jumps

    jumps = explained_jumps(storage.tables, table=table, since=since)
    if jumps.height:
        worst = jumps.row(0, named=True)
        text = (
            f"{jumps.height} drops of {table} have an unusual share of quarantined rows, most "
            f"{worst['key']}: {worst['share']:.1%} (rule {worst['rule']})."
        )
        warn(context, storage, text)
    return dg.AssetCheckResult(
        check_name=QUARANTINE_SHARE,
        asset_key=asset,
        passed=jumps.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"drops": jumps.height, "which": sample(jumps, rows=20)},
    )
