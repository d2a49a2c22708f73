"""What /proc says of this host: limits and what of them is used, connection tracking, sockets."""

from __future__ import annotations

import ipaddress
import os
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec

PROC = Path("/proc")
_LISTEN = "0A"


class Conntrack(msgspec.Struct, frozen=True):
    """Tracked connections, and how many the kernel will track."""

    count: int
    most: int


class Files(msgspec.Struct, frozen=True):
    """Files that process `pid` has open, and how many it may."""

    pid: int
    count: int
    most: int


class Dialled(msgspec.Struct, frozen=True):
    """How many ports connections may be begun from (`range`), and how many are in use to the
    `destination` that takes most."""

    range: int
    most: int
    destination: str = ""


class Tuning(msgspec.Struct, frozen=True):
    """`somaxconn` is None where it is not shown; `ephemeral` and `reserved` are ports."""

    somaxconn: int | None = None
    ephemeral: range = range(0)
    reserved: frozenset[int] = frozenset()


def open_files(pid: int, proc: Path = PROC) -> Files | None:
    """None when we may not look at the process, or it is gone."""
    most = file_limit(pid, proc)
    try:
        count = sum(1 for _ in os.scandir(proc / str(pid) / "fd"))
    except OSError:
        return None
    return None if most is None else Files(pid, count, most)


def tuning(proc: Path = PROC) -> Tuning:
    net = proc / "sys" / "net"
    ephemeral, reserved = range(0), frozenset[int]()
    try:
        first, last = map(int, (net / "ipv4" / "ip_local_port_range").read_text().split())
        ephemeral = range(first, last + 1)
        reserved = frozenset(_ports((net / "ipv4" / "ip_local_reserved_ports").read_text()))
    except (OSError, ValueError):
        pass
    try:
        return Tuning(int((net / "core" / "somaxconn").read_text()), ephemeral, reserved)
    except (OSError, ValueError):
        return Tuning(None, ephemeral, reserved)


def _ports(text: str) -> Iterator[int]:
    """Of a set as the kernel writes it: `7,10-12`. Raises ValueError."""
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            yield from range(int(first), int(last or first) + 1)


def dialled(known: Tuning, proc: Path = PROC) -> Dialled | None:
    """None when the kernel does not show its sockets."""
    free = set(known.ephemeral) - known.reserved
    used: Counter[str] = Counter()
    for name in ("tcp", "tcp6"):
        for columns in _sockets(proc / "net" / name):
            if columns[3] != _LISTEN and int(columns[1].rpartition(":")[2], 16) in free:
                used[columns[2]] += 1
    if not free:
        return None
    destination, most = next(iter(used.most_common(1)), ("", 0))
    return Dialled(len(free), most, _written(destination) if destination else "")


def _written(hexadecimal: str) -> str:
    """An address and port of /proc/net/tcp: words in this machine's order of bytes."""
    host, _, port = hexadecimal.partition(":")
    words = [bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8)]
    packed = b"".join(words) if sys.byteorder == "little" else bytes.fromhex(host)
    address = ipaddress.ip_address(packed)
    return f"{address} port {int(port, 16)}"


def _sockets(file: Path) -> Iterator[list[str]]:
    """The columns of each line; none where there is no such file."""
    try:
        lines = file.read_text().splitlines()[1:]
    except OSError:
        return
    for line in lines:
        yield line.split()


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
        for columns in _sockets(proc / "net" / name):
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
