"""What `seqline run` does with a run that failed, refused, or was done before."""

import dagster as dg
import pytest
import typer

from seq_assets.cli import app, terminal
from seq_assets.cli.driver import Driver
from seq_assets.cli.errors import RunFailedError


@pytest.fixture
def instance(monkeypatch):
    """An instance on which the data are always the same, and the runs that it was asked for."""
    made = dg.DagsterInstance.ephemeral()
    asked: list[str] = []
    monkeypatch.setattr("seq_ml.registry.rounds.data_version", lambda *_: "same")
    for name in ("tables", "settings", "business"):
        monkeypatch.setattr(f"seq_assets.resources.Storage.{name}", None)
    monkeypatch.setattr(Driver, "execute", lambda _self, job, **_: asked.append(job))
    return made, asked


def retrained(instance: dg.DagsterInstance, behaviour: str) -> None:
    """Leave a run of `retrain` for these data, whose step was done, refused or failed."""

    @dg.op(out=dg.Out(is_required=False))
    def step():
        if behaviour == "failed":
            raise ValueError
        yield from [dg.Output(1)] if behaviour == "done" else []

    @dg.job(name="retrain")
    def job():
        step()

    job.execute_in_process(
        instance=instance, raise_on_error=False, tags={"seqline/data_version": "same"}
    )


@pytest.mark.parametrize(
    ("behaviour", "again"), [("done", False), ("refused", False), ("failed", True)]
)
def test_only_a_run_without_failures_counts_as_done(instance, behaviour, again, capsys):
    made, asked = instance
    retrained(made, behaviour)
    app._train(made, as_of="")
    assert asked == (["retrain"] if again else [])
    assert ("up to date" in capsys.readouterr().out) != again


def test_a_failed_run_still_lists_the_tables_and_exits_with_1(instance, monkeypatch, capsys):
    made, _ = instance

    def execute(*_: object, **__: object) -> None:
        raise RunFailedError("pretrained_encoder: the card [number two] is on fire", "tonight")

    monkeypatch.setattr(Driver, "execute", execute)
    why = "churn_silence: 20 days of orders are too few [a year is enough]"
    row = {"name": "churn_predictions", "state": "refused", "why": why, "rows": 0, "as_of": None,
           "version": None, "uri": None, "run_id": "tonight"}  # fmt: skip
    earlier = {**row, "name": "user_profiles", "state": "published", "why": "", "run_id": "earlier"}
    monkeypatch.setattr("seq_ml.tables.read.list_published", lambda _: [row, earlier])
    with pytest.raises(typer.Exit) as ended, terminal.plain_errors():
        app._train_and_tell(made, None, as_of="")
    assert ended.value.exit_code == 1
    said = capsys.readouterr().out
    assert f"churn_predictions: refused: {why}" in said
    assert "seqline: pretrained_encoder: the card [number two] is on fire" in said
    assert said.index("refused") < said.index("on fire")
    # what an earlier run published is not told as this one's
    assert "user_profiles: as before: this run broke off before it" in said


def test_brackets_of_a_message_are_said_as_they_are(capsys):
    """What a step says is no markup: a name in brackets stays, and a slash ends no style."""
    terminal.say("    inventory: [item] of [/shelf] is gone")
    assert "inventory: [item] of [/shelf] is gone" in capsys.readouterr().out
