"""When the current try of a request is given up for another, though its connection still stands."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fleetmesh.core.framing import without
from fleetmesh.core.lane import Lane
from fleetmesh.core.outlier import UNANSWERED
from fleetmesh.core.response import REASON
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Direction
from fleetmesh.proxy.downstream import Downstream
from fleetmesh.proxy.keepalive import unacknowledged
from fleetmesh.proxy.plane import SWEEP, Plane
from fleetmesh.proxy.site import Site

if TYPE_CHECKING:
    from fleetmesh.proxy.upstream import Upstream

_APPLICATION_DOWN: Final = Refusal.APPLICATION_DOWN.code.encode()
_UPSTREAM_RESET: Final = Refusal.UPSTREAM_RESET.code.encode()


class Tries(Downstream):
    """`_upstream` is the connection that has the request, if one has. `_answer_by` (monotonic
    seconds) is when the answer must have begun, once the try was looked at before that; else 0.0.
    """

    __slots__ = ("_answer_by", "_upstream")

    def __init__(self, plane: Plane, site: Site) -> None:
        super().__init__(plane, site)
        self._upstream: Upstream | None = None
        self._answer_by = 0.0
        if site.direction is Direction.OUTBOUND and plane.unreachable_after > 0.0:
            self.look = plane.unreachable_after
            self.patience = min(self.patience, self.look)

    def again(self, lane: Lane, *, unseen: bool = False) -> bool:
        """Whether the request is sent once more, after its try along `lane` came to nothing."""
        raise NotImplementedError

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
        if (lost or (standing.out and standing.reason == UNANSWERED)) and self.again(lane):
            upstream.abandon()

    def discards(self, upstream: Upstream) -> bool:
        """Whether the answer, whose head is here, is nobody's: another try has the request."""
        policy = self.site.retries()
        lane = upstream.lane
        if upstream.status == 503:
            if not lane.expected:
                # Only an agent says so of itself: its word makes others send a request again.
                upstream.lines = without(upstream.lines, frozenset({REASON}))
            elif policy is not None and lane.shares:
                reason = upstream.field(REASON)
                if reason == _APPLICATION_DOWN and policy.connect:
                    return self.again(lane, unseen=True)
                if reason == _UPSTREAM_RESET and policy.reset:
                    return self.again(lane)
        return policy is not None and upstream.status in policy.statuses and self.again(lane)
