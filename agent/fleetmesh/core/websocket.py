"""Where the frames of a WebSocket end (RFC 6455 section 5.2), as they pass: nothing else is read.

Between two frames a third may be put in: the one that says that this end goes away.
"""

from __future__ import annotations

GOING_AWAY = b"\x88\x02\x03\xe9"
"""A close frame with status 1001, as servers send it."""
GOING_AWAY_MASKED = b"\x88\x82\x00\x00\x00\x00\x03\xe9"
"""The same as clients send it: masked, here by zeros."""
_LONGEST_HEAD = 14
_CLOSE = 8


class FrameBoundary:
    """One direction. Feed it all bytes in order."""

    __slots__ = ("_closed", "_head", "_left")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0
        self._closed = False

    def here(self) -> bool:
        """Whether a frame may be put in after what was fed: between two, and before a close."""
        return not self._left and not self._head and not self._closed

    def feed(self, data: bytes) -> None:
        size = len(data)
        if self._left >= size:
            self._left -= size
            return
        at = self._left
        self._left = 0
        while at < size:
            begun = len(self._head)
            head = self._head + data[at : at + _LONGEST_HEAD - begun]
            need = _head_length(head)
            if len(head) < need:
                self._head = head
                return
            self._head = b""
            self._closed = self._closed or head[0] & 15 == _CLOSE
            at += need - begun + _payload_length(head)
        self._left = at - size


def _head_length(head: bytes) -> int:
    if len(head) < 2:
        return 2
    length = head[1] & 127
    extended = 8 if length == 127 else 2 if length == 126 else 0
    return 2 + extended + (4 if head[1] & 128 else 0)


def _payload_length(head: bytes) -> int:
    length = head[1] & 127
    if length == 126:
        return int.from_bytes(head[2:4], "big")
    if length == 127:
        return int.from_bytes(head[2:10], "big")
    return length
