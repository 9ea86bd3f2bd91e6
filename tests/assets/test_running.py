"""How a run goes through the graph: who goes first, what a refusal and a failure stop."""

import dagster as dg
import pytest

from seq_assets import partitions
from seq_assets.automation.jobs import DAILY, SPINE
from seq_assets.checks import REFUSED, refuse
from seq_assets.definitions import defs
from seq_ml.tasks.registered import task_names

EXTERNAL = {
    "quarantined_events",
    "current_encoder",
    "user_vectors",
    "foreseen",
    "published_snapshots",
    *(f"{task}_champion" for task in task_names()),
}


@pytest.fixture
def run():
    """Run assets of these behaviours by name: done, refused, failed; return the steps in order.

    `later` hangs on `truly` and only reads `perhaps`, by way of an asset without a step.
    """

    def execute(**behaviours):
        began = []

        def made(name, deps, tags):
            check = dg.AssetCheckSpec("check", asset=name, blocking=True)

            @dg.asset(
                name=name, deps=deps, op_tags=tags, output_required=False, check_specs=[check]
            )
            def asset(context: dg.AssetExecutionContext):
                began.append(name)
                if behaviours.get(name) == "refused":
                    yield from refuse(context, "too few events")
                    return
                if behaviours.get(name) == "failed":
                    raise ValueError(name)
                yield dg.MaterializeResult(
                    check_results=[dg.AssetCheckResult(check_name="check", passed=True)]
                )

            return asset

        result = dg.materialize(
            [
                made("later", ["truly", "newest"], partitions.THEN_TABLES),
                dg.AssetSpec("newest", deps=["perhaps"]),
                made("truly", ["first"], partitions.THEN_TASKS),
                made("perhaps", ["first"], partitions.ENCODER_FIRST),
                made("first", [], None),
            ],
            instance=dg.DagsterInstance.ephemeral(),
            raise_on_error=False,
        )
        return result, began

    return execute


def test_the_step_that_matters_to_others_goes_first(run):
    result, began = run()
    assert result.success
    assert began == ["first", "perhaps", "truly", "later"]


@pytest.mark.parametrize("behaviour", ["refused", "failed"])
def test_what_is_only_read_stops_nothing(run, behaviour):
    result, began = run(perhaps=behaviour)
    assert began == ["first", "perhaps", "truly", "later"]
    assert result.success == (behaviour == "refused")
    assert {key.to_user_string() for key in materialized(result)} == {"first", "truly", "later"}


def test_what_needs_a_refused_asset_is_skipped_and_the_run_succeeds(run):
    result, began = run(truly="refused")
    assert began == ["first", "perhaps", "truly"]
    assert result.success
    assert {key.to_user_string() for key in materialized(result)} == {"first", "perhaps"}
    (said,) = [e for e in result.all_events if e.event_type_value == "ASSET_OBSERVATION"]
    metadata = said.asset_observation_data.asset_observation.metadata
    assert metadata[REFUSED].value == "too few events"
    (check,) = [e for e in result.get_asset_check_evaluations() if e.asset_key.path == ["truly"]]
    assert check.passed


def materialized(result: dg.ExecuteInProcessResult) -> list[dg.AssetKey]:
    return [e.asset_key for e in result.all_events if e.is_step_materialization]


def test_no_step_waits_for_the_encoder_or_for_what_tasks_judge():
    """Tables hang on the cut-offs alone, and next_baskets on the lists that it is made of."""
    graph = defs.resolve_asset_graph()
    names = {key.to_user_string() for key in graph.get_all_asset_keys()}
    executable = {key.to_user_string() for key in graph.executable_asset_keys}
    assert names - executable == EXTERNAL
    spine = {k.to_user_string() for k in SPINE.resolve(graph)} & executable
    daily = {k.to_user_string() for k in DAILY.resolve(graph)} & executable
    waits = {
        name: {k.to_user_string() for k in graph.get(dg.AssetKey(name)).parent_keys} & spine
        for name in spine
    }
    assert waits["next_baskets"] == {"cut_offs", "recommendations"}
    vectors = {"user_embeddings", "sequence_predictions"}
    for name in daily - {"cut_offs", "user_sequences", "next_baskets"} - vectors:
        assert waits[name] == {"cut_offs"}, name
    for name in (n for n in spine if n.endswith("_examples")):
        assert waits[name] == {"cut_offs"}, name
    assert waits["user_embeddings"] == waits["sequence_predictions"] == {"user_sequences"}


def test_the_encoder_goes_first_then_tasks_then_tables():
    priorities = {}
    for assets in defs.assets or []:
        if isinstance(assets, dg.AssetsDefinition) and assets.is_executable:
            for spec in assets.specs:
                tag = assets.op.tags.get("dagster/priority", "0")
                priorities.setdefault(spec.group_name, set()).add(int(tag))
    assert priorities["sequences"] == priorities["tokens"] == {4}
    assert priorities["encoder"] == {4, 3}, "vectors are those of the encoder of this run"
    assert priorities["tasks"] == priorities["evaluation"] == {2}
    assert priorities["tables"] == {5, 1, 0}, "what is counted comes first, what became of it last"
