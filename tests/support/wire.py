"""What passes on a host's port of the fabric, in both directions."""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Self

SNIFFER = Path(__file__).with_name("sniffer.py")
_RECORDS = {20: "change_cipher_spec", 21: "alert", 22: "handshake", 23: "application_data"}
_MAX_RECORD = 16384 + 256


@dataclass(frozen=True)
class Flow:
    """One direction of one TCP connection."""

    source: str
    source_port: int
    destination: str
    destination_port: int

    def __str__(self) -> str:
        return (
            f"{self.source} port {self.source_port} -> "
            f"{self.destination} port {self.destination_port}"
        )


class NotTlsError(AssertionError):
    """Bytes that are no TLS records."""


def tls_records(data: bytes) -> Counter[str]:
    """How many records of each type the bytes are; the last may be cut off.

    Raises NotTlsError at the first byte that cannot be a record (RFC 8446, 5.1).
    """
    found: Counter[str] = Counter()
    position = 0
    while position < len(data):
        head = data[position : position + 5]
        if head[0] not in _RECORDS or (len(head) > 1 and head[1] != 3):
            raise NotTlsError(f"at {position}: {data[position : position + 60]!r}")
        if len(head) == 5:
            (length,) = struct.unpack("!H", head[3:])
            if length > _MAX_RECORD:
                raise NotTlsError(f"a record of {length} bytes at {position}")
            position += length
        found[_RECORDS[head[0]]] += 1
        position += 5
    return found


class Wire:
    """Listens between `with` and its end; then `flows` holds what was said.

    `port` is the host's port of the fabric, which has the host's name.
    """

    def __init__(self, fabric: str, port: str) -> None:
        self._fabric, self._port = fabric, port
        self._file: IO[bytes] | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self.flows: dict[Flow, bytes] = {}
        self.frames = 0

    def __enter__(self) -> Self:
        self._file = tempfile.TemporaryFile()
        self._child = subprocess.Popen(
            ["ip", "netns", "exec", self._fabric, sys.executable, str(SNIFFER), self._port],
            stdout=self._file,
        )
        deadline = time.monotonic() + 10
        while self._file.seek(0, 2) < 4:
            assert self._child.poll() is None, "the sniffer ended at once"
            assert time.monotonic() < deadline, "the sniffer does not begin"
            time.sleep(0.02)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._file is not None
        assert self._child is not None
        time.sleep(0.2)
        self._child.terminate()
        self._child.wait(5)
        self._file.seek(4)
        frames = _frames(self._file.read())
        self._file.close()
        self.frames = len(frames)
        self.flows = _flows(frames)

    def between(self, one: str, other: str) -> dict[Flow, bytes]:
        """The flows of these two addresses, without Consul's gossip, which has its own key."""
        pair = {_canonical(one), _canonical(other)}
        return {
            flow: data
            for flow, data in self.flows.items()
            if {flow.source, flow.destination} == pair
            and not {8301, 8302} & {flow.source_port, flow.destination_port}
        }

    def said(self, text: str) -> list[Flow]:
        """The flows in which this text passed in the clear."""
        return [flow for flow, data in self.flows.items() if text.encode() in data]


def _canonical(address: str) -> str:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return socket.inet_ntop(family, socket.inet_pton(family, address))


def _frames(data: bytes) -> list[bytes]:
    frames = []
    position = 0
    while position + 4 <= len(data):
        (length,) = struct.unpack_from("!I", data, position)
        frames.append(data[position + 4 : position + 4 + length])
        position += 4 + length
    return frames


def _flows(frames: list[bytes]) -> dict[Flow, bytes]:
    segments: dict[Flow, dict[int, bytes]] = {}
    for frame in frames:
        parsed = _segment(frame)
        if parsed is not None and parsed[2]:
            flow, sequence, payload = parsed
            held = segments.setdefault(flow, {})
            if len(payload) > len(held.get(sequence, b"")):
                held[sequence] = payload
    return {flow: _join(held) for flow, held in segments.items()}


def _segment(frame: bytes) -> tuple[Flow, int, bytes] | None:
    """Flow, sequence number and payload of a frame, None unless it is TCP over IP."""
    kind = frame[12:14]
    packet = frame[14:]
    if kind == b"\x08\x00" and packet[9] == socket.IPPROTO_TCP:
        header = (packet[0] & 15) * 4
        total = struct.unpack_from("!H", packet, 2)[0]
        source, destination = packet[12:16], packet[16:20]
        family = socket.AF_INET
    elif kind == b"\x86\xdd" and packet[6] == socket.IPPROTO_TCP:
        header = 40
        total = 40 + struct.unpack_from("!H", packet, 4)[0]
        source, destination = packet[8:24], packet[24:40]
        family = socket.AF_INET6
    else:
        return None
    tcp = packet[header:total]
    source_port, destination_port, sequence = struct.unpack_from("!HHI", tcp)
    flow = Flow(
        socket.inet_ntop(family, source),
        source_port,
        socket.inet_ntop(family, destination),
        destination_port,
    )
    return flow, sequence, tcp[(tcp[12] >> 4) * 4 :]


def _join(held: dict[int, bytes]) -> bytes:
    """The bytes in order, each once, from the first segment that was seen."""
    first = next(iter(held))
    data = bytearray()
    for sequence in sorted(held, key=lambda one: (one - first) % 2**32):
        offset = (sequence - first) % 2**32
        if offset > 2**31:
            continue
        payload = held[sequence]
        data += payload[max(0, len(data) - offset) :]
    return bytes(data)
