"""Messages between controller and workers, over a Unix stream socket pair.

A frame is a 4-byte big-endian length and that many bytes of msgpack; the file descriptors of a
message's listening sockets ride on the length (SCM_RIGHTS, unix(7)).
"""

from __future__ import annotations

import asyncio
import enum
import socket
from collections.abc import Sequence

import msgspec

from fleetmesh.model.fault import Fault
from fleetmesh.model.record import Record
from fleetmesh.model.report import Ejection, Report

MAX_FRAME = 256 * 1024 * 1024
MAX_FDS = 250  # the kernel's SCM_MAX_FD is 253


class ListenerKind(enum.StrEnum):
    """OUTBOUND takes what capture redirects from a service's user, INBOUND is a sidecar port,
    PLAIN takes what capture redirects from applications' own ports, EXPOSED what anybody asks of
    the paths that services expose."""

    OUTBOUND = "outbound"
    INBOUND = "inbound"
    PLAIN = "plain"
    EXPOSED = "exposed"


class Listener(msgspec.Struct, frozen=True, array_like=True):
    """One listening socket. `service` is empty for PLAIN and EXPOSED. `upstream`, for OUTBOUND,
    is where every connection goes without asking capture: for running workers without it."""

    name: str
    kind: ListenerKind
    service: str
    upstream: str = ""


class Publish(msgspec.Struct, frozen=True, tag=True):
    """Serve `snapshot` (model.snapshot.encode) as `generation` on exactly `listeners`.

    `attached` names the listeners whose sockets ride on this message, in the order of the file
    descriptors; the worker has the others from earlier messages. `faults` are those that hold now:
    no part of the snapshot, so that none is ever on a disk.
    """

    generation: int
    snapshot: bytes
    listeners: tuple[Listener, ...]
    attached: tuple[str, ...]
    faults: tuple[Fault, ...] = ()


class Drain(msgspec.Struct, frozen=True, tag=True):
    """Finish what is under way within `seconds`, accept nothing more after the first of them, then
    exit with 0.

    With `handover` a socket rides on it, and the controller ends before its worker: that answers
    HandedOver, serves on as if nothing were, and begins to drain when the socket's other end is
    closed, which the next controller does once its own workers serve.
    """

    seconds: float
    handover: bool = False


class Part(msgspec.Struct, frozen=True, tag=True):
    """End what callers have to the local service `service`: its drain is over."""

    service: str


class Collect(msgspec.Struct, frozen=True, tag=True):
    """Answer with a Reported of the same `request`."""

    request: int


class CollectRecords(msgspec.Struct, frozen=True, tag=True):
    """Answer with a Recorded of the same `request`: the newest `limit` access records."""

    request: int
    limit: int


class Applied(msgspec.Struct, frozen=True, tag=True):
    """The worker serves `generation`; an `error` says why it stayed with the one before."""

    generation: int
    error: str = ""


class HandedOver(msgspec.Struct, frozen=True, tag=True):
    """The worker will outlive its controller."""


class Reported(msgspec.Struct, frozen=True, tag=True):
    request: int
    report: Report


class Recorded(msgspec.Struct, frozen=True, tag=True):
    request: int
    records: tuple[Record, ...]


class Ejections(msgspec.Struct, frozen=True, tag=True):
    """A worker has ejected endpoints or taken them back; the controller lets the others know, and
    who starts later."""

    ejections: tuple[Ejection, ...]


class Ask(msgspec.Struct, frozen=True, tag=True):
    """Whose are `address` and `port`, which the served snapshot does not have? With port 0 the
    address is the key of an upstream, which it does not have."""

    address: str
    port: int


class Answered(msgspec.Struct, frozen=True, tag=True):
    """The snapshot published last has them, or they are nobody's."""

    address: str
    port: int


ToWorker = Publish | Drain | Part | Collect | CollectRecords | Answered | Ejections
ToController = Applied | HandedOver | Reported | Recorded | Ask | Ejections


class ChannelClosedError(Exception):
    """The process at the other end is gone."""


class Channel:
    """One end of the socket pair. `receives` is the union of messages that may arrive."""

    def __init__(self, sock: socket.socket, receives: type | object) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[ToWorker | ToController] = msgspec.msgpack.Decoder(
            receives
        )
        self._sending = asyncio.Lock()

    async def send(self, message: ToWorker | ToController, fds: Sequence[int] = ()) -> None:
        """Raises ChannelClosedError. `fds` stay the caller's to close."""
        payload = self._encoder.encode(message)
        head = len(payload).to_bytes(4, "big")
        loop = asyncio.get_running_loop()
        async with self._sending:
            try:
                if fds:
                    # Four bytes into a stream socket that is being drained: never partial.
                    while True:
                        try:
                            socket.send_fds(self._sock, [head], list(fds))
                            break
                        except BlockingIOError:
                            await asyncio.sleep(0.001)
                    await loop.sock_sendall(self._sock, payload)
                else:
                    await loop.sock_sendall(self._sock, head + payload)
            except OSError as error:
                raise ChannelClosedError(str(error)) from error

    async def receive(self) -> tuple[ToWorker | ToController, list[int]]:
        """The next message and the file descriptors that came with it.

        Raises ChannelClosedError when the other end is gone or does not speak this protocol.
        """
        head, fds = await self._receive_head()
        length = int.from_bytes(head, "big")
        if length > MAX_FRAME:
            raise ChannelClosedError(f"frame of {length} bytes")
        try:
            return self._decoder.decode(await self._receive_exactly(length)), fds
        except msgspec.DecodeError as error:
            raise ChannelClosedError(str(error)) from error

    async def _receive_head(self) -> tuple[bytes, list[int]]:
        received: tuple[bytes, list[int]] | None = None
        while received is None:
            try:
                head, fds, _, _ = socket.recv_fds(self._sock, 4, MAX_FDS)
                received = head, fds
            except BlockingIOError:
                await self._readable()
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
        head, fds = received
        if not head:
            raise ChannelClosedError("end of stream")
        return head + await self._receive_exactly(4 - len(head)), fds

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        readable = loop.create_future()
        loop.add_reader(self._sock.fileno(), _wake, readable)
        try:
            await readable
        finally:
            loop.remove_reader(self._sock.fileno())

    async def _receive_exactly(self, length: int) -> bytes:
        loop = asyncio.get_running_loop()
        data = bytearray()
        while len(data) < length:
            try:
                chunk = await loop.sock_recv(self._sock, length - len(data))
            except OSError as error:
                raise ChannelClosedError(str(error)) from error
            if not chunk:
                raise ChannelClosedError("end of stream")
            data += chunk
        return bytes(data)

    def close(self) -> None:
        self._sock.close()


def _wake(readable: asyncio.Future[None]) -> None:
    if not readable.done():
        readable.set_result(None)
