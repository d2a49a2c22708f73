"""A control group per host, below the caller's own one in every hierarchy.

In one shared group, stopping a unit in one host leaves processes alive. The groups also answer
which processes belong to a host, whatever became of its launcher.
"""

from __future__ import annotations

import os
from pathlib import Path

_V1 = ("name=systemd", "memory", "cpu", "cpuacct", "blkio", "pids")


def groups_for(name: str) -> list[Path]:
    """Directories of a group `name` below this process's own, one per hierarchy we use."""
    mounts = _mount_points()
    groups = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, current = line.split(":", 2)
        wanted = not controllers or any(one in _V1 for one in controllers.split(","))
        if wanted and controllers in mounts:
            groups.append(mounts[controllers] / current.lstrip("/") / name)
    return groups


def make(groups: list[Path]) -> None:
    for group in groups:
        group.mkdir(exist_ok=True)


def enter(groups: list[Path]) -> None:
    """Move the calling process into the groups."""
    for group in groups:
        (group / "cgroup.procs").write_text(str(os.getpid()))


def members(groups: list[Path]) -> list[int]:
    """Processes in any of the groups or below them."""
    found: set[int] = set()
    for group in groups:
        for directory, _, _ in os.walk(group):
            try:
                found.update(map(int, (Path(directory) / "cgroup.procs").read_text().split()))
            except OSError:  # gone, or (ENODEV) just going
                continue
    return sorted(found)


def remove(groups: list[Path]) -> None:
    """Remove the groups and those below, where no process is left in them."""
    for group in groups:
        for directory, _, _ in os.walk(group, topdown=False):
            try:
                Path(directory).rmdir()
            except OSError:
                continue


def _mount_points() -> dict[str, Path]:
    """Mount point by the controllers field of /proc/self/cgroup ("" is the unified hierarchy)."""
    points = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        path = Path(before.split()[4])
        if kind == "cgroup2":
            points[""] = path
        elif kind == "cgroup":
            points[_controllers(options)] = path
    return points


def _controllers(options: str) -> str:
    """The part of a v1 mount's options that names its controllers."""
    flags = {"rw", "ro", "xattr", "clone_children", "noprefix", "all"}
    return ",".join(one for one in options.split(",") if one not in flags and "agent=" not in one)
