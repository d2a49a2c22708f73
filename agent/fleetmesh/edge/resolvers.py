"""Other DNS servers, asked with the bytes that came: nothing but the id of a query is changed.

A query goes out from a port of its own with an id of its own; an answer counts when its id and its
question are the query's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import socket
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

RESOLV_CONF = Path("/etc/resolv.conf")
PATIENCE = 5.0
"""Seconds for an answer, from whichever server."""
LEAST_PATIENCE = 1.0
MAX_SERVERS = 3
"""As many as the C library asks."""
PORT = 53
HEADER_SIZE = 12
SERVFAIL, REFUSED = 2, 5


class Server(NamedTuple):
    """`host` is an address, a link-local one with its interface (`fe80::1%eth0`)."""

    host: str
    port: int = PORT


class NoAnswerError(Exception):
    """No server answered in time."""


def nameservers(text: str) -> tuple[Server, ...]:
    """Those that a resolv.conf names; the local one when it names none, as the C library does."""
    found = []
    for line in text.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and _is_address(words[1]):
            found.append(Server(words[1]))
    return tuple(found[:MAX_SERVERS]) or (Server("127.0.0.1"),)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class HostResolvers:
    """The servers of the host's resolv.conf, read again when it has changed. One that cannot be
    read leaves the servers as they were."""

    def __init__(self, file: Path = RESOLV_CONF) -> None:
        self._file = file
        self._seen: tuple[int, int, int] | None = None
        self._servers = nameservers("")

    def servers(self) -> tuple[Server, ...]:
        try:
            status = self._file.stat()
            seen = (status.st_mtime_ns, status.st_ino, status.st_size)
            if seen != self._seen:
                self._servers = nameservers(self._file.read_text(errors="replace"))
                self._seen = seen
        except OSError:
            pass
        return self._servers


async def ask(servers: Sequence[Server], query: bytes, tcp: bool) -> bytes:
    """The first good answer to `query`, by the transport that it came by. A server that fails or
    refuses is passed over while there is another; its answer counts when none is better. Raises
    NoAnswerError."""
    patience = max(LEAST_PATIENCE, PATIENCE / max(len(servers), 1))
    poor: bytes | None = None
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE):
            for server in servers:
                try:
                    async with asyncio.timeout(patience):
                        answer = await (_ask_tcp if tcp else _ask_udp)(server, query)
                except (OSError, EOFError, ValueError):  # a timeout is an OSError
                    continue
                if answer[3] & 0x0F not in (SERVFAIL, REFUSED):
                    return answer
                poor = poor or answer
    if poor is None:
        raise NoAnswerError
    return poor


def question_of(message: bytes) -> bytes | None:
    """The bytes of a message's one question, letters in lower case (servers may change the case);
    None when it has not exactly one, or is cut off."""
    if len(message) < HEADER_SIZE or message[4:6] != b"\0\1":
        return None
    at = HEADER_SIZE
    while at < len(message) and message[at]:
        if message[at] > 63:
            return None
        at += message[at] + 1
    at += 5
    return message[HEADER_SIZE:at].lower() if at <= len(message) else None


def _answers(query: bytes, answer: bytes) -> bool:
    """Whether `answer` is one to `query`."""
    return (
        len(answer) >= HEADER_SIZE
        and answer[:2] == query[:2]
        and bool(answer[2] & 0x80)
        and (question_of(answer) == question_of(query) or _refuses_all(answer))
    )


def _refuses_all(answer: bytes) -> bool:
    """Errors may come without the question."""
    return answer[4:6] == b"\0\0" and bool(answer[3] & 0x0F)


async def _ask_udp(server: Server, query: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    sent = secrets.token_bytes(2) + query[2:]
    transport, protocol = await loop.create_datagram_endpoint(
        lambda: _Asking(sent, loop.create_future()), sock=_socket(server, socket.SOCK_DGRAM)
    )
    try:
        transport.sendto(sent)
        return query[:2] + (await protocol.answer)[2:]
    finally:
        transport.close()


class _Asking(asyncio.DatagramProtocol):
    """The socket is connected, so that only the server's datagrams arrive."""

    def __init__(self, query: bytes, answer: asyncio.Future[bytes]) -> None:
        self._query = query
        self.answer = answer

    def datagram_received(self, data: bytes, _: object) -> None:
        if not self.answer.done() and _answers(self._query, data):
            self.answer.set_result(data)

    def error_received(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionAbortedError())


async def _ask_tcp(server: Server, query: bytes) -> bytes:
    sent = secrets.token_bytes(2) + query[2:]
    loop = asyncio.get_running_loop()
    sock = _unconnected(server, socket.SOCK_STREAM)
    try:
        await loop.sock_connect(sock, _address(server, socket.SOCK_STREAM))
    except BaseException:
        sock.close()
        raise
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        writer.write(struct.pack(">H", len(sent)) + sent)
        while True:
            (length,) = struct.unpack(">H", await reader.readexactly(2))
            answer = await reader.readexactly(length)
            if _answers(sent, answer):
                return query[:2] + answer[2:]
    finally:
        writer.close()


def _socket(server: Server, kind: socket.SocketKind) -> socket.socket:
    """Connected, and with a source port that the kernel drew."""
    sock = _unconnected(server, kind)
    try:
        sock.connect(_address(server, kind))
    except OSError:
        sock.close()
        raise
    return sock


def _unconnected(server: Server, kind: socket.SocketKind) -> socket.socket:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC)
    sock.setblocking(False)
    return sock


def _address(server: Server, kind: socket.SocketKind) -> tuple[str, int]:
    """Raises OSError for an interface that is gone."""
    found = socket.getaddrinfo(
        server.host, server.port, type=kind, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    )
    return cast(tuple[str, int], found[0][4])
