"""Alerts: what a person is told when something is wrong, in the UI and by the webhook."""

import json
import urllib.request
from datetime import datetime
from typing import Any

import dagster as dg

from seq_assets.metadata import sample
from seq_assets.resources import Storage
from seq_ml.settings import Settings

QUARANTINE_SHARE = "quarantine_share"


def tell(settings: Settings, content: dict[str, Any]) -> None:
    """Post JSON to the webhook, if there is one; OSError when it does not answer."""
    if settings.failure_webhook:
        request = urllib.request.Request(  # noqa: S310, the operator chose the address
            settings.failure_webhook,
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310


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
    from seq_ml.ingest.alerts import explained_jumps

    jumps = explained_jumps(storage.tables, table=table, since=since)
    if jumps.height:
        worst = jumps.row(0, named=True)
        text = (
            f"{jumps.height} drops of {table} have an unusual share of quarantined rows, most "
            f"{worst['key']}: {worst['share']:.1%} (rule {worst['rule']})."
        )
        context.log.warning(text)
        try:
            tell(
                storage.settings, {"job": context.job_name, "run_id": context.run_id, "error": text}
            )
        except OSError as error:
            context.log.warning("the webhook did not take it: %s", error)
    return dg.AssetCheckResult(
        check_name=QUARANTINE_SHARE,
        asset_key=asset,
        passed=jumps.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"drops": jumps.height, "which": sample(jumps, rows=20)},
    )
