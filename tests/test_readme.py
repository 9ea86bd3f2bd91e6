"""The README's generated part is what the schema says."""

from __future__ import annotations

from pathlib import Path

from seq_ml.schema.reference import with_reference


def test_readme_reference_is_generated_from_the_schema() -> None:
    """Renew with `python -m seq_ml.schema.reference`."""
    readme = Path(__file__).parents[1] / "README.md"
    assert with_reference(readme.read_text()) == readme.read_text()
