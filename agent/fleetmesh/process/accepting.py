"""The sockets that a worker accepts from, and what becomes of the connections."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

from fleetmesh.edge.ipc import Listener, ListenerKind
from fleetmesh.model.report import Direction
from fleetmesh.proxy.crowd import TurnedAway
from fleetmesh.proxy.keepalive import keep_alive
from fleetmesh.proxy.listener import (
    ExposedArrival,
    InboundArrival,
    OutboundArrival,
    PlainArrival,
)
from fleetmesh.proxy.plane import Plane

BACKLOG = 4096


class Acceptor:
    """The worker opens none of the sockets: they are handed to it by name."""

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._sockets: dict[str, socket.socket] = {}
        self._servers: dict[Listener, asyncio.Server] = {}

    def take(self, names: Sequence[str], fds: Sequence[int]) -> None:
        """A socket that comes anew replaces the one of its name."""
        for name, fd in zip(names, fds, strict=False):
            replaced = self._sockets.pop(name, None)
            if replaced is not None:
                replaced.close()
            self._sockets[name] = socket.socket(fileno=fd)

    async def listen(self, listeners: Sequence[Listener], fresh: frozenset[str]) -> list[str]:
        """Accept on exactly `listeners`, on those with a `fresh` socket anew; the problems."""
        problems: list[str] = []
        loop = asyncio.get_running_loop()
        for listener in set(self._servers) - set(listeners):
            self._servers.pop(listener).close()
        for listener in listeners:
            if listener in self._servers:
                if listener.name not in fresh:
                    continue
                self._servers.pop(listener).close()
            sock = self._sockets.get(listener.name)
            if sock is None:
                problems.append(f"{listener.name}: no socket came for it")
                continue
            keep_alive(sock, self._plane.tcp.keepalive)
            self._servers[listener] = await loop.create_server(
                _Factory(self._plane, listener), sock=sock.dup(), backlog=BACKLOG
            )
        names = {listener.name for listener in listeners}
        for name in set(self._sockets) - names:
            self._sockets.pop(name).close()
        return problems

    def stop(self) -> None:
        for server in self._servers.values():
            server.close()
        self._servers.clear()


_DIRECTIONS = {
    ListenerKind.OUTBOUND: Direction.OUTBOUND,
    ListenerKind.INBOUND: Direction.INBOUND,
}


class _Factory:
    """Makes the protocol of a connection that a listener accepted."""

    __slots__ = ("_listener", "_plane")

    def __init__(self, plane: Plane, listener: Listener) -> None:
        self._plane = plane
        self._listener = listener

    def __call__(self) -> Any:
        plane, listener = self._plane, self._listener
        if len(plane.connections) >= plane.most_connections:
            direction = _DIRECTIONS.get(listener.kind, Direction.PLAIN)
            return TurnedAway(plane, direction, listener.service, listener.upstream)
        match listener.kind:
            case ListenerKind.OUTBOUND:
                return OutboundArrival(plane, listener.service, listener.upstream)
            case ListenerKind.INBOUND:
                return InboundArrival(plane, listener.service)
            case ListenerKind.PLAIN:
                return PlainArrival(plane)
            case ListenerKind.EXPOSED:
                return ExposedArrival(plane)
