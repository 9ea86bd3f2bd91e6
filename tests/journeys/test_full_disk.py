"""A command that fails on a full disk says so, whoever noticed it and in whatever words."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from seq_assets.cli import errors
from seq_assets.cli.app import app


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SEQLINE_HOME", str(tmp_path))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "NO_ROOM_BYTES", 1 << 62)  # more than any disk has


def test_disk_with_room_is_not_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "NO_ROOM_BYTES", 0)
    assert errors.full_disk() == ""


@pytest.mark.usefixtures("full")
def test_full_disk_is_named_with_its_folders(home: Path) -> None:
    said = errors.full_disk()
    assert f"SEQLINE_HOME ({home}," in said
    assert f"DAGSTER_HOME ({home}," in said
    assert "run the same command again" in said


@pytest.mark.usefixtures("full", "home")
def test_command_that_cannot_write_says_which_disk_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seq_assets.cli.terminal.connect", no_room)
    done = CliRunner().invoke(app, ["tables"])
    assert done.exit_code == 1
    assert "No space left on device. The disk of " in " ".join(done.output.split())
    assert "SEQLINE_HOME" in done.output


@pytest.mark.usefixtures("home")
def test_other_errors_stay_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(errors, "NO_ROOM_BYTES", 0)

    def broken(*_: object) -> None:
        raise KeyError("a bug")

    monkeypatch.setattr("seq_assets.cli.terminal.connect", broken)
    done = CliRunner().invoke(app, ["tables"])
    assert isinstance(done.exception, KeyError)
