"""TLS connections between two agents that carry TCP streams one after another (core.frames).

A new TCP connection of a caller then needs no handshake between the agents. Both say so by ALPN; a
peer that does not know it gets a connection for each stream, as ever.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

from fleetmesh.core.frames import RAW_AFTER, FrameReader, Mark, framed
from fleetmesh.core.lane import Lane
from fleetmesh.proxy.conduit import Conduit, Quiet, Receiver
from fleetmesh.proxy.plane import Plane

IDLE: Final = 0  # no stream
ASKED: Final = 1  # ours was asked for, the peer has not said yes
CARRYING: Final = 2
GONE: Final = 3


class Stream:
    """One stream on a carrier: the Conduit of whoever relays it. Once it is over, it does nothing:
    the carrier may carry another by then, and the receiver is let go of."""

    __slots__ = ("_carrier", "closing", "ended_in", "ended_out", "receiver")

    def __init__(self, carrier: Carrier) -> None:
        self._carrier = carrier
        self.receiver: Receiver | None = None
        self.closing = False
        self.ended_in = False
        self.ended_out = False

    def set_protocol(self, protocol: Any) -> None:
        self.receiver = protocol
        if self._carrier.write_paused:
            protocol.pause_writing()

    def write(self, data: bytes) -> None:
        if not self.closing and not self.ended_out and data:
            self._carrier.send(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        if not self.closing and not self.ended_out:
            self.ended_out = True
            self._carrier.send_end()

    def close(self) -> None:
        """Whole in both directions, it leaves the carrier to the next stream; else both end."""
        if self.closing:
            return
        self.write_eof()
        self.closing = True
        self._carrier.stream_over(self)

    def abort(self) -> None:
        if not self.closing:
            self.closing = True
            self._carrier.abort()

    def is_closing(self) -> bool:
        return self.closing

    def pause_reading(self) -> None:
        if not self.closing:
            self._carrier.pause_reading()

    def resume_reading(self) -> None:
        if not self.closing:
            self._carrier.resume_reading()

    def get_write_buffer_size(self) -> int:
        size: int = self._carrier.transport.get_write_buffer_size()
        return size

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._carrier.transport.get_extra_info(name, default)


class Carrier(Quiet):
    """What both ends have in common: the TLS stream below, at most one Stream above."""

    __slots__ = (
        "_raw_out",
        "_reader",
        "_reading_paused",
        "_sent",
        "plane",
        "state",
        "stream",
        "transport",
        "write_paused",
    )

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.state = IDLE
        self.stream: Stream | None = None
        self.write_paused = False
        self.transport: Conduit = None  # type: ignore[assignment]  # until connection_made
        self._reader = FrameReader()
        self._sent = 0
        self._raw_out = False
        self._reading_paused = False

    def marked(self, mark: Mark) -> None:
        """OPEN or OPENED has come."""
        raise NotImplementedError

    def idle_again(self) -> None:
        """A stream ended well, and the connection can carry another."""
        raise NotImplementedError

    def gone(self) -> None:
        """The connection has ended, or is about to."""

    def begin(self) -> Stream:
        """Streams follow one another: whatever the last one left is no matter to this one."""
        self.state = CARRYING
        self.stream = Stream(self)
        self._sent = 0
        return self.stream

    # What a stream asks.

    def send(self, data: bytes) -> None:
        if self._raw_out:
            self.transport.write(data)
            return
        self._sent += len(data)
        if self._sent > RAW_AFTER:
            self._raw_out = True
            self.transport.write(Mark.RAW.value + data)
        else:
            self.transport.write(framed(data))

    def send_end(self) -> None:
        if self._raw_out:
            self.transport.write_eof()
        else:
            self.transport.write(Mark.END.value)

    def pause_reading(self) -> None:
        if not self._reading_paused:
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        if self._reading_paused:
            self._reading_paused = False
            self.transport.resume_reading()

    def stream_over(self, stream: Stream) -> None:
        """The stream is closed on this side, and all of it was written."""
        raw = self._raw_out or self._reader.raw
        if raw or not stream.ended_in or self.state != CARRYING or self.transport.is_closing():
            self.close()
            return
        self.stream = None
        self.state = IDLE
        self.resume_reading()
        self.idle_again()
        receiver, stream.receiver = stream.receiver, None
        if receiver is not None:
            self.plane.loop.call_soon(receiver.connection_lost, None)

    # The TLS stream's protocol.

    def connection_made(self, transport: Conduit) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        for item in self._reader.feed(data):
            if self.state == GONE:
                return
            stream = self.stream
            if isinstance(item, bytes):
                if stream is None or stream.receiver is None or stream.ended_in:
                    self.abort()
                else:
                    stream.receiver.data_received(item)
            elif item is Mark.END:
                self._end_of(stream)
            elif item is Mark.OPEN or item is Mark.OPENED:
                self.marked(item)
            elif item is Mark.BROKEN or stream is None:
                self.abort()

    def _end_of(self, stream: Stream | None) -> None:
        if stream is None or stream.receiver is None or stream.ended_in:
            self.abort()
            return
        stream.ended_in = True
        if not stream.receiver.eof_received():
            stream.close()

    def eof_received(self) -> bool:
        """Where everything is content this is a stream's end, elsewhere it is the connection's."""
        stream = self.stream
        if stream is None:
            self._leave()
            return False
        if not self._reader.raw:
            self.abort()
            return False
        self._end_of(stream)
        return self.state == CARRYING

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        stream, self.stream = self.stream, None
        if stream is not None:
            whole = stream.closing and stream.ended_in
            stream.closing = True
            receiver, stream.receiver = stream.receiver, None
            if receiver is not None:
                lost = ConnectionError("the connection ended in a stream")
                receiver.connection_lost(None if whole else exc or lost)

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.stream is not None and self.stream.receiver is not None:
            self.stream.receiver.pause_writing()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.stream is not None and self.stream.receiver is not None:
            self.stream.receiver.resume_writing()

    # Ends.

    def abort(self) -> None:
        self._leave()
        self.transport.abort()

    def close(self) -> None:
        self._leave()
        self.transport.close()

    def _leave(self) -> None:
        if self.state != GONE:
            self.gone()
            self.state = GONE


class Waiter(Protocol):
    """Who has asked a kept connection for a stream."""

    def carried(self, stream: Stream) -> None: ...

    def not_carried(self) -> None:
        """The connection ended before the peer agreed: nothing of the stream was sent."""
        ...


class DialledCarrier(Carrier):
    """The caller's end, kept in its lane's `streams` between two streams."""

    __slots__ = ("_waiter", "born", "idle_since", "lane")

    def __init__(self, plane: Plane, lane: Lane) -> None:
        super().__init__(plane)
        self.lane = lane
        self.born = self.idle_since = plane.now
        self._waiter: Waiter | None = None

    def first(self) -> Stream:
        """On a connection just made nobody has to be asked: had the peer gone, TLS had failed."""
        self.lane.streams.lend()
        self.transport.write(Mark.OPEN.value)
        return self.begin()

    def ask(self, waiter: Waiter) -> None:
        """For a stream on a connection from the pool, which the peer may be closing just now."""
        self.state = ASKED
        self._waiter = waiter
        self.transport.write(Mark.OPEN.value)

    def marked(self, mark: Mark) -> None:
        if mark is Mark.OPENED and self.state == ASKED and self._waiter is not None:
            waiter, self._waiter = self._waiter, None
            waiter.carried(self.begin())
        elif mark is not Mark.OPENED or self.state != CARRYING:
            self.abort()

    def idle_again(self) -> None:
        if not self.lane.streams.put(self, self.plane.now):
            self.state = GONE
            self.transport.close()

    def gone(self) -> None:
        if self.state == IDLE:
            self.lane.streams.discard(self)
            return
        self.lane.streams.lost()
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.not_carried()


class AcceptedCarrier(Carrier):
    """The callee's end. `accept` gives each stream its protocol, or aborts it."""

    __slots__ = ("_accept", "deadline")

    def __init__(self, plane: Plane, accept: Callable[[Stream], None]) -> None:
        super().__init__(plane)
        self._accept = accept
        self.deadline = plane.now + plane.tcp.idle_timeout
        plane.connections.add(self)

    def marked(self, mark: Mark) -> None:
        if mark is not Mark.OPEN or self.state != IDLE:
            self.abort()
            return
        self.deadline = float("inf")
        self._accept(self.begin())
        if self.state == CARRYING:
            self.transport.write(Mark.OPENED.value)

    def idle_again(self) -> None:
        self.deadline = self.plane.now + self.plane.tcp.idle_timeout
        if self.plane.draining:
            self.close()

    def gone(self) -> None:
        self.plane.connections.discard(self)

    def expire(self, now: float) -> None:
        self.close()

    def retire(self, now: float) -> None:
        if self.state == IDLE:
            self.close()

    def recheck(self, now: float) -> None:
        """Nothing to do: every stream is judged when it begins, and whoever relays it is asked."""
