"""Network namespaces of a test's own, and sockets in them, all in this process."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

CLONE_NEWNET = 0x40000000
NAMED = Path("/run/netns")
PREFIX = "fmt-"
SO_ORIGINAL_DST = 80
PATIENCE = 3.0

T = TypeVar("T")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root")

_libc = ctypes.CDLL(None, use_errno=True)


class Netns:
    """A namespace with `lo` up; use `netns()`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *argv: str, stdin: str = "") -> str:
        """Standard output of a command inside; it must succeed."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.name, *argv],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{argv}: {done.stderr}"
        return done.stdout

    def call(self, function: Callable[..., T], *args: Any, uid: int = 0) -> T:
        """`function(*args)` inside, on a thread of its own whose sockets belong to `uid`.

        Threads that it starts are inside too; sockets that it returns work everywhere.
        """
        result: list[T] = []
        failure: list[BaseException] = []

        def inside() -> None:
            try:
                self._enter()
                _libc.setfsuid(uid)  # of this thread only; sockets take their owner from it
                result.append(function(*args))
            except BaseException as error:
                failure.append(error)

        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
        if failure:
            raise failure[0]
        return result[0]

    def listen(self, address: str, port: int) -> socket.socket:
        """A listening socket inside; on `::` it takes both families."""

        def open_socket() -> socket.socket:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            sock = socket.socket(family, socket.SOCK_STREAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if address == "::":
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind((address, port))
            sock.listen(64)
            sock.settimeout(PATIENCE)
            return sock

        return self.call(open_socket)

    def connect(self, address: str, port: int, uid: int = 0) -> socket.socket:
        """A connection from inside, made by `uid`."""
        return self.call(socket.create_connection, (address, port), PATIENCE, uid=uid)

    def _enter(self) -> None:
        fd = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(fd, CLONE_NEWNET):
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(fd)


def _sweep() -> None:
    """Delete the namespaces of runs that were killed before they could."""
    for named in NAMED.glob(f"{PREFIX}*"):
        owner = named.name.rpartition("-")[2]
        if owner.isdigit() and not Path("/proc", owner).exists():
            # Another run may sweep at the same time.
            subprocess.run(["ip", "netns", "del", named.name], check=False, capture_output=True)


@contextmanager
def netns(label: str) -> Iterator[Netns]:
    """A new namespace, deleted at the end. `label` is at most eight characters."""
    _sweep()
    name = f"{PREFIX}{label}-{os.getpid()}"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        space = Netns(name)
        space.run("ip", "link", "set", "lo", "up")
        yield space
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def join(one: Netns, other: Netns, number: int) -> None:
    """A veth pair between the two: `one` is 10.99.<number>.1 and fd99:<number>::1, `other` .2 and
    ::2; each is the other's default route."""
    one.run(
        "ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", other.name
    )
    for host, space in ((1, one), (2, other)):
        gateway = 3 - host
        space.run("ip", "addr", "add", f"10.99.{number}.{host}/24", "dev", "eth0")
        space.run("ip", "addr", "add", f"fd99:{number}::{host}/64", "dev", "eth0", "nodad")
        space.run("ip", "link", "set", "eth0", "up")
        space.run("ip", "route", "add", "default", "via", f"10.99.{number}.{gateway}")
        space.run("ip", "-6", "route", "add", "default", "via", f"fd99:{number}::{gateway}")


def original_destination(sock: socket.socket) -> tuple[str, int]:
    """Address and port that the peer of an accepted socket had dialled; the socket's own name
    when nothing was redirected. Raises OSError when the kernel knows no such connection."""
    local = sock.getsockname()[0]
    if sock.family == socket.AF_INET6 and not local.startswith("::ffff:"):
        raw = sock.getsockopt(socket.IPPROTO_IPV6, SO_ORIGINAL_DST, 28)
        return socket.inet_ntop(socket.AF_INET6, raw[8:24]), int.from_bytes(raw[2:4], "big")
    raw = sock.getsockopt(socket.IPPROTO_IP, SO_ORIGINAL_DST, 16)
    return socket.inet_ntop(socket.AF_INET, raw[4:8]), int.from_bytes(raw[2:4], "big")


def tables(space: Netns) -> set[str]:
    """Names of the nftables tables inside, as `inet fleetmesh`."""
    listed = json.loads(space.run("nft", "-j", "list", "tables"))["nftables"]
    return {f"{e['table']['family']} {e['table']['name']}" for e in listed if "table" in e}
