"""A host seen from outside: its PID 1, and what the launcher wrote about it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from fleetlab import cgroup
from fleetlab.state import Lab, ProcessId, write_atomically


@dataclass(frozen=True)
class Running:
    """What a launcher records of itself and of its host."""

    launcher: ProcessId
    groups: tuple[str, ...]

    @property
    def paths(self) -> list[Path]:
        return [Path(group) for group in self.groups]

    def write(self, lab: Lab, host: str) -> None:
        write_atomically(_record(lab, host), json.dumps(asdict(self)))

    @classmethod
    def read(cls, lab: Lab, host: str) -> Running | None:
        """The last record, None if there is none that can be read."""
        try:
            raw = json.loads(_record(lab, host).read_text())
            return cls(ProcessId(**raw["launcher"]), tuple(raw["groups"]))
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None


def forget(lab: Lab, host: str) -> None:
    _record(lab, host).unlink(missing_ok=True)


def init_pid(running: Running) -> int | None:
    """This machine's number for the host's PID 1, None while it has none."""
    for pid in cgroup.members(running.paths):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in status.splitlines():
            if line.startswith("NSpid:") and line.split()[2:] == ["1"]:
                return pid
    return None


def execute(running: Running, *command: str) -> subprocess.CompletedProcess[str] | None:
    """Run a command inside the host, without SSH; None if the host is not running."""
    init = init_pid(running)
    if init is None:
        return None
    return subprocess.run(
        ["nsenter", "--target", str(init), "--all", "--", *command],
        capture_output=True,
        text=True,
        check=False,
    )


def halt(running: Running) -> None:
    """Ask PID 1 for an orderly shutdown."""
    init = init_pid(running)
    if init is not None:
        os.kill(init, signal.SIGRTMIN + 3)


def cut_power(running: Running, patience: float = 10.0) -> bool:
    """Kill PID 1, and with it every process of the host, at once; True when all are gone."""
    deadline = time.monotonic() + patience
    while cgroup.members(running.paths):
        init = init_pid(running)
        if init is not None:
            os.kill(init, signal.SIGKILL)
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def wait_until_empty(running: Running, patience: float) -> bool:
    """Whether every process of the host ended within `patience` seconds."""
    deadline = time.monotonic() + patience
    while cgroup.members(running.paths):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _record(lab: Lab, host: str) -> Path:
    return lab.host_directory(host) / "running.json"
