"""Stage encoder: which encoder is current."""

from collections.abc import Iterator

import dagster as dg
from pydantic import Field

from seq_assets import partitions
from seq_assets.checks import refuse, warn
from seq_assets.metadata import ML_OWNERS
from seq_assets.resources import Storage
from seq_ml import schema
from seq_ml.storage.layout import ENCODER_PREFIX

NOT_WORSE = "not_worse"


class GateConfig(dg.Config):
    """How this one comparison goes."""

    challenge_width: bool = Field(
        default=False,
        description="Take the wide network of the RecSys Challenge 2025 (2,048 and 4,096): "
        "minutes on a GPU.",
    )


@dg.asset(
    group_name="encoder",
    owners=ML_OWNERS,
    kinds={"pytorch", "report"},
    deps=["encoder_ladder"],
    op_tags=partitions.ENCODER_FIRST,
    output_required=False,
    check_specs=[
        dg.AssetCheckSpec(
            NOT_WORSE,
            asset="encoder_gate",
            description="The new encoder tells as much of users as the current one; otherwise that "
            "one stays, and everything goes on with it.",
        )
    ],
)
def encoder_gate(
    context: dg.AssetExecutionContext, storage: Storage, config: GateConfig
) -> Iterator[dg.MaterializeResult | dg.AssetCheckResult]:
    """Compare the new encoder with the current one, which it replaces unless it is worse.

    A small network learns from the vectors of each what users do in the coming 28 days, and is
    judged 28 days later; simple counts stand beside. Nothing fails when the new one stays out: the
    check warns, the webhook is told, and vectors, tasks and tables go on with the one before.
    """
    from seq_ml.clean.local_copy import local_events
    from seq_ml.encoder.evaluation.gate import gate_markdown
    from seq_ml.encoder.evaluation.probe import CHALLENGE, CPU
    from seq_ml.encoder.promotion import promote
    from seq_ml.sequences import cutoffs

    gate = promote(
        storage.objects,
        ENCODER_PREFIX,
        local_events(storage.tables, storage.work).everything,
        storage.tables.scan_or_empty(schema.ITEMS).collect(),
        end=cutoffs.recorded(storage.tables).as_of,
        conversions=storage.business.named("conversion"),
        work=storage.work,
        width=CHALLENGE if config.challenge_width else CPU,
    )
    if gate is None:
        yield from refuse(context, "There is no new encoder: materialize encoder_ladder first.")
        return
    now = gate.new if gate.passed else str(gate.current)
    event = dg.AssetMaterialization if gate.passed else dg.AssetObservation
    context.log_event(event(CURRENT_ENCODER.key, metadata={"version": now}))
    if not gate.passed:
        warn(
            context,
            storage,
            f"The new encoder {gate.new} stays out, worse in {', '.join(gate.worse)}; {now} goes "
            "on, and the tables with it.",
        )
    yield dg.MaterializeResult(
        metadata={
            "version": gate.new,
            "current": now,
            "report": dg.MetadataValue.md(gate_markdown(gate)),
        },
        check_results=[
            dg.AssetCheckResult(
                check_name=NOT_WORSE,
                passed=gate.passed,
                severity=dg.AssetCheckSeverity.WARN,
                metadata={"worse": ", ".join(gate.worse)},
            )
        ],
    )


CURRENT_ENCODER = dg.AssetSpec(
    "current_encoder",
    group_name="encoder",
    owners=ML_OWNERS,
    kinds={"s3"},
    deps=[encoder_gate],
    description="The newest encoder that passed the gate, which vectors, tasks and tables read "
    "where there is one. They wait for no training: tonight's may refuse, fail or stay out.",
)
