"""Cleaned days, made once a module."""

from __future__ import annotations

from datetime import date

import pytest

from tests.clean.expectations.days import DAY, Cleaned, days_of


@pytest.fixture(scope="module")
def one_day() -> Cleaned:
    return days_of(DAY, DAY)


@pytest.fixture(scope="module")
def ten_days() -> Cleaned:
    return days_of(date(2017, 3, 1), date(2017, 3, 10))
