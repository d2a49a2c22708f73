from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetmesh.edge import systemd


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


def test_a_step_of_the_start_asks_for_time(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(systemd.daemon, "notify", said.append)
    systemd.extend_start(15.0)
    assert said == ["EXTEND_TIMEOUT_USEC=15000000"]


def test_notify_sends_all_assignments_together(manager: socket.socket) -> None:
    systemd.notify("READY=1", "STATUS=well")
    assert manager.recv(1000) == b"READY=1\nSTATUS=well"


def test_stored_descriptor_replaces_the_one_of_its_name(manager: socket.socket) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        systemd.store("in.web", server.fileno())
        assert manager.recv(1000) == b"FDSTOREREMOVE=1\nFDNAME=in.web"
        message, fds, _, _ = socket.recv_fds(manager, 1000, 2)
        assert message == b"FDSTORE=1\nFDNAME=in.web"
        with socket.socket(fileno=fds[0]) as kept:
            assert kept.getsockname() == server.getsockname()


def test_nothing_is_stored_without_a_manager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not systemd.supervised()
    systemd.store("in.web", 0)
    systemd.forget("in.web")


TAKE = """
import os, sys
from fleetmesh.edge import systemd
os.environ["LISTEN_PID"] = str(os.getpid())
taken = systemd.take_inherited()
print(sorted(taken.items()), [os.get_inheritable(fd) for fd in taken.values()],
      "LISTEN_FDS" in os.environ)
"""


def test_inherited_descriptors_come_by_name_and_only_once() -> None:
    """Of two with one name the later stands; children inherit neither descriptors nor names."""
    with socket.socket() as one, socket.socket() as two:
        out = subprocess.run(
            [
                "bash",  # dash knows descriptors of one digit only
                "-c",
                f'exec 3<&{one.fileno()} 4<&{two.fileno()} 5<&{two.fileno()}; exec "$@"',
                "bash",
                sys.executable,
                "-c",
                TAKE,
            ],
            pass_fds=(one.fileno(), two.fileno()),
            env={**os.environ, "LISTEN_FDS": "3", "LISTEN_FDNAMES": "plain:in.web:plain"},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    assert out.strip() == "[('in.web', 4), ('plain', 5)] [False, False] False"


def test_only_listening_stream_sockets_are_taken_as_such(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = systemd.as_socket(os.dup(server.fileno()))
        assert taken is not None
        assert not taken.getblocking()
        taken.close()
    with socket.socket() as plain, (tmp_path / "file").open("w") as file:
        assert systemd.as_socket(plain.fileno()) is None
        assert systemd.as_socket(file.fileno()) is None


@pytest.mark.parametrize(
    ("usec", "pid", "interval"),
    [("20000000", None, 10.0), ("20000000", "1", None), ("", None, None)],
)
def test_watchdog_interval_is_half_and_ours_alone(
    usec: str, pid: str | None, interval: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid or str(os.getpid()))
    assert systemd.watchdog_interval() == interval


def test_journal_entry_has_fields_to_filter_by(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: dict[str, object] = {}
    monkeypatch.setattr(
        systemd.journal, "send", lambda message, **more: sent.update(more, MESSAGE=message)
    )
    record = logging.LogRecord("fleetmesh.x", logging.WARNING, "f.py", 1, "no %s", ("way",), None)
    record.fields = {"source": "web", "worker": 2}
    systemd.JournalHandler().emit(record)
    assert sent["MESSAGE"] == "no way"
    assert (sent["FLEETMESH_SOURCE"], sent["FLEETMESH_WORKER"]) == ("web", "2")
    assert (sent["PRIORITY"], sent["LOGGER"]) == (4, "fleetmesh.x")


def test_line_has_the_same_fields_for_people() -> None:
    record = logging.LogRecord("fleetmesh.x", logging.INFO, "f.py", 1, "denied", (), None)
    record.fields = {"event": "denied", "source": "web"}
    line = systemd.LineFormatter("%(message)s").format(record)
    assert line == "denied event=denied source=web"
