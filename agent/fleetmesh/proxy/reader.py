"""Reads requests off one connection, one at a time.

Heads go through httptools, a new parser each; bodies are counted or decoded here. A request
that arrives while another is being answered waits as bytes, with reading paused.
"""

from __future__ import annotations

import time
from math import inf
from typing import Final

import httptools

from fleetmesh.core.chunked import LAST_CHUNK, ChunkedDecoder, Part, encode
from fleetmesh.core.request import RequestHead
from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.conduit import Conduit
from fleetmesh.proxy.plane import Plane

# The phases of a connection, by what its next byte is.
IDLE: Final = 0  # the first of a request
HEAD: Final = 1  # of a head
LENGTH: Final = 2  # of a body whose length is known
CHUNKED: Final = 3  # of a chunked body
WAIT: Final = 4  # of a request that has to wait: the last one is being answered
LEAVING: Final = 5  # of no interest: the last answer is out, the peer should go
GONE: Final = 6  # there is none, or it is a tunnel's

_UNLIMITED: Final = 1 << 63  # bytes of a body

# Why reading is paused.
PIPELINED: Final = 1
UPSTREAM_FULL: Final = 2
DIALLING: Final = 4
UNREAD: Final = 8  # the client has to take its answers first


class RequestReader(RequestHead):
    """`phase` says what is read next, `out` holds what is to go upstream: the body's bytes, framed
    anew. `persistent`: another request may follow on this connection; with `retiring`, none does.
    `started` is when the first byte of the request came (monotonic seconds). `waits` is how long
    the answer may take to begin after the request's end, `idle_timeout` how long either may pause,
    in seconds; `patience` is the time to the first `look` whether it will, and the whole where
    nobody looks. `limited`: a leg, or the request, said so. Then `until` is when the whole answer
    must be out, and never later than `latest`.
    """

    __slots__ = (
        "_decoder",
        "_parser",
        "_paused",
        "_remaining",
        "_span",
        "backlog",
        "deadline",
        "idle_timeout",
        "latest",
        "limited",
        "look",
        "out",
        "patience",
        "persistent",
        "phase",
        "plane",
        "response_begun",
        "retiring",
        "started",
        "transport",
        "until",
        "waits",
    )

    def __init__(self, plane: Plane) -> None:
        super().__init__()
        self.plane = plane
        self.phase = IDLE
        self.deadline = plane.now + plane.http.idle_timeout
        self.idle_timeout = plane.http.idle_timeout
        self.waits = self.patience = plane.http.request_timeout or plane.http.idle_timeout
        self.look = inf
        self.limited = False
        self._span = 0.0
        self.until = self.latest = inf
        self.backlog = b""
        self.out: list[bytes] = []
        self.persistent = True
        self.response_begun = False
        self.retiring = plane.draining
        self.started = 0.0
        self._decoder: ChunkedDecoder | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._paused = 0
        self._remaining = 0
        self.transport: Conduit = None  # type: ignore[assignment]  # until connection_made

    # What the subclasses do.

    def begin(self) -> None:
        """A legal request head is here; `phase` says what of the request is still to come."""
        raise NotImplementedError

    def refuse(self, refusal: Refusal, detail: str = "") -> None:
        """Answer with `refusal`, or end the connection where an answer has begun already."""
        raise NotImplementedError

    def go_on(self) -> None:
        """Read the next request, which may have come already."""
        raise NotImplementedError

    def linger(self) -> None:
        """The peer sends what nobody wants any more."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Send what `out` holds upstream, as far as there is an upstream."""
        raise NotImplementedError

    def data_received(self, data: bytes) -> None:
        while data:
            phase = self.phase
            if phase <= HEAD:
                data = self._read_head(data)
                if data and self.phase == IDLE:
                    # Refused at once. A flood of such requests must not keep others from their
                    # turn: one read may hold ten thousand.
                    self.backlog = data
                    self.pause(PIPELINED)
                    self.plane.loop.call_soon(self.go_on)
                    break
            elif phase == LENGTH:
                data = self._read_counted(data)
            elif phase == CHUNKED:
                data = self._read_chunked(data)
            elif phase == WAIT:
                if self.persistent or self.upgrade:
                    self.backlog += data
                    self.pause(PIPELINED)
                break
            else:
                if phase == LEAVING:
                    self.linger()
                break
        if self.out:
            self._flush()

    def pause(self, reason: int) -> None:
        if not self._paused:
            self.transport.pause_reading()
        self._paused |= reason

    def resume(self, reason: int) -> None:
        if self._paused & reason:
            self._paused &= ~reason
            if not self._paused and not self.transport.is_closing():
                self.transport.resume_reading()

    def _read_head(self, data: bytes) -> bytes:
        """Feed the parser up to the head's end; return what follows it."""
        plane = self.plane
        parser = self._parser
        if parser is None:
            self.begin_head()
            parser = self._parser = httptools.HttpRequestParser(self)
            self.phase = HEAD
            self.deadline = plane.now + plane.http.head_timeout
            self.started = time.monotonic()
        piece, rest, whole = self.cut(data)
        excess = self.fed - plane.http.max_head_bytes
        if not self.begun and not self.begins_well(piece):
            self.refuse(Refusal.MALFORMED)
            return b""
        try:
            parser.feed_data(piece if excess <= 0 else piece[:-excess])
        except httptools.HttpParserUpgrade:
            pass  # what follows the head is not the parser's anyway
        except httptools.HttpParserError:
            self.refuse(Refusal.MALFORMED)
            return b""
        if len(self.target) > plane.http.max_target_bytes:
            self.refuse(Refusal.TARGET_TOO_LONG)
            return b""
        if excess > 0:
            self.refuse(Refusal.HEAD_TOO_LARGE)
            return b""
        if self.head_done:
            self._parser = None
            if not whole:
                self.refuse(Refusal.MALFORMED)
                return b""
            self._settle_head(parser)
        return rest

    def _settle_head(self, parser: httptools.HttpRequestParser) -> None:
        plane = self.plane
        refusal = self.judge(parser.get_method(), parser.get_http_version(), plane.http.max_headers)
        if refusal is not None:
            self.refuse(refusal)
            return
        limit = plane.http.max_body_bytes
        if limit and self.length > limit:
            self.refuse(Refusal.BODY_TOO_LARGE)
            return
        self.persistent = self.keep_alive and not self.retiring
        if self.chunked:
            self.phase = CHUNKED
            self._decoder = ChunkedDecoder()
            self._remaining = limit or _UNLIMITED
            self.deadline = plane.now + plane.http.idle_timeout
        elif self.length > 0:
            self.phase = LENGTH
            self._remaining = self.length
            self.deadline = plane.now + plane.http.idle_timeout
        else:
            self._request_complete()
        self.begin()

    def _read_counted(self, data: bytes) -> bytes:
        remaining = self._remaining
        size = len(data)
        if size < remaining:
            self.out.append(data)
            self._remaining = remaining - size
            self.deadline = self.plane.now + self.idle_timeout
            return b""
        self.out.append(data[:remaining])
        self._request_complete()
        return data[remaining:]

    def _read_chunked(self, data: bytes) -> bytes:
        decoder = self._decoder
        assert decoder is not None
        content: list[bytes] = []
        rest = decoder.feed(data, content)
        if content:
            self._remaining -= sum(map(len, content))
            if self._remaining < 0:
                self.out.clear()
                self.refuse(Refusal.BODY_TOO_LARGE)
                return b""
            self.out.append(encode(content))
        if decoder.part is Part.DONE:
            self.out.append(LAST_CHUNK)
            self._request_complete()
        elif decoder.part is Part.BROKEN:
            self.out.clear()
            self.refuse(Refusal.MALFORMED)
        else:
            self.deadline = self.plane.now + self.idle_timeout
        return rest

    def _request_complete(self) -> None:
        """The time that the endpoint has to begin its answer starts here."""
        self.phase = WAIT
        self._decoder = None
        waits = self.idle_timeout if self.response_begun else self.patience
        self.deadline = self.plane.now + waits
        if self._span:
            self.until = min(self.plane.now + self._span, self.latest)
            self.deadline = min(self.deadline, self.until)

    def limit(self, timeout: float | None, idle_timeout: float | None) -> None:
        """What the current request's leg says in place of the settings, if it says anything.
        A `timeout` is for the whole answer; 0.0 is none but the idle one. For before the answer
        begins."""
        http = self.plane.http
        self.limited = timeout is not None or idle_timeout is not None
        waits = http.request_timeout if timeout is None else timeout
        self.idle_timeout = idle_timeout or http.idle_timeout
        if idle_timeout and waits:
            self.waits = min(waits, idle_timeout)
        else:
            self.waits = waits or self.idle_timeout
        self.patience = min(self.waits, self.look)
        self._span = timeout or 0.0
        self.until = self.latest = inf
        if self.phase != WAIT:
            self.deadline = self.plane.now + self.idle_timeout
            return
        self.deadline = self.plane.now + self.patience
        if timeout:
            self.until = self.plane.now + timeout
