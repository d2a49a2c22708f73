"""A connection whose first bytes decide who takes it over."""

from __future__ import annotations

import asyncio

from fleetmesh.proxy.conduit import Conduit, Quiet, Receiver
from fleetmesh.proxy.plane import Plane


class FirstBytes(Quiet):
    """Reads until a subclass knows enough, or for `tcp.detect_timeout`. What was read, `_data`,
    goes to whoever takes over, once."""

    __slots__ = ("_data", "_plane", "_timer", "_transport", "deadline")

    def __init__(self, plane: Plane) -> None:
        self._plane = plane
        self._data = bytearray()
        self._timer: asyncio.TimerHandle | None = None
        # The sweep is too coarse: every connection of a server that speaks first waits this out.
        self.deadline = float("inf")
        self._transport: Conduit = None  # type: ignore[assignment]  # until connection_made

    # What the subclasses do.

    def _give_up(self) -> Receiver | None:
        """Nothing more comes, or not soon: let somebody take over; None where nobody does."""
        raise NotImplementedError

    # The transport's protocol.

    def connection_made(self, transport: Conduit) -> None:
        plane = self._plane
        self._transport = transport
        self._timer = plane.loop.call_later(plane.tcp.detect_timeout, self._silent)
        plane.connections.add(self)

    def eof_received(self) -> bool:
        """A client that only listens is served, too."""
        successor = self._give_up()
        return successor is not None and successor.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def _silent(self) -> None:
        if not self._transport.is_closing():
            self._give_up()

    def _leave(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._plane.connections.discard(self)

    def _pass_on(self, successor: Receiver | None) -> Receiver | None:
        """It has the connection already."""
        if successor is not None and self._data:
            successor.data_received(bytes(self._data))
        return successor

    # What the worker asks of every connection.

    def expire(self, now: float) -> None:
        """Never: see `deadline`."""

    def retire(self, now: float) -> None:
        """What was accepted is served."""

    def recheck(self, now: float) -> None:
        """Nothing has been decided yet."""

    def abort(self) -> None:
        self._transport.abort()
