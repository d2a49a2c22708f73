"""One request and its response: the upstream half of a downstream connection.

There is no object per request: what an exchange needs to know stands in the connection.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import Final

from fleetmesh.core.budget import Budget
from fleetmesh.core.faults import Pause
from fleetmesh.core.lane import Lane
from fleetmesh.core.request import IDEMPOTENT
from fleetmesh.core.retry import pause
from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.plane import SWEEP, Plane
from fleetmesh.proxy.reader import DIALLING, GONE, UPSTREAM_FULL, WAIT
from fleetmesh.proxy.relay import Relay
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.tunnel import WebSocketRelay
from fleetmesh.proxy.turn import Turns, with_room
from fleetmesh.proxy.upstream import Upstream

KEPT_BYTES: Final = 64 * 1024  # of a request, for sending it again or while nobody takes it


class Exchange(Turns):
    """`_kept_bytes` are how much of the request is kept; `_replayed`: it was sent again because a
    kept connection had closed. `_delay` ends the wait of a fault."""

    __slots__ = ("_delay", "_kept_bytes", "_replayed")

    def __init__(self, plane: Plane, site: Site) -> None:
        super().__init__(plane, site)
        self._kept_bytes = 0
        self._replayed = False
        self._delay: asyncio.TimerHandle | None = None

    # Towards the upstream.

    def begin(self) -> None:
        site = self.site
        if site.refusal is not None:
            self.refuse(site.refusal)
            return
        lane = site.lane((), self)
        if isinstance(lane, Refusal):
            self.refuse(lane)
            return
        waits = False
        if lane.pool.max_requests:
            place = with_room(site, lane, ())
            if place is not None:
                lane = place
            elif self.may_wait(lane):
                waits = True
            else:
                return
        leg = site.leg
        if leg is not None or self.noted is not None:
            if not self.prepare(leg):
                return
        elif self.limited:
            self.limit(None, None)
        marks = self.marks = self.plane.marker.mark(self)
        self.out.append(self.rebuild(site.default_host, marks + site.added))
        self._kept = []
        self._kept_bytes = 0
        self._replayed = False
        if self._tried:
            self._tried = []
        if waits:
            self.wait(lane)
            return
        upstream = lane.pool.take(self.plane.now)
        if upstream is None:
            self._dial(lane)
        else:
            self._upstream = upstream
            upstream.serve(self, reused=True)

    def placed(self, lane: Lane) -> None:
        self._turn = None
        upstream = lane.pool.take(self.plane.now)
        if upstream is None:
            self._dial(lane)
        else:
            self._attach(upstream, reused=True)

    def reached(self, lane: Lane) -> None:
        """It was tried to dial this one."""

    def _dial(self, lane: Lane) -> None:
        self._ticket += 1
        if isinstance(lane, Pause):
            self._delay = self.plane.loop.call_later(lane.seconds, self._delayed, self._ticket)
            return
        lane.pool.opening += 1
        self.plane.spawn(self._connect(lane, self._ticket))

    async def _connect(self, lane: Lane, ticket: int) -> None:
        lane, outcome = await self.dial_along(lane, self._tried)
        if ticket == self._ticket:
            self.reached(lane)
        if isinstance(outcome, Upstream):
            if ticket == self._ticket and outcome.usable:
                lane.pool.lend()
                self._attach(outcome, reused=False)
            else:
                # The exchange ended meanwhile.
                self.spare(outcome)
                if ticket == self._ticket and not self._reconnects(lane, Refusal.UPSTREAM_RESET):
                    self.refuse(Refusal.UPSTREAM_RESET, "closed at once")
        elif ticket == self._ticket:
            refusal = outcome.refusal or self.site.failure
            if not self._reconnects(lane, refusal):
                self.refuse(refusal, f"{lane.address}:{lane.port}: {outcome.detail}")

    def _reconnects(self, lane: Lane, refusal: Refusal) -> bool:
        """Whether there is another try after one of which nothing was sent. Where nobody has asked
        for any it is enough that `dial` has gone from endpoint to endpoint."""
        policy = self.site.retries()
        if policy is None:
            return False
        if refusal is Refusal.UPSTREAM_RESET:
            return policy.reset and self.again(lane, unseen=True)
        asked = policy.connect and not policy.by_default
        return asked and refusal is Refusal.CONNECT_FAILED and self.again(lane, unseen=True)

    def spare(self, upstream: Upstream) -> None:
        """A connection that its exchange has no use for will serve another. Not where the peer
        waits for its first byte to find out what it speaks: silence means tcp."""
        upstream.lane.pool.lend()
        if self.site.detected and upstream.usable:
            upstream.abandon()
        else:
            upstream.shelve()

    def again(self, lane: Lane, *, unseen: bool = False) -> bool:
        """Whether the request is sent once more, after its try along `lane` came to nothing. Its
        time runs on. `unseen`: no application knows of it."""
        policy = self.site.retries()
        kept = self._kept
        if policy is None or kept is None or self.response_begun:
            return False
        if policy.by_default and (
            lane.standing is None or not (unseen or self.method in IDEMPOTENT)
        ):
            return False
        tries = len(self._tried) + 1
        if tries > policy.count or not self.afford(policy.budget):
            return False
        self.series.retried(self.site.route_name)
        self._tried.append(lane.endpoint_id)
        self._upstream = None
        self.forsake_rival()
        self._ticket += 1
        self._replay(kept)
        wait = pause(tries, random.random())  # noqa: S311 -- jitter is no secret
        self.plane.loop.call_later(wait, self._retry, self._ticket)
        return True

    def afford(self, budget: Budget) -> bool:
        """Whether the budget lets a request be sent beyond its first time."""
        if budget.spend(self.plane.now):
            return True
        budget.earn(self.site.source, self.series.ended())
        if budget.spend(self.plane.now):
            return True
        self.series.spared(self.site.route_name)
        return False

    def _replay(self, kept: list[bytes]) -> None:
        sent_before = len(self._tried) + int(self._replayed)
        self.out = [self.marked(b"".join([*kept, *self.out]), sent_before + 1)]
        self._kept = []
        self._kept_bytes = 0
        self.resume(UPSTREAM_FULL)

    def _retry(self, ticket: int) -> None:
        if ticket != self._ticket:
            return
        if time.monotonic() - SWEEP >= self.until:  # which was reckoned from a late clock
            self.refuse(Refusal.REQUEST_TIMEOUT)
            return
        lane = self.site.lane(self._tried)
        if isinstance(lane, Refusal):
            self.refuse(lane)
            return
        place = with_room(self.site, lane, self._tried)
        if place is not None:
            self.placed(place)
        elif self.may_wait(lane):
            self.wait(lane)

    def _delayed(self, ticket: int) -> None:
        """The wait of a fault is over, and less time is left."""
        self._delay = None
        if ticket == self._ticket:
            self.out = [self.marked(b"".join(self.out), 0)]
            self._retry(ticket)

    def serve(self, upstream: Upstream, *, reused: bool) -> None:
        upstream.serve(self, reused=reused)

    def _attach(self, upstream: Upstream, *, reused: bool) -> None:
        self._upstream = upstream
        upstream.serve(self, reused=reused)
        self._flush()
        self.time_try()
        self.resume(DIALLING)

    def _flush(self) -> None:
        upstream = self._upstream
        out = self.out
        if upstream is None:
            if sum(map(len, out)) > KEPT_BYTES:
                self.pause(DIALLING)
            return
        data = out[0] if len(out) == 1 else b"".join(out)
        out.clear()
        if self._kept is not None:
            self._kept_bytes += len(data)
            if self._kept_bytes > KEPT_BYTES:
                self._kept = None
            else:
                self._kept.append(data)
        self.tally.sent += len(data)
        if upstream.lane.standing is not None:
            upstream.asked = time.monotonic()
        upstream.transport.write(data)

    def _abandon(self) -> None:
        self._ticket += 1
        self._kept = None
        if self._delay is not None:
            self._delay.cancel()
            self._delay = None
        if self._turn is not None:
            self.leave_line()
        upstream, self._upstream = self._upstream, None
        self.forsake_rival()
        if upstream is not None:
            standing = upstream.lane.standing
            if standing is not None and upstream.asked and not self.response_begun:
                now = self.plane.now
                standing.waited(now - upstream.asked, now)
            upstream.abandon()

    def pause_upstream(self) -> None:
        """The upstream takes no more of the request for now."""
        self.pause(UPSTREAM_FULL)

    def resume_upstream(self) -> None:
        self.resume(UPSTREAM_FULL)

    # From the upstream.

    def interim(self, head: bytes) -> None:
        """A 1xx answer goes to whom it may concern: not to a client of HTTP/1.0."""
        if self.http11:
            self.transport.write(head)

    def answer_begins(self, upstream: Upstream) -> bytes:
        """The head to send, before any byte of content. What is kept of the request is done
        with."""
        self._kept = None
        self.response_begun = True
        self.status = upstream.status
        # An answer that is over before its request ends the connection; a peer that was not told
        # could send its next request into that end.
        early = self.phase != WAIT
        if self.retiring or early or (not self.http11 and upstream.ends_with_connection):
            self.persistent = False
        leg = self.site.leg
        if leg is not None:
            self.settle(upstream, leg)
            if leg.response is not None:
                upstream.lines = leg.response.changed(upstream.lines, self, self.peer)
        if self.site.extra:
            upstream.lines.append(self.site.extra)
            self.site.extra = b""
            self.site.fault = None
        return upstream.rebuild(self.http11, self.persistent, self.wants_trailers)

    def answer_complete(self) -> bool:
        """The content is out. True when the whole request was sent, too: only then may the
        upstream's connection serve another."""
        self._upstream = None
        self._ticket += 1
        whole = self.phase == WAIT and not self.out
        self.out.clear()
        self.resume(UPSTREAM_FULL)
        return whole

    def upstream_lost(self, upstream: Upstream, refusal: Refusal, detail: str) -> None:
        """The upstream's connection ended before its answer did."""
        standing = upstream.lane.standing
        if self.outlived(upstream):
            if standing is not None and not upstream.reused:
                standing.unanswered(self.plane.now)
            return
        self._upstream = None
        if self.response_begun:
            if standing is not None:
                standing.broke_off()
            self.plane.refused(self.site, refusal, self.peer, detail)
            self.tally.answered(self.site.route_name, self.status, self.started)
            self.phase = GONE
            self.abort()
            return
        if (
            upstream.reused
            and refusal is Refusal.UPSTREAM_RESET
            and not upstream.answering
            and not self._replayed
            and self._kept is not None
            and (self.method in IDEMPOTENT or not self._kept)
        ):
            # RFC 9112 section 9.3.1: a connection that was kept open may close at any moment.
            lane = self.site.lane(())
            if not isinstance(lane, Refusal):
                self._replayed = True
                self._replay(self._kept)
                self._dial(lane)
                return
        if standing is not None:
            standing.unanswered(self.plane.now)
        policy = self.site.retries()
        reset = refusal is Refusal.UPSTREAM_RESET
        if reset and policy is not None and policy.reset and self.again(upstream.lane):
            return
        self.refuse(refusal, detail)

    def tunnel(self, upstream: Upstream, head: bytes, rest: bytes) -> None:
        """The upstream agreed to change protocols: from here on bytes are bytes."""
        self._upstream = None
        self._ticket += 1
        self.phase = GONE
        self.status = 101
        self.tally.answered(self.site.route_name, 101, self.started)
        self.plane.connections.discard(self)
        early, self.backlog = self.backlog, b""
        if self._paused:
            self.resume(self._paused)
        if self.write_paused:
            upstream.hold()
        idle_timeout = self.idle_timeout
        kind: type[Relay] = WebSocketRelay if self.upgrade.lower() == b"websocket" else Relay
        relay = kind(self.plane, self.site, self.series, self.peer, idle_timeout)
        relay.began = self.began
        relay.request = self
        relay.pool = upstream.lane.pool
        relay.pool.tunnels += 1
        leg = self.site.leg
        if leg is not None and leg.stream_timeout:
            relay.end_after(leg.stream_timeout - (time.monotonic() - self.started))
        relay.join(self.transport, upstream.transport)
        if self.site.extra:
            head = head[:-2] + self.site.extra + b"\r\n"
        relay.passed(early, rest)
        self.transport.write(head + rest)
        if early:
            upstream.transport.write(early)
        if self._ended:
            relay.caller.eof_received()

    # Backpressure from the client.

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._upstream is not None:
            self._upstream.hold()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._upstream is not None:
            self._upstream.release()
        if self._rival is not None:
            self._rival.release()
