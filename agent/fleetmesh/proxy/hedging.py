"""A request under way that is sent to another endpoint too: the first answer wins."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from fleetmesh.core.budget import Budget
from fleetmesh.core.lane import Lane
from fleetmesh.core.request import IDEMPOTENT
from fleetmesh.core.way import Leg
from fleetmesh.proxy.dial import Failure, dial
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.tries import Tries
from fleetmesh.proxy.upstream import Upstream


class Hedging(Tries):
    """`_kept` is what of the request was sent already, as long as it can be sent again; `_tried`
    are the endpoints whose outcome was retried. `_ticket` tells one exchange from the next to a
    dial that comes back late. `_rival` is the other connection that has the request."""

    __slots__ = ("_hedge_timer", "_kept", "_rival", "_ticket", "_tried")

    def __init__(self, plane: Plane, site: Site) -> None:
        super().__init__(plane, site)
        self._ticket = 0
        self._kept: list[bytes] | None = None
        self._tried: list[str] = []
        self._rival: Upstream | None = None
        self._hedge_timer: asyncio.TimerHandle | None = None

    # What the subclass does.

    def afford(self, budget: Budget) -> bool:
        """Whether the budget lets a request be sent beyond its first time."""
        raise NotImplementedError

    def spare(self, upstream: Upstream) -> None:
        """A connection that its exchange has no use for."""
        raise NotImplementedError

    def serve(self, upstream: Upstream, *, reused: bool) -> None:
        """By this connection, too."""
        raise NotImplementedError

    async def dial_along(self, lane: Lane, tried: Sequence[str]) -> tuple[Lane, Upstream | Failure]:
        """A connection along `lane`, whose pool counts it as opening already, or to another
        endpoint than those `tried`."""
        plane, pool = self.plane, lane.pool
        try:
            return await dial(
                plane,
                self.site,
                lane,
                lambda lane: Upstream(plane, lane),
                tried=tried,
                spare=self.spare,
            )
        finally:
            pool.dialled()

    # The other one.

    def prepare(self, leg: Leg | None) -> bool:
        if not super().prepare(leg):
            return False
        if leg is not None and leg.hedge is not None:
            after = leg.hedge.slowness.p95
            if after and self.method in IDEMPOTENT and not self.upgrade:
                self._hedge_timer = self._timer(self._hedge_timer, after, self._hedge)
        return True

    def _hedge(self, started: float) -> None:
        upstream = self._upstream
        leg = self.site.leg
        if started != self.started or not self._unanswered() or self._kept is None:
            return
        if self._tried or leg is None or leg.hedge is None:
            return
        if upstream is None:  # it is being dialled, and a dial has its own other
            self._hedge_timer = self._timer(self._hedge_timer, leg.hedge.slowness.p95, self._hedge)
            return
        if upstream.answering or not self._kept:
            return
        first = upstream.lane.endpoint_id
        lane = self.site.lane([first])
        if not isinstance(lane, Lane) or lane.endpoint_id == first:
            return
        pool = lane.pool
        if pool.crowded():
            return
        if not self.afford(leg.hedge.budget):
            return
        self.series.hedged(self.site.route_name)
        rival = pool.take(self.plane.now)
        if rival is not None:
            self._join(rival, reused=True)
            return
        pool.opening += 1
        self.plane.spawn(self._dial_rival(lane, first, self._ticket))

    async def _dial_rival(self, lane: Lane, first: str, ticket: int) -> None:
        _, outcome = await self.dial_along(lane, (first,))
        if not isinstance(outcome, Upstream):
            return
        wanted = ticket == self._ticket and self._unanswered() and bool(self._kept)
        if wanted and outcome.usable and outcome.lane.endpoint_id != first:
            outcome.lane.pool.lend()
            self._join(outcome, reused=False)
        else:
            self.spare(outcome)

    def _join(self, rival: Upstream, *, reused: bool) -> None:
        self._rival = rival
        self.serve(rival, reused=reused)
        lines = self.lines
        data = self.marked(b"".join(self._kept or ()), 2)
        self.lines = lines
        self.tally.sent += len(data)
        if rival.lane.standing is not None:
            rival.asked = time.monotonic()
        rival.transport.write(data)

    # Which of the two.

    def settle(self, winner: Upstream, leg: Leg) -> None:
        """The answer's head is here."""
        hedge = leg.hedge
        if hedge is not None and winner.status < 500 and self.site.fault is None:
            hedge.slowness.observe(time.monotonic() - self.started)
        rival = self._rival
        if rival is None:
            return
        self._rival = None
        loser = rival
        if winner is rival:
            self.series.won(self.site.route_name)
            if self._upstream is not None:
                loser = self._upstream
            self._upstream = rival
            if self.write_paused:
                rival.hold()
        self._forsake(loser)

    def discards(self, upstream: Upstream) -> bool:
        return self.outlived(upstream) or super().discards(upstream)

    def outlived(self, upstream: Upstream) -> bool:
        """Whether the other one has the request still: this one came to nothing."""
        if self._rival is None:
            return False
        if upstream is not self._rival:
            self._upstream = self._rival
        self._rival = None
        return True

    def forsake_rival(self) -> None:
        rival, self._rival = self._rival, None
        if rival is not None:
            self._forsake(rival)

    def _forsake(self, upstream: Upstream) -> None:
        """Over HTTP/1 an answer that nobody wants is stopped by the end of its connection."""
        standing = upstream.lane.standing
        if standing is not None and upstream.asked:
            now = time.monotonic()
            standing.waited(now - upstream.asked, now)
        upstream.abandon()

    def _look(self, now: float) -> None:
        if self._rival is None:
            super()._look(now)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self._hedge_timer is not None:
            self._hedge_timer.cancel()
