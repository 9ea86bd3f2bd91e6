"""The generated part of docs/tables.md is what the schema says."""

from __future__ import annotations

from seq_ml.schema.reference import with_reference
from tests import ROOT


def test_readme_reference_is_generated_from_the_schema() -> None:
    """Renew with `python -m seq_ml.schema.reference`."""
    page = (ROOT / "docs" / "tables.md").read_text()
    assert with_reference(page) == page
