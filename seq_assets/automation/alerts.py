"""What a person is told by the webhook when something is wrong."""

from __future__ import annotations

import json
import urllib.request
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seq_ml.settings import Settings


def tell(settings: Settings, content: dict[str, Any]) -> None:
    """Post JSON to the webhook, if there is one; OSError when it does not answer."""
    if settings.failure_webhook:
        request = urllib.request.Request(  # noqa: S310, the operator chose the address
            settings.failure_webhook,
            data=json.dumps(content).encode(),
            headers={"Content-Type": "application/json"},
        )
        urllib.request.urlopen(request, timeout=10).close()  # noqa: S310
