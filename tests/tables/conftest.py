"""The data of this folder's tests."""

from __future__ import annotations

import pytest

from seq_ml.business import Business
from seq_ml.tasks.data import TaskData
from tests.data import journey


@pytest.fixture(scope="module")
def data() -> TaskData:
    frames = journey(40)
    return TaskData(
        events=frames["clean_events"].lazy(),
        items=frames["items"],
        campaigns=frames["campaigns"],
        campaign_items=frames["campaign_items"],
        promotions=frames["promotions"].lazy(),
        business=Business(timezone="America/New_York"),
    )
