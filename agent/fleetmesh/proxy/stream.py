"""TLS over a plain transport, driven by hand through memory BIOs.

A TlsStream is the protocol of the plain transport and the transport of an application protocol:
one call carries all that a read brought, one write carries all records of an answer.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Protocol

from fleetmesh.proxy.conduit import Conduit, Receiver

_READ = 16 * 1024  # a record's limit: SSL_read never returns more


class TruncatedError(Exception):
    """The peer's TCP connection ended without TLS's own end (close_notify)."""


class SessionKeeper(Protocol):
    """Who dials the same peer again."""

    session: tuple[ssl.SSLContext, ssl.SSLSession | None] | None


class TlsStream:
    """`on_ready(stream, error)` is called once: with None when the handshake is done (it must
    set a protocol and call its `connection_made`), else with why there will be none.

    `keeper` is for the client's side: it gets the TLS session, with the context that it belongs to,
    once the peer has sent its ticket, unless the handshake resumed one already.
    """

    __slots__ = (
        "_closing",
        "_incoming",
        "_keeper",
        "_on_ready",
        "_outgoing",
        "_protocol",
        "_ready",
        "_received_end",
        "_sent_end",
        "deadline",
        "tls",
        "transport",
    )

    def __init__(
        self,
        context: ssl.SSLContext,
        on_ready: Callable[[TlsStream, Exception | None], None],
        *,
        server_side: bool,
        server_hostname: str | None = None,
        session: ssl.SSLSession | None = None,
        keeper: SessionKeeper | None = None,
        deadline: float = 0.0,
    ) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session,
        )
        self._on_ready = on_ready
        self._protocol: Receiver | None = None
        self._ready = False
        self._closing = False
        self._sent_end = False
        self._received_end = False
        self._keeper = keeper
        self.deadline = deadline
        self.transport: Conduit = None  # type: ignore[assignment]  # until connection_made

    # The plain transport's protocol.

    def connection_made(self, transport: Conduit) -> None:
        self.transport = transport
        if not self.tls.server_side:
            self._handshake()

    def data_received(self, data: bytes) -> None:
        self._incoming.write(data)
        if not self._ready and (self._closing or not self._handshake()):
            return
        self._read()

    def eof_received(self) -> bool:
        if not self._ready:
            self._fail(TruncatedError("end of stream in the handshake"))
            return False
        if self._received_end:
            return True
        self._lost(TruncatedError("end of stream without close_notify"))
        self.transport.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closing = True
        if not self._ready:
            self._fail(exc or TruncatedError("closed in the handshake"))
        else:
            self._lost(exc)

    def pause_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.pause_writing()

    def resume_writing(self) -> None:
        if self._protocol is not None:
            self._protocol.resume_writing()

    def _handshake(self) -> bool:
        """True when it is done."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send()
            return False
        except ssl.SSLError as error:
            self._send()  # the alert
            self._fail(error)
            self.transport.close()
            return False
        self._send()
        self._ready = True
        on_ready, self._on_ready = self._on_ready, _already
        on_ready(self, None)
        return not self._closing

    def _fail(self, error: Exception) -> None:
        self._closing = True
        on_ready, self._on_ready = self._on_ready, _already
        on_ready(self, error)

    def _lost(self, error: Exception | None) -> None:
        protocol, self._protocol = self._protocol, None
        if protocol is not None:
            protocol.connection_lost(error)

    def _read(self) -> None:
        read, incoming = self.tls.read, self._incoming
        data: list[bytes] = []
        ended = False
        try:
            while True:
                piece = read(_READ)
                if not piece:
                    ended = True
                    break
                data.append(piece)
                if not incoming.pending and not self.tls.pending():
                    break
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # instead of b"" once our own end was sent
            ended = True
        except ssl.SSLError as error:
            self._send()
            self._lost(error)
            self.transport.abort()
            return
        if self._outgoing.pending:
            self._send()
        if self._keeper is not None and data:
            self._keep_session(self._keeper)
        if data and self._protocol is not None and not self._closing:
            self._protocol.data_received(data[0] if len(data) == 1 else b"".join(data))
        if ended and not self._received_end:
            self._received_end = True
            protocol = self._protocol
            if protocol is not None and not self._closing and not protocol.eof_received():
                self.close()

    def _keep_session(self, keeper: SessionKeeper) -> None:
        """Not where the handshake was a resumed one: copying a session takes 0.1 ms, and
        Python 3.11 loses 6 KB each time that it is asked for one."""
        self._keeper = None
        if not self.tls.session_reused:
            keeper.session = (self.tls.context, self.tls.session)

    def _send(self) -> None:
        data = self._outgoing.read()
        if data and self.transport is not None:
            self.transport.write(data)

    @property
    def agreed(self) -> str:
        """The protocol that ALPN chose, or empty."""
        return self.tls.selected_alpn_protocol() or ""

    # The application protocol's transport.

    def set_protocol(self, protocol: Receiver) -> None:
        self._protocol = protocol

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._sent_end or not data:
            return
        try:
            self.tls.write(data)
        except ssl.SSLError as error:
            self._lost(error)
            self.transport.abort()
            return
        self.transport.write(self._outgoing.read())

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Send close_notify; the other direction stays open."""
        if self._closing or self._sent_end:
            return
        self._sent_end = True
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass  # always: either the peer's end has not come yet, or it never will
        self._send()

    def close(self) -> None:
        if not self._closing:
            self.write_eof()
            self._closing = True
            self.transport.close()

    def abort(self) -> None:
        self._closing = True
        self.transport.abort()

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.transport.resume_reading()

    def get_write_buffer_size(self) -> int:
        size: int = self.transport.get_write_buffer_size()
        return size

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)

    # While the handshake lasts, the worker's sweep holds the stream.

    def expire(self, _now: float) -> None:
        self._fail(TimeoutError("the handshake took too long"))
        self.transport.abort()

    def retire(self, now: float) -> None:
        """Nothing to do: a handshake has its deadline."""

    def recheck(self, now: float) -> None:
        """Nothing to do: what comes of it is judged when it is done."""


def _already(_stream: TlsStream, _error: Exception | None) -> None:
    """The outcome was told before."""
