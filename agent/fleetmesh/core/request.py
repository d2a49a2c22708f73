"""The head of a request: collected in one pass, judged, rebuilt."""

from __future__ import annotations

import re

from fleetmesh.core.framing import (
    NEVER_NOMINATED,
    OPTIONS,
    content_length,
    spellings,
    token_list,
    without,
)
from fleetmesh.core.head import COMMON, Head, drop
from fleetmesh.core.told import ATTEMPTS, DEADLINE, EXPECTED, OURS
from fleetmesh.model.refusal import Refusal

# RFC 3986 sections 3.2.1 and 3.2.2: a name or an IP literal, with an optional port; before it, in
# a target, who asks. `=` and the like are sub-delims.
_NAME = rb"[A-Za-z0-9\-._~!$&'()*+,;=]*(?:%[0-9A-Fa-f]{2}[A-Za-z0-9\-._~!$&'()*+,;=]*)*"
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|" + _NAME + rb")(?::[0-9]*)?")
_USER = re.compile(rb"(?:" + _NAME + rb"(?::" + _NAME + rb")*@)?")
_ABSOLUTE = re.compile(rb"[Hh][Tt][Tt][Pp][Ss]?://([^/?#]+)([/?][^#]*)?")
_ORIGIN = re.compile(rb"/[\x21\x22\x24-\x7e\x80-\xff]*")

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE"})

_KEPT_APART = frozenset(
    {
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"upgrade",
        b"te",
        b"traceparent",
        b"x-request-id",
    }
)


class RequestHead(Head):
    """Fed by an HTTP parser (`on_url` too), asked by `judge`.

    `lines` come without Host. `upgrade` is the protocol that the client offers to change to and
    that may be forwarded, or empty. `wants_trailers` is `TE: trailers`.

    `traceparent` and `request_id` (values) and `tracestate` (whole lines) stand here in place of
    `lines`, empty when there are none. `noted` are B3's fields, which stand in `lines` too, and
    those that the mesh itself writes, by lower-case name; None without any.
    """

    __slots__ = (
        "_expect",
        "_te",
        "host",
        "http11",
        "method",
        "noted",
        "request_id",
        "target",
        "traceparent",
        "tracestate",
        "upgrade",
        "wants_trailers",
    )

    def begin_head(self) -> None:
        super().begin_head()
        self.target = b""
        self.method = b""
        self.host: bytes | None = None
        self.http11 = True
        self.upgrade = b""
        self.wants_trailers = False
        self._te = b""
        self._expect = b""
        self.traceparent = b""
        self.tracestate = b""
        self.request_id = b""
        self.noted: dict[bytes, bytes] | None = None

    def is_first_line(self, line: bytes) -> bool:
        """Three parts, one space between them, the last of HTTP."""
        parts = line.split(b" ")
        return len(parts) == 3 and parts[2].startswith(b"HTTP/")

    def on_url(self, url: bytes) -> None:
        self.target += url

    def judge(self, method: bytes, version: str, max_headers: int) -> Refusal | None:
        """Whether the head is legal, with everything that follows from it settled."""
        self.method = method
        self.http11 = version == "1.1"
        if self._fault or not (self.http11 or version == "1.0"):
            return Refusal.MALFORMED
        if self.count > max_headers:
            return Refusal.HEAD_TOO_LARGE
        if method == b"CONNECT":
            return Refusal.CONNECT_METHOD
        if not self._settle_target():
            return Refusal.MALFORMED
        # RFC 9112 section 6.1: Transfer-Encoding in a 1.0 message is faulty framing; together
        # with Content-Length it "ought to be handled as an error".
        if self.chunked and (not self.http11 or self.length >= 0):
            return Refusal.MALFORMED
        options = self._connection
        if options is None:
            self.keep_alive = self.http11
        else:
            if not self._settle_connection(options):
                return Refusal.MALFORMED
        if self._te:
            codings = [member.partition(b";")[0] for member in self._te.lower().split(b",")]
            self.wants_trailers = b"trailers" in [coding.strip(b" \t") for coding in codings]
        if self._expect and self.http11:
            self.lines.append(self._expect)
        return None

    def _settle_target(self) -> bool:
        """Origin form and one legal Host (RFC 9112 sections 3.2 and 3.3)."""
        target = self.target
        if target[:1] == b"/":
            if _ORIGIN.fullmatch(target) is None:
                return False
        elif target == b"*":
            if self.method != b"OPTIONS":
                return False
        else:
            match = _ABSOLUTE.fullmatch(target)
            if match is None:
                return False
            # Section 3.2.2: the authority of the target counts, whatever Host says, but it must say
            # something legal; userinfo is no part of Host.
            if self.host is None and self.http11:
                return False
            if self.host is not None and _HOST.fullmatch(self.host) is None:
                return False
            user, at, self.host = match[1].rpartition(b"@")
            if self.host[:1] in (b"", b":"):  # RFC 9110 section 4.2.1
                return False
            if _USER.fullmatch(user + at) is None:
                return False
            path = match[2] or b""
            if not path and self.method == b"OPTIONS":  # section 3.2.4
                self.target = b"*"
            else:
                self.target = path if path[:1] == b"/" else b"/" + path
                if _ORIGIN.fullmatch(self.target) is None:
                    return False
        if self.host is None:
            return not self.http11
        return _HOST.fullmatch(self.host) is not None

    def _settle_connection(self, options: frozenset[bytes]) -> bool:
        self.keep_alive = (
            b"close" not in options if self.http11 else b"keep-alive" in options
        ) and b"close" not in options
        nominated = options - OPTIONS
        if nominated:
            if nominated & NEVER_NOMINATED:
                return False
            self.lines = without(self.lines, nominated)
            self._forget_trace(nominated)
        # A tunnel begins only where nothing else could still follow: a request without content.
        # h2c is not offered onwards: what follows it would escape every rule of HTTP.
        if (
            b"upgrade" in options
            and self._upgrade
            and self.http11
            and self.method == b"GET"
            and not self.chunked
            and self.length <= 0
        ):
            protocols = token_list(self._upgrade.replace(b"/", b"."))
            if protocols and not any(name.startswith((b"h2", b"http")) for name in protocols):
                self.upgrade = self._upgrade
        return True

    def _forget_trace(self, nominated: frozenset[bytes]) -> None:
        """What a client nominates was meant for us alone: its trace then ends here."""
        if b"traceparent" in nominated:
            self.traceparent = b""
        if b"tracestate" in nominated:
            self.tracestate = b""
        if b"x-request-id" in nominated:
            self.request_id = b""
        if self.noted is not None and not nominated.isdisjoint(self.noted):
            self.noted = None

    def field(self, name: bytes) -> bytes | None:
        """The value of `name` (lower case) as it is forwarded, lines joined by ", "; None when
        there is no such field. For after `judge`."""
        if name == b"host":
            return self.host
        if name == b"content-length":
            return b"%d" % self.length if self.length >= 0 else None
        if name == b"traceparent" or name == b"x-request-id":
            return (self.traceparent if name == b"traceparent" else self.request_id) or None
        size = len(name)
        found: bytes | None = None
        lines = self.lines
        if name == b"tracestate":
            lines = self.tracestate.splitlines(keepends=True)
        for line in lines:
            # Most names differ in length already: looking for the colon there costs no call.
            if line[size : size + 1] == b":" and line[:size].lower() == name:
                value = line[size + 1 :].strip(b" \t\r\n")
                found = value if found is None else found + b", " + value
        return found

    def values(self, name: bytes) -> list[bytes]:
        """The value of each line of `name` (lower case) as it is forwarded. For after `judge`."""
        if name == b"tracestate":
            lines = self.tracestate.splitlines(keepends=True)
        elif name in _KEPT_APART:
            return self._kept_apart(name)
        else:
            lines = self.lines
        size = len(name)
        return [
            line[size + 1 :].strip(b" \t\r\n")
            for line in lines
            if line[size : size + 1] == b":" and line[:size].lower() == name
        ]

    def _kept_apart(self, name: bytes) -> list[bytes]:
        """What `rebuild` writes of itself."""
        value: bytes | None
        if name == b"upgrade":
            value = self.upgrade or None
        elif name == b"connection":
            value = b"Upgrade" if self.upgrade else b"TE" if self.wants_trailers else None
        elif name == b"te":
            value = b"trailers" if self.wants_trailers and not self.upgrade else None
        elif name == b"transfer-encoding":
            value = b"chunked" if self.chunked and self.length < 0 else None
        else:
            value = self.field(name)
        return [] if value is None else [value]

    def lookalike(self, names: frozenset[bytes], underscored: bool) -> bytes:
        """The name of a field that gateways of the CGI family cannot tell from one of `names`
        (lower case), empty when there is none. `underscored`: one of them has a `_` itself."""
        for line in self.lines:
            if not underscored and b"_" not in line:
                continue
            name = line.partition(b":")[0].lower()
            if (b"_" in name or b"-" in name) and name not in names:
                spelled = name.replace(b"_", b"-")
                for known in names:
                    if len(known) == len(name) and known.replace(b"_", b"-") == spelled:
                        return name
        return b""

    def rebuild(self, default_host: bytes, added: bytes) -> bytes:
        """The head to send onwards. `added` are whole field lines of the mesh's own."""
        parts = [
            self.method,
            b" ",
            self.target,
            b" HTTP/1.1\r\nHost: ",
            self.host if self.host is not None else default_host,
            b"\r\n",
            *self.lines,
        ]
        if self.length >= 0:
            parts.append(b"Content-Length: %d\r\n" % self.length)
        elif self.chunked:
            parts.append(b"Transfer-Encoding: chunked\r\n")
        if added:
            parts.append(added)
        if self.upgrade:
            parts.append(b"Connection: Upgrade\r\nUpgrade: " + self.upgrade + b"\r\n")
        elif self.wants_trailers:
            parts.append(b"Connection: TE\r\nTE: trailers\r\n")
        parts.append(b"\r\n")
        return b"".join(parts)


def _host(head: RequestHead, value: bytes) -> None:
    if head.host is not None:
        head._fault = True
    head.host = value.strip(b" \t")


def _content_length(head: RequestHead, value: bytes) -> None:
    length = content_length(value)
    if length is None or head.length >= 0:
        head._fault = True
    else:
        head.length = length


def _te(head: RequestHead, value: bytes) -> None:
    head._te = head._te + b", " + value if head._te else value


def _expect(head: RequestHead, value: bytes) -> None:
    head._expect += b"Expect: " + value + b"\r\n"


def _refuse(head: RequestHead, _value: bytes) -> None:
    head._fault = True


def _traceparent(head: RequestHead, value: bytes) -> None:
    """A second one makes both invalid: there is no comma in a valid one."""
    head.traceparent = head.traceparent + b", " + value if head.traceparent else value


def _tracestate(head: RequestHead, value: bytes) -> None:
    head.tracestate += b"tracestate: " + value + b"\r\n"


def _request_id(head: RequestHead, value: bytes) -> None:
    head.request_id = head.request_id + b", " + value if head.request_id else value


def _note(head: RequestHead, name: bytes, value: bytes) -> None:
    if head.noted is None:
        head.noted = {}
    noted = head.noted
    noted[name] = noted[name] + b", " + value if name in noted else value.strip(b" \t")


def _deadline(head: RequestHead, value: bytes) -> None:
    _note(head, DEADLINE, value)


def _attempts(head: RequestHead, value: bytes) -> None:
    _note(head, ATTEMPTS, value)


def _expected(head: RequestHead, value: bytes) -> None:
    _note(head, EXPECTED, value)
    head.lines.append(EXPECTED + b": " + value + b"\r\n")


def _keep_b3(head: RequestHead, name: bytes, line: bytes, value: bytes) -> None:
    _note(head, name, value)
    head.lines.append(line + value + b"\r\n")


def _b3(head: RequestHead, value: bytes) -> None:
    _keep_b3(head, b"b3", b"b3: ", value)


def _b3_trace_id(head: RequestHead, value: bytes) -> None:
    _keep_b3(head, b"x-b3-traceid", b"X-B3-TraceId: ", value)


def _b3_span_id(head: RequestHead, value: bytes) -> None:
    _keep_b3(head, b"x-b3-spanid", b"X-B3-SpanId: ", value)


def _b3_sampled(head: RequestHead, value: bytes) -> None:
    _keep_b3(head, b"x-b3-sampled", b"X-B3-Sampled: ", value)


def _b3_flags(head: RequestHead, value: bytes) -> None:
    _keep_b3(head, b"x-b3-flags", b"X-B3-Flags: ", value)


RequestHead.RULES = {
    **COMMON,
    b"host": _host,
    b"content-length": _content_length,
    b"te": _te,
    b"expect": _expect,
    b"http2-settings": drop,
    b"trailer": drop,
    b"traceparent": _traceparent,
    b"tracestate": _tracestate,
    b"x-request-id": _request_id,
    b"b3": _b3,
    b"x-b3-traceid": _b3_trace_id,
    b"x-b3-spanid": _b3_span_id,
    b"x-b3-sampled": _b3_sampled,
    b"x-b3-flags": _b3_flags,
    DEADLINE: _deadline,
    ATTEMPTS: _attempts,
    EXPECTED: _expected,
    **{spelling: drop for name in OURS for spelling in spellings(name)[1:]},
    **dict.fromkeys(spellings(b"content-length")[1:], _refuse),
    **dict.fromkeys(spellings(b"transfer-encoding")[1:], _refuse),
    **dict.fromkeys(spellings(b"x-forwarded-client-cert"), drop),
}
