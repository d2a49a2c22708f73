"""The server side of HTTP/1.1: reads requests off one connection, one at a time.

Heads go through httptools, a new parser each; bodies are counted or decoded here. A request
that arrives while another is being answered waits as bytes, with reading paused.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final

import httptools

from fleetmesh.core.chunked import LAST_CHUNK, ChunkedDecoder, Part, encode
from fleetmesh.core.request import RequestHead
from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.address import peer_name
from fleetmesh.proxy.answer import FATAL, answer
from fleetmesh.proxy.plane import GRACE, LINGER, Plane
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.telemetry import CLIENT_CLOSED

# The phases of a connection, by what its next byte is.
IDLE: Final = 0  # the first of a request
HEAD: Final = 1  # of a head
LENGTH: Final = 2  # of a body whose length is known
CHUNKED: Final = 3  # of a chunked body
WAIT: Final = 4  # of a request that has to wait: the last one is being answered
LEAVING: Final = 5  # of no interest: the last answer is out, the peer should go
GONE: Final = 6  # there is none, or it is a tunnel's

# Why reading is paused.
PIPELINED: Final = 1
UPSTREAM_FULL: Final = 2
DIALLING: Final = 4

_HEAD_END = b"\r\n\r\n"


class Downstream(RequestHead, asyncio.Protocol):
    """What a connection does with a request is the subclass's: `begin` when the head is whole,
    `_flush` when bytes for the upstream are in `out`, `_abandon` when nobody waits any more."""

    __slots__ = (
        "_decoder",
        "_ended",
        "_fed",
        "_left",
        "_line",
        "_line_done",
        "_parser",
        "_paused",
        "_remaining",
        "_tail",
        "backlog",
        "deadline",
        "out",
        "peer",
        "persistent",
        "phase",
        "plane",
        "response_begun",
        "retiring",
        "series",
        "site",
        "started",
        "status",
        "transport",
        "write_paused",
    )

    def __init__(self, plane: Plane, site: Site) -> None:
        super().__init__()
        self.plane = plane
        self.site = site
        self.series = plane.telemetry.series(
            site.direction, site.source, site.destination, site.kind
        )
        self.phase = IDLE
        self.deadline = plane.now + plane.http.idle_timeout
        self.backlog = b""
        self.out: list[bytes] = []
        self.peer = ""
        self.persistent = True
        self.retiring = plane.draining
        self.response_begun = False
        self.write_paused = False
        self.started = 0.0
        self.status = 0
        self._decoder: ChunkedDecoder | None = None
        self._ended = False
        self._fed = 0
        self._left = 0.0
        self._line = b""
        self._line_done = False
        self._parser: httptools.HttpRequestParser | None = None
        self._paused = 0
        self._remaining = 0
        self._tail = b""
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # until connection_made

    # What the subclass does.

    def begin(self) -> None:
        """A legal request head is here; `phase` says what of the request is still to come."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Send what `out` holds upstream, as far as there is an upstream."""
        raise NotImplementedError

    def _abandon(self) -> None:
        """Give up the exchange with the upstream, if there is one."""
        raise NotImplementedError

    # The transport's protocol.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self.transport = transport
        self.peer = peer_name(transport)
        self.series.begin()
        self.plane.connections.add(self)

    def data_received(self, data: bytes) -> None:
        while data:
            phase = self.phase
            if phase <= HEAD:
                data = self._read_head(data)
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
                break
        if self.out:
            self._flush()

    def eof_received(self) -> bool:
        """A client that has said all it has to say still gets its answer."""
        if self.phase == WAIT:
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
        self.series.end()
        self.plane.connections.discard(self)

    def pause_writing(self) -> None:
        self.write_paused = True

    def resume_writing(self) -> None:
        self.write_paused = False

    def pause(self, reason: int) -> None:
        if not self._paused:
            self.transport.pause_reading()
        self._paused |= reason

    def resume(self, reason: int) -> None:
        if self._paused & reason:
            self._paused &= ~reason
            if not self._paused and not self.transport.is_closing():
                self.transport.resume_reading()

    # Reading a request.

    def _read_head(self, data: bytes) -> bytes:
        """Feed the parser up to the head's end; return what follows it."""
        plane = self.plane
        parser = self._parser
        if parser is None:
            self.begin_head()
            parser = self._parser = httptools.HttpRequestParser(self)
            self._fed = 0
            self._tail = b""
            self._line = b""
            self._line_done = False
            self.phase = HEAD
            self.deadline = plane.now + plane.http.head_timeout
            self.started = time.monotonic()
        tail = self._tail
        end = (tail + data).find(_HEAD_END) - len(tail) if tail else data.find(_HEAD_END)
        whole = end + len(tail) >= 0
        piece = data[: end + 4] if whole else data
        self._tail = b"" if whole else (tail + data)[-3:]
        self._fed += len(piece)
        excess = self._fed - plane.http.max_head_bytes
        if not self._line_done and not self._is_http(piece):
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
        return data[end + 4 :] if whole else b""

    def _is_http(self, piece: bytes) -> bool:
        """False once the request line names another protocol: llhttp takes RTSP and ICE too."""
        line = (self._line + piece if self._line else piece).lstrip(b"\r\n")
        end = line.find(b"\r\n")
        if end < 0:
            self._line = line
            return True
        self._line = b""
        self._line_done = True
        return line[end - 8 : end - 3] == b"HTTP/"

    def _settle_head(self, parser: httptools.HttpRequestParser) -> None:
        plane = self.plane
        refusal = self.judge(parser.get_method(), parser.get_http_version(), plane.http.max_headers)
        if refusal is not None:
            self.refuse(refusal)
            return
        self.persistent = self.keep_alive and not self.retiring
        if self.chunked:
            self.phase = CHUNKED
            self._decoder = ChunkedDecoder()
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
            self.deadline = self.plane.now + self.plane.http.idle_timeout
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
            self.out.append(encode(content))
        if decoder.part is Part.DONE:
            self.out.append(LAST_CHUNK)
            self._request_complete()
        elif decoder.part is Part.BROKEN:
            self.out.clear()
            self.refuse(Refusal.MALFORMED)
        else:
            self.deadline = self.plane.now + self.plane.http.idle_timeout
        return rest

    def _request_complete(self) -> None:
        """The time that the whole answer may take begins here, as with Envoy's route timeout."""
        http = self.plane.http
        self.phase = WAIT
        self._decoder = None
        self.deadline = self.plane.now + (http.request_timeout or http.idle_timeout)

    # Ending a request.

    def refuse(self, refusal: Refusal, detail: str = "") -> None:
        """Answer with `refusal`, or end the connection where an answer has begun already."""
        complete = self.phase == WAIT
        self._abandon()
        self.out.clear()
        self.plane.refused(self.site, refusal, self.peer, detail)
        if self.response_begun:
            self.series.answered(self.status, time.monotonic() - self.started)
            self.phase = GONE
            self.transport.abort()
            return
        self.status = refusal.status
        self.persistent = self.persistent and complete and refusal not in FATAL
        self.transport.write(
            answer(
                refusal,
                self.site,
                head_only=self.method == b"HEAD",
                keep_alive=self.connection_line(),
            )
        )
        self.exchange_over()

    def connection_line(self) -> bytes:
        if not self.persistent:
            return b"Connection: close\r\n"
        return b"" if self.http11 else b"Connection: keep-alive\r\n"

    def exchange_over(self) -> None:
        """The answer is out. On to the next request, or to the end."""
        self.series.answered(self.status, time.monotonic() - self.started)
        if self.phase != WAIT or not self.persistent or (self._ended and not self.backlog):
            self.leave()
            return
        self.phase = IDLE
        self.response_begun = False
        self.deadline = self.plane.now + (GRACE if self.retiring else self.plane.http.idle_timeout)
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

    def _gave_up(self) -> None:
        """The client went away in the middle of an exchange."""
        self.phase = LEAVING
        self._abandon()
        self.series.answered(
            self.status if self.response_begun else CLIENT_CLOSED, time.monotonic() - self.started
        )

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
            self.transport.abort()

    def _unsent(self) -> bool:
        """Whether the client has yet to take a part of the answer."""
        return self.transport.get_write_buffer_size() > 0

    def retire(self, now: float) -> None:
        self.retiring = True
        self.persistent = self.persistent and self.response_begun
        if self.phase == IDLE:
            self.deadline = min(self.deadline, now + GRACE)

    def recheck(self, now: float) -> None:
        if self.site.recheck():
            return
        if self.phase in (LENGTH, CHUNKED, WAIT):
            if self.response_begun:
                self.plane.cut(self.site, self.peer)
                self.abort()
            elif self.site.refusal is not None:
                self.refuse(self.site.refusal)
        elif self.phase == IDLE:
            self.retire(now)

    def abort(self) -> None:
        self.transport.abort()
