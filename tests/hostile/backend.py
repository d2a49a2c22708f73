"""An application that answers at once, too late, or with a reset, as its path asks."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from typing import Any, Self

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)
_SMALL = b"HTTP/1.1 200 OK\r\nContent-Length: 96\r\n\r\n" + b"x" * 96
_PIECE = bytes(64 * 1024)


class Backend:
    """`open` are the connections of the moment, `written` bytes of `/big` that left, `taken` bytes
    of bodies that came.

    - `/small/…`: 96 bytes
    - `/never`: nothing, ever
    - `/big`: an answer of 1 GiB
    - `/reset`: 64 KiB of 128, then RST; `/reset-chunked`: one chunk, then RST
    - `/reset-me`: RST once 64 KiB of the body have come
    """

    def __init__(self) -> None:
        self.open: set[_Connection] = set()
        self.written = 0
        self.taken = 0

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Connection(self), "127.0.0.1", 0, backlog=1024
        )
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for connection in tuple(self.open):
            connection.transport.abort()


class _Connection(asyncio.Protocol):
    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._data = b""
        self._missing = 0
        self._left = 0
        self._full = False
        self._patience = -1
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self._backend.open.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._left = 0
        self._backend.open.discard(self)

    def data_received(self, data: bytes) -> None:
        if self._missing:
            self._body(data)
            return
        self._data += data
        while (end := self._data.find(b"\r\n\r\n") + 4) > 3:
            head, rest = self._data[:end], self._data[end:]
            found = _LENGTH.search(head)
            self._missing = int(found[1]) if found else 0
            self._data = b"" if self._missing else rest
            self._answer(head.split(b" ", 2)[1])
            if self._missing:
                self._body(rest)

    def _body(self, data: bytes) -> None:
        self._backend.taken += len(data)
        self._missing = max(0, self._missing - len(data))
        if self._patience >= 0:
            self._patience -= len(data)
            if self._patience <= 0:
                self._reset()

    def _answer(self, target: bytes) -> None:
        write = self.transport.write
        match target:
            case b"/never":
                pass
            case b"/big":
                self._left = 1 << 30
                write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % self._left)
                self._pump()
            case b"/reset":
                write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(_PIECE)))
                write(_PIECE)
                self._reset_soon()
            case b"/reset-chunked":
                write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n")
                self._reset_soon()
            case b"/reset-me":
                self._patience = 64 * 1024
            case _:
                write(_SMALL)

    def _pump(self) -> None:
        while self._left and not self._full:
            self.transport.write(_PIECE)
            self._left -= len(_PIECE)
            self._backend.written += len(_PIECE)

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._pump()

    def _reset_soon(self) -> None:
        """What was written gets to the peer's kernel first, which a RST would throw away."""
        asyncio.get_running_loop().call_later(0.05, self._reset)

    def _reset(self) -> None:
        self._patience = -1
        sock = self.transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()
