"""The examples in the docstrings of metrics, sequences and tokens: they run, and none lacks."""

from __future__ import annotations

import doctest
import inspect
from importlib import import_module

import pytest

from tests import ROOT

FOLDERS = ("metrics", "sequences", "tokens")
STORED = {
    *(
        "choose",
        "measure",
        "record",
        "recorded",
        "steady",
        "read_sequences",
        "read_by_shard",
        "events_by_shard",
    ),
    *("update_sequences", "recorded_sources", "write_shards", "read_shards"),
    *("update_vocabulary", "newest_vocabulary", "load_vocabulary"),
    *("vocabulary_at", "vocabularies_at"),
    *("ratio_of_sums", "gaps_of_bins", "slopes", "intercepts", "of_ranking", "mean_of"),
}
"""What works on a bucket, a folder, or all draws at once: an example of it would be a page."""
MODULES = [
    f"seq_ml.{folder}.{path.stem}"
    for folder in FOLDERS
    for path in sorted((ROOT / "seq_ml" / folder).glob("*.py"))
    if path.stem != "__init__"
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name):
    assert doctest.testmod(import_module(name)).failed == 0


def test_every_public_function_has_an_example_unless_it_works_on_stored_data():
    without = {
        function.__name__
        for name in MODULES
        for _, function in inspect.getmembers(import_module(name), inspect.isfunction)
        if function.__module__ == name and ">>>" not in (function.__doc__ or "")
    }
    assert {name for name in without if not name.startswith("_")} == STORED
