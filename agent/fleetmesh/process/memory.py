"""What an agent leaves for its successor: ports and held services on disk, the last snapshot in
systemd's hands."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from fleetmesh.edge import systemd
from fleetmesh.model import snapshot as snapshots
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan.holds import Hold
from fleetmesh.plan.ports import Allocation
from fleetmesh.process.sockets import SNAPSHOT

log = logging.getLogger(__name__)

PORTS_FILE = "ports.json"
HOLDS_FILE = "holds.json"

T = TypeVar("T")


def load_ports(state_dir: str) -> Allocation:
    """The allocation of the run before; none when there is no readable one."""
    return _load(Path(state_dir) / PORTS_FILE, Allocation) or Allocation()


def save_ports(state_dir: str, ports: Allocation) -> None:
    """Without it the next start may choose other ports, so an error is only logged."""
    path = Path(state_dir) / PORTS_FILE
    try:
        _save(path, ports)
    except OSError as error:
        log.error("%s is not written: %s", path, error)


def load_holds(state_dir: str) -> tuple[Hold, ...]:
    return _load(Path(state_dir) / HOLDS_FILE, tuple[Hold, ...]) or ()


def save_holds(state_dir: str, holds: tuple[Hold, ...]) -> None:
    """Raises OSError: what would not outlast a restart must not seem to hold."""
    _save(Path(state_dir) / HOLDS_FILE, holds)


def _load(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s is not readable and begins anew: %s", path.name, error)
        return None


def _save(path: Path, value: object) -> None:
    """By rename."""
    fresh = path.with_suffix(".new")
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(value, order="sorted")))
    fresh.replace(path)


def keep_snapshot(snapshot: Snapshot) -> None:
    """Leave it to the service manager, in memory only: there are private keys in it."""
    if not systemd.supervised():
        return
    fd = os.memfd_create("fleetmesh-snapshot", os.MFD_CLOEXEC)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(snapshots.encode(snapshot))
        systemd.store(SNAPSHOT, fd)
    finally:
        os.close(fd)


def recall_snapshot(fd: int) -> Snapshot | None:
    """What a predecessor kept behind `fd`, which is closed; None when it was of another version."""
    with open(fd, "rb") as file:
        file.seek(0)
        try:
            return snapshots.decode(file.read())
        except msgspec.DecodeError as error:
            log.warning("the snapshot of the agent before is not readable: %s", error)
            return None
