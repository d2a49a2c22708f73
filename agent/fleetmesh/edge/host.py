"""What /proc says of this host: limits, connection tracking, listening sockets."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

PROC = Path("/proc")
_LISTEN = "0A"


class Conntrack(msgspec.Struct, frozen=True):
    """Tracked connections, and how many the kernel will track."""

    count: int
    most: int


def file_limit(pid: int, proc: Path = PROC) -> int | None:
    """The soft limit of open files of a process; None when it cannot be read."""
    try:
        lines = (proc / str(pid) / "limits").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("Max open files"):
            soft = line.removeprefix("Max open files").split()[0]
            return int(soft) if soft.isdecimal() else None
    return None


def conntrack(proc: Path = PROC) -> Conntrack | None:
    """None when the kernel tracks no connections, or does not show it here."""
    base = proc / "sys" / "net" / "netfilter"
    try:
        return Conntrack(
            int((base / "nf_conntrack_count").read_text()),
            int((base / "nf_conntrack_max").read_text()),
        )
    except (OSError, ValueError):
        return None


def listen_overflows(proc: Path = PROC) -> int | None:
    """Connections that found a listener's queue full, since boot and on the whole host; None when
    the kernel does not tell."""
    try:
        lines = (proc / "net" / "netstat").read_text().splitlines()
    except OSError:
        return None
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names.startswith("TcpExt:"):
            counted = dict(zip(names.split(), values.split(), strict=False))
            return int(counted["ListenOverflows"]) if "ListenOverflows" in counted else None
    return None


def listeners(proc: Path = PROC) -> dict[int, set[int]]:
    """TCP ports that somebody listens on, with the inodes of the sockets, on both families."""
    found: dict[int, set[int]] = {}
    for name in ("tcp", "tcp6"):
        try:
            lines = (proc / "net" / name).read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            columns = line.split()
            if columns[3] == _LISTEN:
                port = int(columns[1].rpartition(":")[2], 16)
                found.setdefault(port, set()).add(int(columns[9]))
    return found


def socket_inodes(pid: int, proc: Path = PROC) -> set[int] | None:
    """Inodes of a process's sockets; None when we may not look at it."""
    found = set()
    try:
        for entry in os.scandir(proc / str(pid) / "fd"):
            try:
                target = os.readlink(entry.path)  # noqa: PTH115 -- not a path, but socket:[inode]
            except FileNotFoundError:
                continue
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    except OSError:
        return None
    return found
