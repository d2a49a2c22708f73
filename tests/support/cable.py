"""Network namespaces for tests: two of them, joined by a cable, with nftables in the first.

peer (10.99.0.1, fd99::1) ---- host (10.99.0.2, fd99::2, and 10.99.1.1 for destinations)
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
SYS_SETRESUID = 117  # x86-64; the raw call changes this thread only, the library's changes all

USABLE = os.geteuid() == 0 and bool(shutil.which("nft")) and os.uname().machine == "x86_64"


def run(*command: str, stdin: str | None = None) -> None:
    subprocess.run(command, check=True, input=stdin, text=True, capture_output=True, timeout=20)


class Namespace:
    def __init__(self, name: str) -> None:
        self.name = name
        self._threads = ThreadPoolExecutor(1)

    def inside(self, what: Callable[[], T], uid: int | None = None) -> T:
        """`what` called in the namespace, sockets that it makes being of `uid`."""

        def enter() -> T:
            libc = ctypes.CDLL(None, use_errno=True)
            with Path(f"/run/netns/{self.name}").open() as file:
                if libc.setns(file.fileno(), CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), "setns")
            if uid is not None and libc.syscall(SYS_SETRESUID, -1, uid, -1) != 0:
                raise OSError(ctypes.get_errno(), "setresuid")
            try:
                return what()
            finally:
                if uid is not None:
                    libc.syscall(SYS_SETRESUID, -1, 0, -1)

        return self._threads.submit(enter).result()

    def socket(self, family: int = socket.AF_INET, uid: int | None = None) -> socket.socket:
        sock = self.inside(lambda: socket.socket(family, socket.SOCK_STREAM), uid)
        sock.setblocking(False)
        return sock

    def listening(self, host: str, port: int) -> socket.socket:
        """Of both families where `host` is `::`."""
        sock = self.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind((host, port))
        sock.listen(128)
        return sock

    def close(self) -> None:
        self._threads.shutdown()
        run("ip", "netns", "delete", self.name)


@contextmanager
def cabled(rules: str) -> Iterator[tuple[Namespace, Namespace]]:
    """(host, peer); `rules` is an nft script for the host."""
    names = [f"fm{os.getpid()}{side}" for side in ("h", "p")]
    spaces: list[Namespace] = []
    try:
        for name in names:
            run("ip", "netns", "add", name)
            spaces.append(Namespace(name))
            run("ip", "-n", name, "link", "set", "lo", "up")
        host, peer = names
        run(
            "ip", "link", "add", "eth0", "netns", host, "type", "veth",
            "peer", "name", "eth0", "netns", peer,
        )  # fmt: skip
        for name, addresses in (
            (host, ("10.99.0.2/24", "10.99.1.1/32", "fd99::2/64")),
            (peer, ("10.99.0.1/24", "fd99::1/64")),
        ):
            for address in addresses:
                extra = ("nodad",) if ":" in address else ()
                run("ip", "-n", name, "address", "add", address, "dev", "eth0", *extra)
            run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "netns", "exec", host, "nft", "-f", "-", stdin=rules)
        yield spaces[0], spaces[1]
    finally:
        for space in spaces:
            space.close()
