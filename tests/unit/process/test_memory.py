from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan.holds import Hold, HoldKind
from fleetmesh.plan.ports import Allocation
from fleetmesh.process.memory import (
    keep_snapshot,
    load_holds,
    load_ports,
    recall_snapshot,
    save_holds,
    save_ports,
)

SNAPSHOT = Snapshot("td", "dc1", "n", ("ROOT",), (), ())
PORTS = Allocation({"web": 15100}, {"web": 21000})


def test_ports_come_back(tmp_path: Path) -> None:
    save_ports(str(tmp_path / "state"), PORTS)
    assert load_ports(str(tmp_path / "state")) == PORTS


@pytest.mark.parametrize("content", ["", "{", '{"outbound": 1}'])
def test_unreadable_ports_begin_anew(tmp_path: Path, content: str) -> None:
    (tmp_path / "ports.json").write_text(content)
    assert load_ports(str(tmp_path)) == Allocation()


def test_unwritable_state_does_not_end_the_agent(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file where a directory should be")
    save_ports(str(tmp_path / "state"), PORTS)


def test_held_services_come_back(tmp_path: Path) -> None:
    holds = (Hold("web", HoldKind.DRAIN, "why", 100.0, 60.0, 3),)
    save_holds(str(tmp_path / "state"), holds)
    assert load_holds(str(tmp_path / "state")) == holds
    (tmp_path / "state/holds.json").write_text('[{"service": 1}]')
    assert load_holds(str(tmp_path / "state")) == ()


def test_snapshot_is_kept_by_the_service_manager_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys are in memory that has no name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(2)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        keep_snapshot(SNAPSHOT)
        assert b"FDSTOREREMOVE=1" in manager.recv(1000)
        message, (fd,), _, _ = socket.recv_fds(manager, 1000, 1)
    assert b"FDNAME=snapshot" in message
    assert "memfd:" in os.readlink(f"/proc/self/fd/{fd}")  # noqa: PTH115
    assert recall_snapshot(fd) == SNAPSHOT
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_snapshot_of_another_version_is_none(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"\x90")
    assert recall_snapshot(os.open(tmp_path / "old", os.O_RDONLY)) is None
