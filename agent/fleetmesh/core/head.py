"""What the heads of requests and responses have in common: one pass over the field lines."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import ClassVar

from fleetmesh.core.framing import token_list

CRLF = b"\r\n"
END = b"\r\n\r\n"


class Head:
    """Fed by an HTTP parser (`on_header`, `on_headers_complete`).

    `lines` are the field lines to forward, in order, without whatever concerns only one hop.
    `begun`: the first line is whole. `length` is -1 when there is no Content-Length, `count` all
    fields that came. `RULES` says by lower-case name what becomes of the fields that are not
    simply forwarded.
    """

    __slots__ = (
        "_connection",
        "_fault",
        "_line",
        "_tail",
        "_upgrade",
        "begun",
        "chunked",
        "count",
        "fed",
        "head_done",
        "keep_alive",
        "length",
        "lines",
    )

    RULES: ClassVar[Mapping[bytes, Callable[..., None]]] = {}

    def __init__(self) -> None:
        self.begin_head()

    def begin_head(self) -> None:
        self.lines: list[bytes] = []
        self.length = -1
        self.chunked = False
        self.count = 0
        self.head_done = False
        self.keep_alive = True
        self._connection: frozenset[bytes] | None = None
        self._fault = False
        self._line = b""
        self._tail = b""
        self._upgrade = b""
        self.begun = False
        self.fed = 0

    def begins_well(self, piece: bytes) -> bool:
        """False as soon as the message does not begin as it must; `begun` once the first line is
        whole. Parsers are lenient here: llhttp takes RTSP, ICE, bare CR and LF, and more spaces.
        """
        line = self._line + piece if self._line else piece
        while line.startswith(CRLF):  # empty lines: RFC 9112 section 2.2
            line = line[2:]
        if line[:1] == b"\n" or (line[:1] == b"\r" and len(line) > 1):
            return False
        end = line.find(CRLF)
        if end < 0:
            self._line = line
            return True
        self._line = b""
        self.begun = True
        return self.is_first_line(line[:end])

    def is_first_line(self, line: bytes) -> bool:
        """Whether `line` may be what the parser then takes it for."""
        raise NotImplementedError

    def cut(self, data: bytes) -> tuple[bytes, bytes, bool]:
        """What of `data` is of this head, what follows it, and whether the head ends there.

        The end is found wherever the stream was cut; `fed` counts the bytes of the head so far.
        """
        tail = self._tail
        end = (tail + data).find(END) - len(tail) if tail else data.find(END)
        if end + len(tail) < 0:
            self._tail = (tail + data)[-3:]
            self.fed += len(data)
            return data, b"", False
        piece = data[: end + 4]
        self.fed += len(piece)
        return piece, data[end + 4 :], True

    def on_header(self, name: bytes, value: bytes) -> None:
        self.count += 1
        rule = self.RULES.get(name.lower())
        if rule is None:
            self.lines.append(name + b": " + value + b"\r\n")
        else:
            rule(self, value)

    def on_headers_complete(self) -> None:
        self.head_done = True


def transfer_encoding(head: Head, value: bytes) -> None:
    """Only `chunked` alone: other codings would have to be decoded to know what is forwarded."""
    if head.chunked or value.strip(b" \t").lower() != b"chunked":
        head._fault = True
    head.chunked = True


def connection(head: Head, value: bytes) -> None:
    options = token_list(value)
    if options is None:
        head._fault = True
    else:
        head._connection = options | (head._connection or frozenset())


def upgrade(head: Head, value: bytes) -> None:
    head._upgrade = head._upgrade + b", " + value if head._upgrade else value


def drop(_head: Head, _value: bytes) -> None:
    """Concerns one hop only, or is the mesh's to say."""


COMMON: Mapping[bytes, Callable[..., None]] = {
    b"transfer-encoding": transfer_encoding,
    b"connection": connection,
    b"upgrade": upgrade,
    b"keep-alive": drop,
    b"proxy-connection": drop,
}
