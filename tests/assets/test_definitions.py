"""The code location: light to load, whole, and as the golden snapshot says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from seq_assets.definitions import defs

GOLDEN = Path(__file__).parent / "golden" / "assets.json"
HEAVY = ("torch", "transformers", "great_expectations", "polars", "sklearn", "pandas", "lightgbm",
         "deltalake", "duckdb", "boto3", "matplotlib")  # fmt: skip


def snapshot() -> dict[str, dict[str, object]]:
    """What a reader of the UI relies on, for every asset."""
    graph = defs.resolve_asset_graph()
    found = {}
    for spec in sorted(defs.resolve_all_asset_specs(), key=lambda s: s.key.to_user_string()):
        found[spec.key.to_user_string()] = {
            "group": spec.group_name,
            "deps": sorted(d.asset_key.to_user_string() for d in spec.deps),
            "owners": list(spec.owners),
            "kinds": sorted(spec.kinds),
            "partitions": type(spec.partitions_def).__name__ if spec.partitions_def else None,
            "checks": sorted(
                key.name for key in graph.asset_check_keys if key.asset_key == spec.key
            ),
            "has_schema": "dagster/column_schema" in spec.metadata,
        }
    return found


def test_asset_specs_match_the_golden_snapshot() -> None:
    """Update with `python -m tests.assets.test_definitions` and review the difference."""
    assert snapshot() == json.loads(GOLDEN.read_text())


def test_definitions_load_in_a_fresh_interpreter_without_heavy_modules() -> None:
    code = f"import sys, seq_assets.definitions\nprint([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, cwd=GOLDEN.parents[2],
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_the_code_location_can_be_served() -> None:
    """What a code server does on load: names of jobs, ops and resources must fit together."""
    dg.Definitions.validate_loadable(defs)


def test_every_asset_has_group_owner_description_and_kind() -> None:
    for spec in defs.resolve_all_asset_specs():
        assert spec.group_name, spec.key
        assert spec.owners, spec.key
        assert spec.kinds, spec.key
        assert len(spec.description or "") > 20, spec.key


def test_every_asset_is_in_a_job() -> None:
    covered = {
        key
        for job in ("ingest_drops", "clean_days", "retrain")
        for key in defs.resolve_job_def(job).asset_layer.executable_asset_keys
    }
    assert covered == defs.resolve_asset_graph().executable_asset_keys


@pytest.mark.parametrize("group", ["ingest", "clean", "sequences", "tokens", "encoder", "tasks",
                                   "evaluation", "tables"])  # fmt: skip
def test_no_asset_depends_on_a_later_stage(group: str) -> None:
    order = ["ingest", "clean", "sequences", "tokens", "encoder", "tasks", "evaluation", "tables"]
    groups = {s.key: s.group_name for s in defs.resolve_all_asset_specs()}
    for spec in defs.resolve_all_asset_specs():
        if spec.group_name == group:
            for dep in spec.deps:
                assert order.index(groups[dep.asset_key]) <= order.index(group), (spec.key, dep)


def test_pools_are_named_in_one_place() -> None:
    from seq_assets import partitions

    known = {partitions.INGEST, partitions.GPU}
    used = {
        op.pool
        for assets in defs.assets or []
        if isinstance(assets, dg.AssetsDefinition)
        for op in assets.node_def.iterate_op_defs()
        if op.pool
    }
    assert used == known


if __name__ == "__main__":
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps(snapshot(), indent=1, sort_keys=True) + "\n")
