"""What an agent leaves for its successor: ports on disk, the last snapshot in systemd's hands."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec

from fleetmesh.edge import systemd
from fleetmesh.model import snapshot as snapshots
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.plan.ports import Allocation
from fleetmesh.process.sockets import SNAPSHOT

log = logging.getLogger(__name__)

PORTS_FILE = "ports.json"


def load_ports(state_dir: str) -> Allocation:
    """The allocation of the run before; none when there is no readable one."""
    try:
        return msgspec.json.decode((Path(state_dir) / PORTS_FILE).read_bytes(), type=Allocation)
    except FileNotFoundError:
        return Allocation()
    except (OSError, msgspec.DecodeError) as error:
        log.warning("%s is not readable and begins anew: %s", PORTS_FILE, error)
        return Allocation()


def save_ports(state_dir: str, ports: Allocation) -> None:
    """Written by rename. Without it the next start may choose other ports, so an error is only
    logged."""
    path = Path(state_dir) / PORTS_FILE
    fresh = path.with_suffix(".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh.write_bytes(msgspec.json.format(msgspec.json.encode(ports, order="sorted")))
        fresh.replace(path)
    except OSError as error:
        log.error("%s is not written: %s", path, error)


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
