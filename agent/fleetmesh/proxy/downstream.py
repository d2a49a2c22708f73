"""The server side of HTTP/1.1: a client's connection, its answers and its ends."""

from __future__ import annotations

import time

from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.address import peer_name, reset_at_end
from fleetmesh.proxy.answer import FATAL, answer, status_of
from fleetmesh.proxy.conduit import Conduit
from fleetmesh.proxy.plane import LINGER, LINGER_MOST, Plane
from fleetmesh.proxy.reader import (
    CHUNKED,
    GONE,
    HEAD,
    IDLE,
    LEAVING,
    LENGTH,
    UNREAD,
    WAIT,
    RequestReader,
)
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.telemetry import CLIENT_CLOSED, Tally


class Downstream(RequestReader):
    """What a connection does with a request is the subclass's: `begin` when the head is whole,
    `_flush` when bytes for the upstream are in `out`, `_abandon` when nobody waits any more.

    `tally` is where bytes and answers are counted.
    """

    __slots__ = (
        "_ended",
        "_left",
        "began",
        "peer",
        "series",
        "site",
        "status",
        "tally",
        "write_paused",
    )

    def __init__(self, plane: Plane, site: Site) -> None:
        super().__init__(plane)
        self.site = site
        self.series = plane.telemetry.series(
            site.direction, site.source, site.destination, site.kind
        )
        self.tally: Tally = self.series
        self.began = 0.0
        self.peer = ""
        self.status = 0
        self.write_paused = False
        self._ended = False
        self._left = 0.0

    def _abandon(self) -> None:
        """Give up the exchange with the upstream, if there is one."""
        raise NotImplementedError

    # The transport's protocol.

    def connection_made(self, transport: Conduit) -> None:
        self.transport = transport
        self.peer = peer_name(transport)
        self.began = time.monotonic()
        self.series.begin()
        self.plane.connections.add(self)

    def eof_received(self) -> bool:
        """A client that has said all it has to say still gets its answer."""
        if self.phase == WAIT or self.backlog:
            self._ended = True
            return True
        if self.phase in (LENGTH, CHUNKED):
            self._gave_up()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.phase in (LENGTH, CHUNKED, WAIT):
            self._gave_up()
        self.phase = GONE
        self._abandon()
        self.series.end(time.monotonic() - self.began)
        self.plane.connections.discard(self)

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._paused & UNREAD:
            self.go_on()

    def _unanswered(self) -> bool:
        """The request is whole, and nothing of its answer has come."""
        return self.phase == WAIT and not self.response_begun

    # Ending a request.

    def refuse(self, refusal: Refusal, detail: str = "") -> None:
        complete = self.phase == WAIT
        self._abandon()
        self.out.clear()
        fault = self.site.fault
        if fault is not None:
            detail = f"{detail}, fault {fault.fault.id}" if detail else f"fault {fault.fault.id}"
        self.plane.refused(self.site, refusal, self.peer, detail, self)
        if self.response_begun:
            self.tally.answered(self.site.route_name, self.status, self.started)
            self.phase = GONE
            self.abort()
            return
        self.status = status_of(refusal, self.site)
        self.persistent = self.persistent and complete and refusal not in FATAL
        self.transport.write(
            answer(
                refusal,
                self.site,
                head_only=self.method == b"HEAD",
                keep_alive=self.connection_line(),
            )
        )
        self.site.fault = None
        self.exchange_over()

    def connection_line(self) -> bytes:
        if not self.persistent:
            return b"Connection: close\r\n"
        return b"" if self.http11 else b"Connection: keep-alive\r\n"

    def exchange_over(self) -> None:
        """The answer is out. On to the next request, or to the end."""
        site = self.site
        self.tally.answered(site.route_name, self.status, self.started)
        site.route_name = ""  # the next request may end before it has one
        if self.phase != WAIT or not self.persistent or (self._ended and not self.backlog):
            self.leave()
            return
        self.phase = IDLE
        self.response_begun = False
        plane = self.plane
        self.deadline = plane.now + (plane.quiet if self.retiring else plane.http.idle_timeout)
        if self.write_paused:
            self.pause(UNREAD)
        elif self._paused:
            self.go_on()

    def go_on(self) -> None:
        if self.phase != IDLE or self.write_paused:
            return
        if self._paused:
            self.resume(self._paused)
        if self.backlog:
            data, self.backlog = self.backlog, b""
            self.data_received(data)
            if self._ended and not self.eof_received():
                self.transport.close()

    def leave(self) -> None:
        """Say that nothing follows, and let the peer read what is on its way: closing at once
        with unread bytes here would reset the connection and destroy the answer."""
        self.phase = LEAVING
        self.backlog = b""
        if self._paused:
            self.resume(self._paused)
        if self._ended or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._left = self.plane.now
        self.deadline = self._left + LINGER
        self.transport.write_eof()

    def linger(self) -> None:
        """Many clients read an answer only after they have sent their request, however little of
        it was wanted. A refusal of the mesh's own is not owed that."""
        if self.response_begun and self.plane.now < self._left + LINGER_MOST:
            self.deadline = self.plane.now + LINGER

    def _gave_up(self) -> None:
        """The client went away in the middle of an exchange."""
        self.phase = LEAVING
        self._abandon()
        status = self.status if self.response_begun else CLIENT_CLOSED
        self.tally.answered(self.site.route_name, status, self.started)

    # What the worker asks of every connection.

    def expire(self, now: float) -> None:
        phase = self.phase
        if phase == HEAD:
            self.refuse(Refusal.HEAD_TIMEOUT)
        elif phase in (LENGTH, CHUNKED):
            self.refuse(Refusal.BODY_TIMEOUT)
        elif phase == WAIT:
            self.refuse(Refusal.REQUEST_TIMEOUT)
        elif phase == IDLE:
            self.leave()
        elif now < self._left + self.plane.http.idle_timeout and self._unsent():
            self.deadline = now + LINGER
        else:
            self.abort()

    def _unsent(self) -> bool:
        """Whether the client has yet to take a part of the answer."""
        return self.transport.get_write_buffer_size() > 0

    def retire(self, now: float) -> None:
        self.retiring = True
        self.persistent = self.persistent and self.response_begun
        if self.phase == IDLE:
            self.deadline = min(self.deadline, now + self.plane.quiet)

    def recheck(self, now: float) -> None:
        asking = self.phase in (LENGTH, CHUNKED, WAIT)
        if self.site.recheck(self if asking else None):
            return
        if asking:
            if self.response_begun:
                self.plane.cut(self.site, self.peer, self)
                self.abort()
            else:
                self.refuse(self.site.refusal or Refusal.DENIED)
        elif self.phase == IDLE:
            self.retire(now)

    def abort(self) -> None:
        """A client of HTTP/1.0 may take the connection's end for the answer's (RFC 9112 section
        8): in the middle of one it gets a reset."""
        if self.response_begun and not self.http11:
            reset_at_end(self.transport)
        self.transport.abort()
