"""The README's generated part is what the schema says."""

from __future__ import annotations

from seq_ml.schema.reference import with_reference
from tests import ROOT


def test_readme_reference_is_generated_from_the_schema() -> None:
    """Renew with `python -m seq_ml.schema.reference`."""
    readme = ROOT / "README.md"
    assert with_reference(readme.read_text()) == readme.read_text()
