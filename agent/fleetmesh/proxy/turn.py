"""What becomes of a request whose endpoint has all that it may have: another, or its turn."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from fleetmesh.core.lane import Lane
from fleetmesh.core.line import Line
from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.hedging import Hedging
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import Site

MOST_LOOKED_AT: Final = 16


def with_room(site: Site, lane: Lane, tried: Sequence[str], *, stream: bool = False) -> Lane | None:
    """`lane`, or where that has no room for one more request (or `stream`) another endpoint that
    has, away from those `tried`. None: nobody has."""
    seen = [*tried]
    for _ in range(1 + MOST_LOOKED_AT):
        pool = lane.pool
        if not (pool.crowded_for_streams() if stream else pool.crowded()):
            return lane
        seen.append(lane.endpoint_id)
        other = site.lane(seen)
        if isinstance(other, Refusal) or other.endpoint_id in seen:
            return None
        lane = other
    return None


class Turn:
    """A request in its line, for as long as the line's patience lasts."""

    __slots__ = ("_exchange", "_lane", "_line", "_timer", "_tried")

    def __init__(self, exchange: Turns, lane: Lane, line: Line, tried: Sequence[str]) -> None:
        self._exchange = exchange
        self._lane = lane
        self._line = line
        self._tried = tried
        self._timer: asyncio.TimerHandle | None = exchange.plane.loop.call_later(
            line.patience, self._too_long
        )
        line.join(self)

    def wake(self) -> None:
        """Later: whoever frees a place is in the middle of something."""
        self._exchange.plane.loop.call_soon(self._go)

    def leave(self) -> None:
        """Nobody waits any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._line.leave(self)

    def _go(self) -> None:
        if self._timer is None:  # it is the next one's turn
            self._line.freed()
            return
        exchange = self._exchange
        lane = exchange.site.lane(self._tried)
        if isinstance(lane, Refusal):
            exchange.refuse(lane)
            return
        place = with_room(exchange.site, lane, self._tried)
        if place is not None:
            self.leave()
            exchange.placed(place)
            self._line.freed()

    def _too_long(self) -> None:
        lane = self._lane
        waited = f"{lane.address}:{lane.port}: no place within {self._line.patience:g} s"
        self._exchange.refuse(Refusal.OVERFLOW, waited)


class Turns(Hedging):
    """With a `_turn` the request waits for a place."""

    __slots__ = ("_turn",)

    def __init__(self, plane: Plane, site: Site) -> None:
        super().__init__(plane, site)
        self._turn: Turn | None = None

    def placed(self, lane: Lane) -> None:
        """There is room for the request."""
        raise NotImplementedError

    def may_wait(self, lane: Lane) -> bool:
        """If not, it is refused."""
        line = lane.pool.line
        if line is not None and not line.full:
            return True
        self.refuse(Refusal.OVERFLOW, f"{lane.address}:{lane.port}")
        return False

    def wait(self, lane: Lane) -> None:
        """It may."""
        line = lane.pool.line
        assert line is not None
        self._turn = Turn(self, lane, line, tuple(self._tried))

    def leave_line(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.leave()
