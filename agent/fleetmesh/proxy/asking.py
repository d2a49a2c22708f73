"""Connections to addresses that the table does not have: whose they are is asked once, and they
wait for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from fleetmesh.proxy.conduit import Conduit, Quiet, Receiver
from fleetmesh.proxy.plane import Plane

PATIENCE = 1.0
"""Seconds; then a connection goes where it would have gone unasked."""
HOLD = 1.0
"""Seconds for which an address that nobody owns is not asked about again."""
MOST_HELD = 4096

Destination = tuple[str, int]


class Arrival(Protocol):
    """Whose connection waits."""

    def settle(self, transport: Conduit, destination: Destination) -> Receiver | None:
        """Go on, with the table of the moment; None where the connection ends here."""


class Questions:
    """`send` asks; whoever has the answer, or nothing to say, calls `answered`."""

    __slots__ = ("_held", "_send", "_waiting")

    def __init__(self, send: Callable[[str, int], None]) -> None:
        self._send = send
        self._held: dict[Destination, float] = {}
        self._waiting: dict[Destination, list[Waiting]] = {}

    def settled(self, destination: Destination, now: float) -> bool:
        """Whether the answer of a moment ago still holds."""
        until = self._held.get(destination)
        if until is None:
            return False
        if until > now:
            return True
        del self._held[destination]
        return False

    def ask(self, destination: Destination, waiting: Waiting) -> None:
        others = self._waiting.get(destination)
        if others is not None:
            others.append(waiting)
            return
        self._waiting[destination] = [waiting]
        self._send(destination[0], destination[1])

    def answered(self, destination: Destination, now: float) -> None:
        """The table has `destination` by now, or it is nobody's."""
        while len(self._held) >= MOST_HELD:
            del self._held[next(iter(self._held))]
        self._held[destination] = now + HOLD
        for waiting in self._waiting.pop(destination, []):
            waiting.go()

    def leave(self, destination: Destination, waiting: Waiting) -> None:
        """It waits no longer; with the last one the question is forgotten, so that the next
        connection asks anew."""
        others = self._waiting.get(destination)
        if others is not None and waiting in others:
            others.remove(waiting)
            if not others:
                del self._waiting[destination]


class Waiting(Quiet):
    """Reads as little as it can until it is known where the connection goes: uvloop begins to read
    after `connection_made`, whatever that says."""

    __slots__ = (
        "_arrival",
        "_destination",
        "_early",
        "_ended",
        "_gone",
        "_plane",
        "_questions",
        "_timer",
        "_transport",
        "deadline",
    )

    def __init__(
        self, plane: Plane, questions: Questions, arrival: Arrival, destination: Destination
    ) -> None:
        self._plane = plane
        self._questions = questions
        self._arrival = arrival
        self._destination = destination
        self._early: list[bytes] = []
        self._ended = False
        self._gone = False
        self._timer: asyncio.TimerHandle | None = None
        self.deadline = float("inf")  # the sweep is too coarse
        self._transport: Conduit = None  # type: ignore[assignment]  # until connection_made

    def connection_made(self, transport: Conduit) -> None:
        self._transport = transport
        transport.pause_reading()
        self._plane.connections.add(self)
        self._timer = self._plane.loop.call_later(PATIENCE, self.go)
        self._questions.ask(self._destination, self)

    def go(self) -> None:
        """With the answer, or without it."""
        if self._gone:
            return
        self._leave()
        if not self._transport.is_closing():
            self._transport.resume_reading()
            self._pass_on(self._arrival.settle(self._transport, self._destination))

    def _pass_on(self, successor: Receiver | None) -> None:
        if successor is None:
            return
        for data in self._early:
            successor.data_received(data)
        if self._ended and not successor.eof_received():
            self._transport.close()

    def data_received(self, data: bytes) -> None:
        self._early.append(data)
        self._transport.pause_reading()

    def eof_received(self) -> bool:
        self._ended = True
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def _leave(self) -> None:
        self._gone = True
        if self._timer is not None:
            self._timer.cancel()
        self._questions.leave(self._destination, self)
        self._plane.connections.discard(self)

    # What the worker asks of every connection.

    def expire(self, now: float) -> None:
        """Never: see `deadline`."""

    def retire(self, now: float) -> None:
        """What was accepted is served."""

    def recheck(self, now: float) -> None:
        """A new table may have the answer before it is told."""
        if self._plane.table.owner(self._destination) is not None:
            self.go()

    def abort(self) -> None:
        self._transport.abort()
