"""The head of a response: collected in one pass, judged, rebuilt for the one who asked."""

from __future__ import annotations

import re

from fleetmesh.core.framing import (
    NEVER_NOMINATED,
    OPTIONS,
    Body,
    content_length,
    without,
)
from fleetmesh.core.head import COMMON, Head, drop

# RFC 9112 section 4. Many leave out the space before an empty reason.
_STATUS_LINE = re.compile(rb"HTTP/[0-9]\.[0-9] [0-9]{3}(?: [\t\x20-\x7e\x80-\xff]*)?")

OVERLOADED = frozenset({b"x-fleetmesh-overloaded", b"x-envoy-overloaded"})


REASON = b"x-fleetmesh-reason"
"""Of an answer that the mesh gives itself: a Refusal's code."""


class ResponseHead(Head):
    """Fed by an HTTP parser (`on_status` too), asked by `judge`.

    `body` says how the content ends on the connection that the head came from. `keep_alive`:
    that connection may serve another request.
    """

    __slots__ = (
        "_trailer",
        "body",
        "reason",
        "status",
    )

    def begin_head(self) -> None:
        super().begin_head()
        self.reason = b""
        self.status = 0
        self.body = Body.NONE
        self._trailer = b""

    def is_first_line(self, line: bytes) -> bool:
        return _STATUS_LINE.fullmatch(line) is not None

    def on_status(self, reason: bytes) -> None:
        self.reason += reason

    def judge(self, status: int, version: str, method: bytes) -> bool:
        """Whether the head is a legal answer to a request of `method`; settles `body`."""
        self.status = status
        http11 = version == "1.1"
        if self._fault or not (http11 or version == "1.0") or not 100 <= status <= 599:
            return False
        options = self._connection
        if options is None:
            self.keep_alive = http11
        else:
            self.keep_alive = (
                b"close" not in options if http11 else options >= {b"keep-alive"}
            ) and b"close" not in options
            nominated = options - OPTIONS - NEVER_NOMINATED
            if nominated:
                self.lines = without(self.lines, nominated)
        if status < 200 or status == 204:
            # RFC 9110 section 8.6 and RFC 9112 section 6.1 forbid both fields here.
            if self.chunked or self.length > 0:
                self.keep_alive = False
            self.chunked, self.length = False, -1
            self.body = Body.NONE
        elif self.chunked and (not http11 or self.length >= 0):
            return False
        elif method == b"HEAD" or status == 304:
            self.body = Body.NONE
        elif self.chunked:
            self.body = Body.CHUNKED
        elif self.length >= 0:
            self.body = Body.LENGTH if self.length else Body.NONE
        else:
            self.body = Body.CLOSE
            self.keep_alive = False
        return True

    def field(self, name: bytes) -> bytes:
        """The value of the first line of `name` (lower case), empty when there is none."""
        size = len(name)
        for line in self.lines:
            if line[size : size + 1] == b":" and line[:size].lower() == name:
                return line[size + 1 :].strip(b" \t\r\n")
        return b""

    def rebuild(self, http11: bool, keep_alive: bool, wants_trailers: bool) -> bytes:
        """The head for a client of that version whose connection then stays open or not.

        A body of unknown length goes chunked to a 1.1 client; to a 1.0 client its end is the
        connection's, so `keep_alive` must be False there.
        """
        parts = [b"HTTP/1.1 %d %b\r\n" % (self.status, self.reason), *self.lines]
        if self.length >= 0:
            parts.append(b"Content-Length: %d\r\n" % self.length)
        elif http11 and (self.chunked or self.body is Body.CLOSE):
            parts.append(b"Transfer-Encoding: chunked\r\n")
            if self._trailer and wants_trailers:
                parts.append(b"Trailer: " + self._trailer + b"\r\n")
        if self.status == 101:
            parts.append(b"Connection: Upgrade\r\nUpgrade: " + self._upgrade + b"\r\n")
        elif self.status >= 200:
            if self.status == 426 and self._upgrade:
                parts.append(b"Upgrade: " + self._upgrade + b"\r\n")
            if not keep_alive:
                parts.append(b"Connection: close\r\n")
            elif not http11:
                parts.append(b"Connection: keep-alive\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)

    @property
    def shed(self) -> bool:
        """A 503 of somebody who is well and has too much to do, as our sidecars and Envoy say."""
        return self.status == 503 and any(
            line[: line.find(b":")].lower() in OVERLOADED for line in self.lines
        )

    @property
    def accepts_upgrade(self) -> bool:
        """A 101 that says to what."""
        return self.status == 101 and bool(self._upgrade)


def _content_length(head: ResponseHead, value: bytes) -> None:
    length = content_length(value)
    if length is None or (head.length >= 0 and head.length != length):
        head._fault = True
    else:
        head.length = length


def _trailer(head: ResponseHead, value: bytes) -> None:
    head._trailer = head._trailer + b", " + value if head._trailer else value


ResponseHead.RULES = {
    **COMMON,
    b"content-length": _content_length,
    b"trailer": _trailer,
    b"te": drop,
}
