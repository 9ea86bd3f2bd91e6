"""The tests, in the tree of the code; `journeys` holds what crosses it."""

from pathlib import Path

ROOT = Path(__file__).parent.parent
"""The checkout."""
