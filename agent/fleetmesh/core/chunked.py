"""The chunked transfer coding, decoded strictly (RFC 9112 section 7.1).

What is decoded here is encoded anew by `encode`, so a receiver downstream can read nothing into
the framing that was not judged here: extensions are gone, sizes are canonical.
"""

from __future__ import annotations

import enum
import re

from fleetmesh.core.framing import TOKEN

MAX_SIZE_LINE = 4096
MAX_TRAILER_BYTES = 16 * 1024
LAST_CHUNK = b"0\r\n\r\n"

_QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
_EXTENSION = rb"[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + _QUOTED + rb"))?"
# Sixteen hexadecimal digits are 2**64 - 1: more than any body and no overflow anywhere.
_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + _EXTENSION + rb")*")
_FIELD_LINE = re.compile(rb"(" + TOKEN + rb"):[ \t]*([\t \x21-\x7e\x80-\xff]*)")

# RFC 9110 section 6.5.1: fields for framing, routing, authentication and content never count
# when they come in a trailer; those that would matter to a receiver that merges them are dropped.
FORBIDDEN_TRAILERS = frozenset(
    {
        b"authorization",
        b"cache-control",
        b"connection",
        b"content-encoding",
        b"content-length",
        b"content-range",
        b"content-type",
        b"cookie",
        b"expect",
        b"host",
        b"keep-alive",
        b"max-forwards",
        b"proxy-authorization",
        b"proxy-connection",
        b"set-cookie",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-forwarded-client-cert",
    }
)


class Part(enum.Enum):
    SIZE = "size"
    DATA = "data"
    DATA_END = "data end"
    TRAILER = "trailer"
    DONE = "done"
    BROKEN = "broken"


class ChunkedDecoder:
    """Cut anywhere, the bytes of one chunked body give the same content.

    After `part` is DONE, `trailers` has the field lines as (name, value); after BROKEN the
    connection must end.
    """

    __slots__ = ("_partial", "_remaining", "_trailer_bytes", "part", "trailers")

    def __init__(self) -> None:
        self.part = Part.SIZE
        self.trailers: list[tuple[bytes, bytes]] = []
        self._partial = b""
        self._remaining = 0
        self._trailer_bytes = 0

    def feed(self, data: bytes, content: list[bytes]) -> bytes:
        """Append to `content` what `data` carries; return what follows the body's end."""
        if self._partial:
            data = self._partial + data
            self._partial = b""
        position, size = 0, len(data)
        while position < size:
            part = self.part
            if part is Part.DATA:
                end = min(position + self._remaining, size)
                content.append(data[position:end])
                self._remaining -= end - position
                position = end
                if not self._remaining:
                    self.part = Part.DATA_END
            elif part is Part.DATA_END:
                if data[position : position + 2] == b"\r\n":
                    position += 2
                    self.part = Part.SIZE
                elif data[position:] == b"\r":
                    self._partial = b"\r"
                    return b""
                else:
                    self.part = Part.BROKEN
            elif part is Part.SIZE or part is Part.TRAILER:
                limit = MAX_SIZE_LINE if part is Part.SIZE else MAX_TRAILER_BYTES
                end = data.find(b"\r\n", position)
                if (size if end < 0 else end) - position > limit:
                    self.part = Part.BROKEN
                elif end < 0:
                    self._partial = data[position:]
                    return b""
                else:
                    self._line(data[position:end])
                    position = end + 2
            else:
                break
        return data[position:] if self.part is Part.DONE else b""

    def _line(self, line: bytes) -> None:
        if self.part is Part.SIZE:
            match = _SIZE_LINE.fullmatch(line)
            if match is None:
                self.part = Part.BROKEN
                return
            self._remaining = int(match[1], 16)
            self.part = Part.DATA if self._remaining else Part.TRAILER
        elif not line:
            self.part = Part.DONE
        else:
            self._trailer_bytes += len(line)
            field = _FIELD_LINE.fullmatch(line)
            if field is None or self._trailer_bytes > MAX_TRAILER_BYTES:
                self.part = Part.BROKEN
                return
            self.trailers.append((field[1], field[2].rstrip(b" \t")))


def encode(content: list[bytes]) -> bytes:
    """One chunk of everything in `content`, which must not be empty in sum."""
    return b"%x\r\n%b\r\n" % (sum(map(len, content)), b"".join(content))


def last_chunk(trailers: list[tuple[bytes, bytes]]) -> bytes:
    """The end of a body, with those `trailers` that may be forwarded."""
    lines = [
        b"%b: %b\r\n" % field for field in trailers if field[0].lower() not in FORBIDDEN_TRAILERS
    ]
    return b"0\r\n%b\r\n" % b"".join(lines)
