"""The embedded server: it survives what happens to it, and is started once."""

from __future__ import annotations

import json
import os
import signal
import socket

import psutil
import pytest

from seq_ml.storage import EmbeddedServer
from seq_ml.storage.objects import ObjectStore
from seq_ml.storage.server import LOOPBACK
from tests.storage.refusals import mode, refusal


@pytest.mark.slow
def test_the_server_survives_what_happens_to_it(tmp_path):
    """One server through its life: private, restarted, killed, and its port taken."""
    deep = tmp_path / ("d" * 60) / ("e" * 60)  # longer than the path of a socket may be
    server = EmbeddedServer(deep)
    assert not server.running()
    assert not server.stop()
    try:
        config = server.start("first")
        state = json.loads(server.state_path.read_text())

        # Private: only this machine can reach it, only this user can read its keys.
        listening = [
            c for c in psutil.Process(state["pid"]).net_connections() if c.status == "LISTEN"
        ]
        assert {c.laddr.ip for c in listening} == {LOOPBACK}
        assert {state["ports"]["s3"], state["ports"]["filer"]} <= {c.laddr.port for c in listening}
        for name in ("state.json", "identities.json"):
            assert mode(deep / name) == 0o600
            assert config.secret_key in (deep / name).read_text()
        assert config.secret_key not in server.log_path.read_text()
        assert config.secret_key not in " ".join(psutil.Process(state["pid"]).cmdline())
        assert config.secret_key not in repr(server._read_state())

        # Started again while it runs: nothing happens.
        ObjectStore(config).put("kept", b"before the kill")
        assert EmbeddedServer(deep).start("first") == config
        assert json.loads(server.state_path.read_text())["pid"] == state["pid"]

        # Killed: the next start brings it back at its address, with all that was acknowledged.
        keys = [f"many/{n}" for n in range(50)]
        for key in keys:
            ObjectStore(config).put(key, key.encode())
        os.kill(state["pid"], signal.SIGKILL)
        store = ObjectStore(server.start("first"))
        assert store.config == config
        assert store.get("kept") == b"before the kill"
        assert [info.key for info in store.list("many/")] == sorted(keys)

        # Stopped, and its port taken by somebody else: it moves, its objects stay.
        assert server.stop()
        assert not server.running()
        refusal(ObjectStore(config))
        with socket.socket() as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            other.bind((LOOPBACK, state["ports"]["s3"]))
            other.listen()
            moved = server.start("first")
        assert moved.endpoint != config.endpoint
        assert ObjectStore(moved).get("many/7") == b"many/7"
    finally:
        if server.running():
            os.kill(json.loads(server.state_path.read_text())["pid"], signal.SIGKILL)


def test_a_server_that_ends_just_when_it_is_asked_for_is_started_again(tmp_path, monkeypatch):
    server = EmbeddedServer(tmp_path)
    looked: list[bool] = []

    def alive(self, state):
        looked.append(len(looked) == 0 or really(self, state))  # a killed process, not gone yet
        return looked[-1]

    really = EmbeddedServer._alive
    try:
        server.start("first")
        gone = psutil.Process(json.loads(server.state_path.read_text())["pid"])
        gone.kill()
        gone.wait()
        monkeypatch.setattr(EmbeddedServer, "_alive", alive)
        assert ObjectStore(server.start("first")).put("kept", b"it runs")
        assert looked[:2] == [True, False]
    finally:
        monkeypatch.undo()
        if server.running():
            os.kill(json.loads(server.state_path.read_text())["pid"], signal.SIGKILL)


def test_a_foreign_process_with_the_remembered_pid_is_left_alone(tmp_path):
    server = EmbeddedServer(tmp_path)
    ports = dict.fromkeys(("s3", "filer"), 1)
    state = {"access_key": "a", "secret_key": "b", "ports": ports, "pid": os.getpid()}
    server.state_path.write_text(json.dumps(state))
    assert not server.running()
    assert not server.stop()


@pytest.mark.slow
def test_a_server_whose_arguments_are_not_there_yet_is_not_started_twice(tmp_path, monkeypatch):
    """Between its start and its first instruction a process has an empty command line."""
    server = EmbeddedServer(tmp_path)
    empty = iter([True, True, True])
    really = psutil.Process.cmdline
    monkeypatch.setattr(
        psutil.Process, "cmdline", lambda self: [] if next(empty, False) else really(self)
    )
    try:
        server.start("first")
        assert server.running()
        assert server.log_path.read_text().count("Starting SeaweedFS Mini") == 1
    finally:
        server.stop()


def test_ports_are_picked_while_the_usual_one_is_winding_down() -> None:
    """A connection that our side closed first leaves the port in TIME_WAIT for a minute."""
    from seq_ml.storage import server

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((server.LOOPBACK, 0))
        listener.listen()
        port = listener.getsockname()[1]
        with socket.create_connection((server.LOOPBACK, port)) as client:
            accepted, _ = listener.accept()
            accepted.close()
            client.recv(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(server, "PREFERRED_S3_PORT", port)
        assert server._pick_ports()["s3"] == port
