"""The tries of a request: what they may take, what is told of them, when one is given up for
another though its connection still stands."""

from __future__ import annotations

import asyncio
import time
from math import inf
from typing import TYPE_CHECKING, Final

from fleetmesh.core.framing import without
from fleetmesh.core.lane import Lane
from fleetmesh.core.response import REASON
from fleetmesh.core.told import (
    DEADLINE,
    OURS,
    attempt,
    attempts_line,
    deadline_line,
    time_left,
)
from fleetmesh.core.way import Leg
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Direction
from fleetmesh.proxy.downstream import Downstream
from fleetmesh.proxy.keepalive import unacknowledged
from fleetmesh.proxy.plane import SWEEP, Plane
from fleetmesh.proxy.reader import CHUNKED, LENGTH, WAIT
from fleetmesh.proxy.site import Site

if TYPE_CHECKING:
    from collections.abc import Callable

    from fleetmesh.proxy.upstream import Upstream

_UNSEEN: Final = frozenset(
    refusal.code.encode() for refusal in (Refusal.APPLICATION_DOWN, Refusal.TOO_MANY_CONNECTIONS)
)  # what an agent says of a request that no application has seen
_UPSTREAM_RESET: Final = Refusal.UPSTREAM_RESET.code.encode()


class Tries(Downstream):
    """`_upstream` is the connection that has the request, if one has. `_answer_by` (monotonic
    seconds) is when the answer must have begun, once the try was looked at before that; else 0.0.
    `marks` are the lines that tell the next one of the request's trace. The try may take until
    `_try_ends`.
    """

    __slots__ = ("_answer_by", "_stream_timer", "_try_ends", "_try_timer", "_upstream", "marks")

    def __init__(self, plane: Plane, site: Site) -> None:
        super().__init__(plane, site)
        self._upstream: Upstream | None = None
        self._answer_by = 0.0
        self._try_ends = 0.0
        self._try_timer: asyncio.TimerHandle | None = None
        self._stream_timer: asyncio.TimerHandle | None = None
        self.marks = b""
        if site.direction is Direction.OUTBOUND and plane.unreachable_after > 0.0:
            self.look = plane.unreachable_after
            self.patience = min(self.patience, self.look)

    def again(self, lane: Lane, *, unseen: bool = False) -> bool:
        """Whether the request is sent once more, after its try along `lane` came to nothing."""
        raise NotImplementedError

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        for timer in (self._try_timer, self._stream_timer):
            if timer is not None:
                timer.cancel()

    # What the request's leg and the caller say.

    def prepare(self, leg: Leg | None) -> bool:
        """Whether there is time for the request, which is then as long as they let it be."""
        site = self.site
        outbound = site.direction is Direction.OUTBOUND
        timeout = idle_timeout = None
        if leg is not None:
            timeout, idle_timeout = leg.timeout, leg.idle_timeout
            if leg.request is not None:
                self.lines = leg.request.changed(self.lines, self, self.peer)
        told = bool(timeout) and outbound
        latest = inf
        noted = self.noted
        if noted is not None:
            if site.direction is Direction.INBOUND and (number := attempt(noted)):
                self.lines.append(attempts_line(number))
            left = time_left(noted)
            if left is not None:
                latest = self.started + left
                left = latest - time.monotonic()
                if left <= 0.0:
                    self.refuse(Refusal.DEADLINE_EXCEEDED)
                    return False
                told = True
                timeout = min(timeout, left) if timeout else left
        own = leg is not None and leg.timeout is not None
        self.limit(timeout, idle_timeout)
        self.latest = latest
        begins = self.plane.http.request_timeout
        if not own and 0.0 < begins < self.waits:
            # The caller leaves more time than an answer may take to begin.
            self.waits = begins
            self.patience = min(begins, self.look)
            if self.phase == WAIT:
                self.deadline = self.plane.now + self.patience
        if told:
            self.lines.append(deadline_line(timeout or 0.0))
        if leg is not None:
            self.time_try()
            if leg.stream_timeout:
                self._stream_timer = self._timer(
                    self._stream_timer, leg.stream_timeout, self._outlived
                )
        return True

    def marked(self, data: bytes, number: int) -> bytes:
        """The request, `data`, once more: its head tells which attempt it is, and the time that is
        left now. The application's own may read that it was tried before, but not be told so. With
        `number` 0 it was not sent yet."""
        site = self.site
        if site.direction is not Direction.OUTBOUND:
            return data
        added = self.marks + site.added
        head = self.rebuild(site.default_host, added)
        if not data.startswith(head):
            return data
        lines = self.lines
        self.lines = without(lines, OURS)
        if self.until < inf and any(line.startswith(DEADLINE) for line in lines):
            self.lines.append(deadline_line(self.until - time.monotonic()))
        if number:
            self.lines.append(attempts_line(number))
        return self.rebuild(site.default_host, added) + data[len(head) :]

    # What a try may take, and all of them.

    def time_try(self) -> None:
        """One begins."""
        leg = self.site.leg
        if leg is not None and leg.try_timeout:
            self._try_ends = self.plane.loop.time() + leg.try_timeout
            self._try_timer = self._timer(self._try_timer, leg.try_timeout, self._try_over)

    def _timer(
        self,
        previous: asyncio.TimerHandle | None,
        seconds: float,
        then: Callable[[float], None],
    ) -> asyncio.TimerHandle:
        """One of a kind for each connection: the request's is known by when it `started`."""
        if previous is not None:
            previous.cancel()
        return self.plane.loop.call_later(seconds, then, self.started)

    def _try_over(self, started: float) -> None:
        if started != self.started or self.response_begun:
            return
        if self.phase in (LENGTH, CHUNKED):
            self.time_try()  # the endpoint has not heard all of it
            return
        upstream = self._upstream
        if self.phase != WAIT or upstream is None:
            return
        lane = upstream.lane
        if lane.standing is not None:
            lane.standing.unanswered(self.plane.now)
        policy = self.site.retries()
        if policy is not None and policy.reset and self.again(lane):
            upstream.abandon()
        else:
            self.refuse(Refusal.REQUEST_TIMEOUT, "the time of a try is over")

    def _outlived(self, started: float) -> None:
        if started == self.started and self.phase in (LENGTH, CHUNKED, WAIT):
            self.refuse(Refusal.STREAM_TIMEOUT)

    # Whether it is still worth while.

    def limit(self, timeout: float | None, idle_timeout: float | None) -> None:
        super().limit(timeout, idle_timeout)
        self._answer_by = 0.0

    def expire(self, now: float) -> None:
        upstream = self._upstream
        if self._unanswered():
            if self._waits_on(now):
                return
            if upstream is not None and upstream.lane.standing is not None:
                upstream.lane.standing.unanswered(now)
        super().expire(now)

    def _waits_on(self, now: float) -> bool:
        """Whether the time is not up: it was only time for a look."""
        if self.patience >= self.waits:
            return False
        if not self._answer_by:
            self._answer_by = self.deadline - self.patience + self.waits
            self.limited = True  # so that the next request begins without
        if self._answer_by <= now - SWEEP:
            return False
        self._look(now)
        self.deadline = min(self._answer_by, now + self.look)
        return True

    def _look(self, now: float) -> None:
        """A host that is gone without a word, or was found to be, does not get to keep a request:
        its kernel would have acknowledged it, however long its service takes."""
        upstream = self._upstream
        if upstream is None:
            return
        lane = upstream.lane
        standing = lane.standing
        if standing is None:
            return
        lost = unacknowledged(upstream.transport)
        if lost:
            standing.unanswered(now)
        policy = self.site.retries()
        if policy is None or not policy.reset:
            return
        if (lost or standing.silent()) and self.again(lane):
            upstream.abandon()

    def discards(self, upstream: Upstream) -> bool:
        """Whether the answer, whose head is here, is nobody's: another try has the request."""
        policy = self.site.retries()
        lane = upstream.lane
        if upstream.status == 503:
            if not lane.expected:
                # Only an agent says so of itself: its word makes others send a request again.
                upstream.lines = without(upstream.lines, frozenset({REASON}))
            else:
                if policy is not None and lane.shares:
                    reason = upstream.field(REASON)
                    if reason in _UNSEEN and policy.connect:
                        return self.again(lane, unseen=True)
                    if reason == _UPSTREAM_RESET and policy.reset:
                        return self.again(lane)
                if upstream.shed:
                    return False
        if policy is None:
            return False
        if policy.by_default:
            # To find out that an endpoint is ill, or still is, shall not cost its caller a request.
            return lane.standing is not None and lane.standing.given_up() and self.again(lane)
        return upstream.status in policy.statuses and self.again(lane)
