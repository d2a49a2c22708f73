"""Bookkeeping of idle connections: says what to reuse and what to close, closes nothing."""

from __future__ import annotations

from typing import Final, Generic, Protocol, TypeVar

from fleetmesh.core.line import Line

_MANY: Final = 1 << 30


class Pooled(Protocol):
    """What the pool asks of a connection: when it was opened and when it was last put back, in
    seconds of one monotonic clock."""

    born: float
    idle_since: float


C = TypeVar("C", bound=Pooled)


class Pool(Generic[C]):
    """The idle connections of one lane, last in, first out: the warmest is reused, the coldest
    ages out. `active` counts the connections that are lent, with those that have become `tunnels`,
    `opening` those that are dialled.

    Who waits in `line` hears of every place that is free again.
    `max_connections`, `max_requests` and `max_pending` are for `full`, 0 for none.
    """

    __slots__ = (
        "_idle",
        "active",
        "closed",
        "line",
        "max_age",
        "max_connections",
        "max_idle",
        "max_idle_seconds",
        "max_pending",
        "max_requests",
        "opening",
        "tunnels",
    )

    def __init__(
        self,
        max_idle: int,
        max_idle_seconds: float,
        max_age: float,
        max_connections: int = 0,
        max_requests: int = 0,
    ) -> None:
        self._idle: list[C] = []
        self.active = 0
        self.opening = 0
        self.tunnels = 0
        self.line: Line | None = None
        self.closed = False
        self.max_idle = max_idle
        self.max_idle_seconds = max_idle_seconds
        self.max_age = max_age
        self.limit(max_connections, max_requests, 0)

    def limit(self, max_connections: int, max_requests: int, max_pending: int) -> None:
        """What is more already ends by itself. Of those that wait for a connection to be opened
        there may be `max_pending`."""
        self.max_connections = max_connections
        self.max_pending = max_pending
        # Over HTTP/1 a request has a connection to itself, so the lower limit holds for both.
        limits = [limit for limit in (max_connections, max_requests) if limit]
        # Whoever has only a limit for those that wait is asked about it too.
        self.max_requests = min(limits, default=_MANY if max_pending else 0)

    def __len__(self) -> int:
        return len(self._idle)

    def take(self, now: float) -> C | None:
        """A connection to reuse, lent now. Those past their time wait for `expired`."""
        if self._idle:
            connection = self._idle[-1]
            if (
                now - connection.idle_since < self.max_idle_seconds
                and now - connection.born < self.max_age
            ):
                self._idle.pop()
                self.active += 1
                return connection
        return None

    def full(self, limit: int) -> bool:
        """Whether one more would pass `limit`, which is `max_requests` for a request and
        `max_connections` for a connection that is relayed as it is. Idle ones do not count: a
        request takes them first."""
        if self.max_pending and self.opening >= self.max_pending and not self._idle:
            return True
        return 0 < limit <= self.active + self.opening

    def crowded(self) -> bool:
        """Whether one more request would be too many."""
        return self.max_requests > 0 and self.full(self.max_requests)

    def crowded_for_streams(self) -> bool:
        """The same for a connection that is relayed as it is."""
        return self.full(self.max_connections)

    def lend(self) -> None:
        """A connection that was just opened goes out."""
        self.active += 1

    def dialled(self) -> None:
        """A connection is open, or will not be."""
        self.opening -= 1
        if self.line is not None:
            self.line.freed()

    def put(self, connection: C, now: float) -> bool:
        """Take a lent connection back; False: it has no place here, close it."""
        self.active -= 1
        if self.line is not None:
            self.line.freed()
        if self.closed or len(self._idle) >= self.max_idle or now - connection.born >= self.max_age:
            return False
        connection.idle_since = now
        self._idle.append(connection)
        return True

    def lost(self) -> None:
        """A lent connection will not come back."""
        self.active -= 1
        if self.line is not None:
            self.line.freed()

    def discard(self, connection: C) -> None:
        """An idle connection ended by itself."""
        try:
            self._idle.remove(connection)
        except ValueError:
            pass

    def idle(self) -> list[C]:
        """Remove and return all that wait."""
        idle, self._idle = self._idle, []
        return idle

    def expired(self, now: float) -> list[C]:
        """Remove and return what is past its time."""
        kept: list[C] = []
        gone: list[C] = []
        for connection in self._idle:
            fresh = (
                now - connection.idle_since < self.max_idle_seconds
                and now - connection.born < self.max_age
            )
            (kept if fresh else gone).append(connection)
        self._idle = kept
        return gone

    def close(self) -> list[C]:
        """Nothing comes back any more; returns what is idle."""
        self.closed = True
        return self.idle()
