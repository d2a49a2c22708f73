"""The listening sockets of a host: taken from systemd by name, else bound and kept there."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec

from fleetmesh.edge import systemd
from fleetmesh.edge.ipc import Listener, ListenerKind
from fleetmesh.model.problem import Problem
from fleetmesh.plan.ports import Allocation

log = logging.getLogger(__name__)

BACKLOG = 4096
PLAIN = "plain"
ADMIN = "admin"
METRICS = "metrics"
SNAPSHOT = "snapshot"
SUCCESSOR = "successor"
"""Closed by an agent that serves: the sign that the workers of the one before it wait for."""
DNS = {"dns4": "127.0.0.1", "dns6": "::1"}
DNS_NAMES = {f"{name}.{kind}" for name in DNS for kind in ("udp", "tcp")}
KEPT = {ADMIN, METRICS, SNAPSHOT, SUCCESSOR} | DNS_NAMES
ADMIN_MODE = 0o660


class Address(msgspec.Struct, frozen=True):
    """`host` is an IP address; `::` listens on both families."""

    host: str
    port: int

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET


class Wanted(msgspec.Struct, frozen=True):
    listener: Listener
    address: Address


def wanted_listeners(
    ports: Allocation, plain_port: int, exposed: Iterable[tuple[int, str]] = ()
) -> tuple[Wanted, ...]:
    """Every listener of the workers, named as the contract with systemd names them."""
    wanted = [Wanted(Listener(PLAIN, ListenerKind.PLAIN, ""), Address("::", plain_port))]
    for service, port in ports.outbound.items():
        for name, host in (("out4", "127.0.0.1"), ("out6", "::1")):
            listener = Listener(f"{name}.{service}", ListenerKind.OUTBOUND, service)
            wanted.append(Wanted(listener, Address(host, port)))
    for service, port in ports.sidecar.items():
        listener = Listener(f"in.{service}", ListenerKind.INBOUND, service)
        wanted.append(Wanted(listener, Address("::", port)))
    return tuple(wanted) + exposed_listeners(exposed)


def exposed_listeners(places: Iterable[tuple[int, str]]) -> tuple[Wanted, ...]:
    """By port and address; the services that expose something there may change."""
    return tuple(
        Wanted(Listener(f"exposed.{port}", ListenerKind.EXPOSED, ""), Address(host or "::", port))
        for port, host in places
    )


class Sockets:
    """`open` brings the set of listeners to what is wanted; `close_unwanted` is a step of its
    own, so that capture can be taken from a socket before it goes."""

    def __init__(self, inherited: dict[str, int]) -> None:
        self._inherited = dict(inherited)
        self._open: dict[str, tuple[Wanted, socket.socket]] = {}

    @property
    def listeners(self) -> tuple[Listener, ...]:
        return tuple(wanted.listener for wanted, _ in self._open.values())

    @property
    def sockets(self) -> dict[str, socket.socket]:
        return {name: sock for name, (_, sock) in self._open.items()}

    def open(self, wanted: tuple[Wanted, ...]) -> list[Problem]:
        """Open what is not; the problems of ports that could not be had. A host without IPv6
        simply has no IPv6 listeners."""
        problems = []
        for one in wanted:
            name = one.listener.name
            if name in self._open and self._open[name][0] == one:
                continue
            try:
                sock = self._take(name, one.address)
                if sock is None:
                    sock = _bind(one.address)
                    systemd.store(name, sock.fileno())
            except OSError as error:
                if one.address.family is socket.AF_INET6 and error.errno in _NO_IPV6:
                    continue
                problems.append(
                    Problem(
                        f"listener {name}",
                        f"port {one.address.port} of {one.address.host}: {error.strerror}",
                        "choose another port or end whoever listens there",
                    )
                )
                continue
            if (before := self._open.pop(name, None)) is not None:
                before[1].close()
            self._open[name] = (one, sock)
        return problems

    def close_unexposed(self, wanted: tuple[Wanted, ...]) -> None:
        """Close the exposed listeners that `wanted` does not name: no capture leads to them."""
        names = {one.listener.name for one in wanted}
        for name, (one, sock) in list(self._open.items()):
            if one.listener.kind is ListenerKind.EXPOSED and name not in names:
                del self._open[name]
                sock.close()
                systemd.forget(name)

    def close_unwanted(self, wanted: tuple[Wanted, ...]) -> None:
        """Close the listeners that `wanted` does not name, and what systemd still kept of
        services that are gone."""
        names = {one.listener.name for one in wanted}
        for name in self._open.keys() - names:
            self._open.pop(name)[1].close()
            systemd.forget(name)
        for name in self._inherited.keys() - names - KEPT:
            os.close(self._inherited.pop(name))
            systemd.forget(name)

    def admin(self, path: str) -> socket.socket:
        """The admin API's Unix socket: systemd's, else bound at `path` for owner and group."""
        inherited = self._take_any(ADMIN)
        if inherited is not None:
            return inherited
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            Path(path).unlink()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.bind(path)
        Path(path).chmod(ADMIN_MODE)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        return sock

    def metrics(self, address: str) -> socket.socket:
        """The metrics page's socket: systemd's, else bound. Raises OSError."""
        host, _, port = address.rpartition(":")
        inherited = self._take_any(METRICS)
        return inherited or _bind(Address(host.strip("[]") or "127.0.0.1", int(port)))

    def dns(self, port: int) -> list[socket.socket]:
        """The DNS server's sockets, for both transports on both loopback addresses: what systemd
        kept of them, else bound and kept there. Raises OSError, not for want of IPv6."""
        found: list[socket.socket] = []
        for name, host in DNS.items():
            for suffix, kind in (("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM)):
                address = Address(host, port)
                try:
                    sock = self._take(f"{name}.{suffix}", address, kind)
                    if sock is None:
                        sock = _bind(address, kind)
                        systemd.store(f"{name}.{suffix}", sock.fileno())
                except OSError as error:
                    if address.family is socket.AF_INET6 and error.errno in _NO_IPV6:
                        continue
                    for opened in found:
                        opened.close()
                    raise
                found.append(sock)
        return found

    def succeed(self) -> None:
        """Tell the workers of the agent before us, where there are any, that ours serve."""
        sign = self._inherited.pop(SUCCESSOR, None)
        if sign is not None:
            os.close(sign)
            systemd.forget(SUCCESSOR)

    def inherited_snapshot(self) -> int | None:
        """The file descriptor of the last snapshot that a predecessor stored; the caller's."""
        return self._inherited.pop(SNAPSHOT, None)

    def _take(
        self, name: str, address: Address, kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> socket.socket | None:
        """The inherited socket called `name` if it listens where it should."""
        sock = self._take_any(name, kind)
        if sock is None or _listens_on(sock, address):
            return sock
        sock.close()
        return None

    def _take_any(
        self, name: str, kind: socket.SocketKind = socket.SOCK_STREAM
    ) -> socket.socket | None:
        fd = self._inherited.pop(name, None)
        return systemd.as_socket(fd, kind) if fd is not None else None


_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


def _bind(address: Address, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
    """Raises OSError. `::` falls back to IPv4 on a host without IPv6."""
    try:
        sock = socket.socket(address.family, kind)
    except OSError as error:
        if address.host == "::" and error.errno in _NO_IPV6:
            return _bind(Address("0.0.0.0", address.port))  # noqa: S104
        raise
    try:
        if kind == socket.SOCK_STREAM:  # for datagrams it would let two servers share a port
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if address.family is socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, address.host != "::")
        sock.bind((address.host, address.port))
        if kind == socket.SOCK_STREAM:
            sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _listens_on(sock: socket.socket, address: Address) -> bool:
    host, port = sock.getsockname()[:2]
    bound = ipaddress.ip_address(host)
    return port == address.port and (
        bound == ipaddress.ip_address(address.host)
        or (address.host == "::" and str(bound) == "0.0.0.0")  # noqa: S104
    )
