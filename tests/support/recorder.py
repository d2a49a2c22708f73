"""An application that keeps what it was sent, byte by byte, and answers every request with 200."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tests.support.http_reader import End, Message, Reading, read_requests

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_GARBLED = (End.ILLEGAL_HEAD, End.ILLEGAL_BODY)


@dataclass
class Recorder:
    """`streams` has what came on each connection since `clear`."""

    streams: list[bytearray] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = bytearray()
        answered = 0
        try:
            while data := await reader.read(65536):
                if not any(stream is one for one in self.streams):
                    stream, answered = bytearray(), 0
                    self.streams.append(stream)
                stream += data
                reading = _read(stream)
                # Nobody has to wait for an answer to what nobody understands.
                due = sum(one.whole for one in reading.messages) + (reading.end in _GARBLED)
                writer.write(_OK * (due - answered))
                answered = due
        except (ConnectionError, asyncio.CancelledError):
            pass  # the end of the test, at the latest
        finally:
            writer.close()

    def clear(self) -> None:
        self.streams.clear()

    def whole(self) -> tuple[Message, ...]:
        """The whole requests that came."""
        readings = map(_read, self.streams)
        return tuple(one for reading in readings for one in reading.messages if one.whole)

    def cut(self) -> tuple[Message, ...]:
        """The requests that came without their end."""
        readings = map(_read, self.streams)
        return tuple(one for reading in readings for one in reading.messages if not one.whole)

    def garbled(self) -> list[str]:
        """What a strict reader cannot read of what came, and why."""
        return [
            f"{reading.why}: {bytes(stream)!r}"
            for stream in self.streams
            if (reading := _read(stream)).end in (*_GARBLED, End.PARTIAL_HEAD)
        ]


def _read(stream: bytearray) -> Reading:
    return read_requests(bytes(stream), empty_lines=False)
