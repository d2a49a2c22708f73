"""How one connection carries TCP streams one after another, each with its own ends.

Every frame begins with four bytes, big-endian: the length of the content that follows, or a mark.
OPEN and OPENED begin a stream (caller and callee), END ends one direction of it; when both have
ended, the next may begin. After RAW everything is content until the connection's own end: long
streams cost nothing extra, and their connection serves no other.
"""

from __future__ import annotations

import enum

STREAMS = "fleetmesh-tcp/1"
"""The ALPN identifier of all this."""
MAX_LENGTH = (1 << 24) - 1
RAW_AFTER = 1 << 20  # bytes of content in one direction


class Mark(enum.Enum):
    OPEN = b"\xff\x00\x00\x01"
    OPENED = b"\xff\x00\x00\x02"
    RAW = b"\xff\x00\x00\x03"
    END = b"\x00\x00\x00\x00"
    BROKEN = b""
    """What came is no frame; nothing after it is read."""


_MARKS = {mark.value: mark for mark in Mark if mark is not Mark.BROKEN}


def framed(content: bytes) -> bytes:
    """`content`, which must not be empty, as one frame or as many as it takes."""
    size = len(content)
    if size <= MAX_LENGTH:
        return size.to_bytes(4, "big") + content
    parts = []
    for start in range(0, size, MAX_LENGTH):
        part = content[start : start + MAX_LENGTH]
        parts += [len(part).to_bytes(4, "big"), part]
    return b"".join(parts)


class FrameReader:
    """Cut anywhere, the same bytes give the same content and marks. `raw`: RAW has come."""

    __slots__ = ("_head", "_left", "raw")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self.raw = False

    def feed(self, data: bytes) -> list[bytes | Mark]:
        """What `data` brings, in order: content as bytes, and marks."""
        found: list[bytes | Mark] = []
        position, size = 0, len(data)
        while position < size:
            if self.raw:
                found.append(data[position:])
                break
            if self._left:
                end = min(position + self._left, size)
                found.append(data[position:end])
                self._left -= end - position
                position = end
                continue
            wanted = 4 - len(self._head)
            self._head += data[position : position + wanted]
            position += wanted
            if len(self._head) < 4:
                break
            head, self._head = self._head, b""
            mark = _MARKS.get(head)
            if mark is not None:
                self.raw = mark is Mark.RAW
                found.append(mark)
            elif head[0] == 0:
                self._left = int.from_bytes(head, "big")
            else:
                found.append(Mark.BROKEN)
                break
        return found
