"""The client side of HTTP/1.1: reads responses off one connection, for one exchange at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import httptools

from fleetmesh.core.chunked import LAST_CHUNK, ChunkedDecoder, Part, encode, last_chunk
from fleetmesh.core.framing import Body
from fleetmesh.core.lane import Lane
from fleetmesh.core.response import ResponseHead
from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.conduit import Conduit
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.stream import TlsStream
from fleetmesh.proxy.unread import unread

if TYPE_CHECKING:
    from fleetmesh.proxy.exchange import Exchange

# The phases of a connection, by what its next byte is.
IDLE: Final = 0  # unexpected: nothing was asked
HEAD: Final = 1
LENGTH: Final = 2
CHUNKED: Final = 3
CLOSE: Final = 4  # of a body that ends with the connection
DONE: Final = 5  # unexpected: the answer is complete
GONE: Final = 6


class Upstream(ResponseHead):
    """`reused` says whether the connection served before, `answering` whether a byte of the
    current answer has come. `asked` is when the last part of the request was sent (monotonic
    seconds), where the lane had a standing then, else 0.0."""

    __slots__ = (
        "_decoder",
        "_exchange",
        "_held",
        "_out",
        "_parser",
        "_remaining",
        "answering",
        "asked",
        "born",
        "idle_since",
        "lane",
        "phase",
        "plane",
        "reused",
        "transport",
    )

    def __init__(self, plane: Plane, lane: Lane) -> None:
        super().__init__()
        self.plane = plane
        self.lane = lane
        self.phase = IDLE
        self.born = self.idle_since = plane.now
        self.reused = False
        self.answering = False
        self.asked = 0.0
        self._exchange: Exchange | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._decoder: ChunkedDecoder | None = None
        self._held = False
        self._out: list[bytes] = []
        self._remaining = 0
        self.transport: Conduit = None  # type: ignore[assignment]  # until connection_made

    # What an exchange asks.

    def serve(self, exchange: Exchange, *, reused: bool) -> None:
        self._exchange = exchange
        self.reused = reused
        self.answering = False
        self.asked = 0.0
        self.phase = HEAD
        if exchange.write_paused:
            self.hold()

    def abandon(self) -> None:
        """Nobody waits for the answer any more."""
        self._exchange = None
        self._end()

    def shelve(self) -> None:
        """A fresh connection that its exchange no longer needs waits for the next one."""
        if not self.usable:
            self.lane.pool.lost()
        elif not self.lane.pool.put(self, self.plane.now):
            self.close()

    @property
    def usable(self) -> bool:
        """Nothing ended the connection so far."""
        return self.phase != GONE and not self.transport.is_closing()

    def hold(self) -> None:
        if not self._held:
            self._held = True
            self.transport.pause_reading()

    def release(self) -> None:
        if self._held:
            self._held = False
            self.transport.resume_reading()

    # What the pool's owner asks of an idle connection.

    def close(self) -> None:
        self.phase = GONE
        self.transport.close()

    def abort(self) -> None:
        self.phase = GONE
        self.transport.abort()

    @property
    def ends_with_connection(self) -> bool:
        """The length of the answer's content is not known beforehand."""
        return self.body is Body.CLOSE or self.body is Body.CHUNKED

    # The transport's protocol.

    def connection_made(self, transport: Conduit) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            if self.phase == IDLE:
                self.lane.pool.discard(self)
            self.abort()
            return
        self.answering = True
        out = self._out
        while data:
            phase = self.phase
            if phase == HEAD:
                data = self._read_head(data, exchange)
            elif phase == LENGTH:
                data = self._read_counted(data)
            elif phase == CHUNKED:
                data = self._read_chunked(data, exchange)
            elif phase == CLOSE:
                out.append(encode([data]) if exchange.http11 else data)
                data = b""
            else:
                break
        if self.phase == GONE:
            out.clear()
            return
        if out:
            answer = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            exchange.tally.received += len(answer)
            exchange.deadline = self.plane.now + exchange.idle_timeout
            if exchange.limited and exchange.until < exchange.deadline:
                exchange.deadline = exchange.until
            exchange.transport.write(answer)
        if self.phase == DONE:
            # More than was asked for: whatever it is, it must not answer the next request.
            self._complete(exchange, reusable=self.keep_alive and not data)

    def eof_received(self) -> bool:
        exchange = self._exchange
        if exchange is not None and self.phase == CLOSE:
            if exchange.http11:
                exchange.transport.write(LAST_CHUNK)
            self._complete(exchange, reusable=False)
        else:
            self._lost("closed")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None and not isinstance(self.transport, TlsStream):
            # An application that refuses an upload answers and closes: then a write can fail
            # before the answer is read. Another sidecar lingers instead.
            for data in unread(self.transport):
                if self._exchange is None:
                    break
                self.data_received(data)
        self._lost(str(exc) if exc else "closed")

    def pause_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.pause_upstream()

    def resume_writing(self) -> None:
        if self._exchange is not None:
            self._exchange.resume_upstream()

    # Reading a response.

    def _read_head(self, data: bytes, exchange: Exchange) -> bytes:
        parser = self._parser
        if parser is None:
            self.begin_head()
            parser = self._parser = httptools.HttpResponseParser(self)
        piece, rest, whole = self.cut(data)
        if not self.begun and not self.begins_well(piece):
            self._fail(Refusal.UPSTREAM_MALFORMED, "not HTTP")
            return b""
        if self.fed > self.plane.http.max_head_bytes:
            self._fail(Refusal.UPSTREAM_MALFORMED, "the head is too large")
            return b""
        try:
            parser.feed_data(piece)
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            self._fail(Refusal.UPSTREAM_MALFORMED, str(error))
            return b""
        if not self.head_done:
            return rest
        self._parser = None
        if not whole or not self.judge(
            parser.get_status_code(), parser.get_http_version(), exchange.method
        ):
            self._fail(Refusal.UPSTREAM_MALFORMED, "the head is not legal")
            return b""
        return self._settle_head(exchange, rest)

    def _settle_head(self, exchange: Exchange, rest: bytes) -> bytes:
        if self.status < 200:
            if self.status != 101:
                exchange.interim(self.rebuild(True, True, False))
                return rest
            if not (exchange.upgrade and self.accepts_upgrade):
                self._fail(Refusal.UPSTREAM_MALFORMED, "unasked change of protocols")
                return b""
            self._exchange = None
            self.phase = GONE
            self.release()
            self._tell(101)
            exchange.tunnel(self, self.rebuild(True, True, False), rest)
            return b""
        if self.lane.standing is not None:
            self._tell(self.status)
        leg = exchange.site.leg
        if (
            self.status >= 500
            or (leg is not None and leg.retries is not None and self.status in leg.retries.statuses)
        ) and exchange.discards(self):
            # Its content is nobody's: the connection ends with it.
            self._exchange = None
            self._end()
            return b""
        self._out.append(exchange.answer_begins(self))
        body = self.body
        if body is Body.LENGTH:
            self._remaining = self.length
            self.phase = LENGTH
        elif body is Body.CHUNKED:
            self._decoder = ChunkedDecoder()
            self.phase = CHUNKED
        elif body is Body.CLOSE:
            self.phase = CLOSE
        else:
            self.phase = DONE
        return rest

    def _tell(self, status: int) -> None:
        standing = self.lane.standing
        if standing is not None:
            now = time.monotonic()
            seconds = now - self.asked if self.asked else 0.0
            if status == 503 and self.shed:
                standing.shed(seconds, now)
            else:
                standing.answered(status, seconds, now)

    def _read_counted(self, data: bytes) -> bytes:
        remaining = self._remaining
        size = len(data)
        if size < remaining:
            self._out.append(data)
            self._remaining = remaining - size
            return b""
        self.phase = DONE
        if size == remaining:
            self._out.append(data)
            return b""
        self._out.append(data[:remaining])
        return data[remaining:]

    def _read_chunked(self, data: bytes, exchange: Exchange) -> bytes:
        decoder = self._decoder
        assert decoder is not None
        content: list[bytes] = []
        rest = decoder.feed(data, content)
        if decoder.part is Part.BROKEN:
            self._fail(Refusal.UPSTREAM_MALFORMED, "the chunked body is not legal")
            return b""
        if exchange.http11:
            if content:
                self._out.append(encode(content))
            if decoder.part is Part.DONE:
                trailers = decoder.trailers
                self._out.append(
                    last_chunk(trailers) if trailers and exchange.wants_trailers else LAST_CHUNK
                )
        else:
            self._out.extend(content)
        if decoder.part is Part.DONE:
            self._decoder = None
            self.phase = DONE
        return rest

    # Ends.

    def _complete(self, exchange: Exchange, *, reusable: bool) -> None:
        """Back to the pool before the exchange goes on: its next request may want us."""
        self._exchange = None
        whole = exchange.answer_complete()
        self.release()
        if reusable and whole and not self.transport.is_closing():
            self.phase = IDLE
            if not self.lane.pool.put(self, self.plane.now):
                self.close()
        else:
            self._end()
        exchange.exchange_over()

    def _end(self) -> None:
        """A lent connection ends here, now."""
        if self.phase != GONE:
            self.phase = GONE
            self.lane.pool.lost()
        self.transport.abort()

    def _fail(self, refusal: Refusal, detail: str) -> None:
        exchange, self._exchange = self._exchange, None
        self._end()
        if exchange is not None:
            exchange.upstream_lost(self, refusal, detail)

    def _lost(self, detail: str) -> None:
        if self.phase == IDLE:
            self.lane.pool.discard(self)
            self.close()
        elif self._exchange is not None:
            self._fail(Refusal.UPSTREAM_RESET, detail)
