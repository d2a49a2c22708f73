"""Where the mesh is known to read more than the RFC's letter allows, or less. To be empty.

Each row is found again by a test that is expected to fail, so a row cannot outlive its reason.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Known:
    """`client` and `answer` show it; `says` is a pattern of the verdict on it and its like."""

    title: str
    client: bytes
    answer: bytes
    says: str


_GET = b"GET / HTTP/1.1\r\nHost: api\r\n\r\n"
_OK = b"HTTP/1.1 204 No Content\r\n\r\n"

KNOWN = (
    Known(
        "a bare CR or LF before the request line is skipped like an empty line",
        b"\n" + _GET,
        _OK,
        r"requests arrived of \d+ \((?:no request line: b['\"](?:\\r|\\n)"
        r"|no field line: b['\"][!-~]+ [^ ]+ HTTP/1)",
    ),
    Known(
        "more than one space between the parts of the request line",
        b"GET  / HTTP/1.1\r\nHost: api\r\n\r\n",
        _OK,
        r"requests arrived of \d+ \(no request line: b['\"][^\n]*  ",
    ),
    Known(
        "a bare CR or LF before the status line is skipped like an empty line",
        _GET,
        b"\n" + _OK,
        r"made of .*(?:b['\"]|\\n)(?:\\r|\\n)+HTTP/",
    ),
    Known(
        "control characters in the reason phrase are forwarded",
        _GET,
        b"HTTP/1.1 204 No\x15\r\n\r\n",
        r"no status line: b['\"]HTTP/1\.1 \d{3} "
        r"|made of .*HTTP/1\.[01] \d{3} (?:(?!\\r).)*\\x[01]",
    ),
    Known(
        "the port of Host need not be digits",
        b"GET / HTTP/1.1\r\nHost: api:a'b\r\n\r\n",
        _OK,
        r"the endpoint reads End\.ILLEGAL_HEAD: no host: \[b['\"].*:",
    ),
    Known(
        "Host is not looked at when the target has an authority",
        b"GET http://api/ HTTP/1.1\r\nHost: a b\r\n\r\n",
        _OK,
        r"requests arrived of \d+ \(no host: ",
    ),
    Known(
        "the authority of a target may lack its host, or have a port that is not digits",
        b"GET http://user@/ HTTP/1.1\r\nHost: api\r\n\r\n",
        _OK,
        r"requests arrived of \d+ \(no target: ",
    ),
    Known(
        "OPTIONS of a URI without a path is forwarded with / in place of *",
        b"OPTIONS http://api HTTP/1.1\r\nHost: api\r\n\r\n",
        _OK,
        r"line=\(b'OPTIONS', b'\*'\)[^\n]*\narrived: Meaning\(line=\(b'OPTIONS', b'/'\)",
    ),
    Known(
        "of several Expect fields only the last is forwarded",
        b"GET / HTTP/1.1\r\nHost: api\r\nExpect: a\r\nExpect: 100-continue\r\n\r\n",
        _OK,
        r"expect=\(b[^)]*, b[^\n]*\narrived:",
    ),
    Known(
        "`trailers` is not found in a TE that has a weight before it",
        b"GET / HTTP/1.1\r\nHost: api\r\nTE: gzip;q=0.5, trailers\r\n\r\n",
        _OK,
        r"wants_trailers=True[^\n]*\narrived:[^\n]*wants_trailers=False",
    ),
)


@dataclass(frozen=True)
class Refused:
    """A legal request that the mesh does not take; `pattern` finds its like in a stream."""

    title: str
    client: bytes
    pattern: bytes


REFUSED = (
    Refused(
        "a tab behind `chunked`",
        b"POST / HTTP/1.1\r\nHost: api\r\nTransfer-Encoding: chunked\t\r\n\r\n0\r\n\r\n",
        rb"(?i)\r\ntransfer-encoding:[ \t]*chunked[ \t]*\t[ \t]*\r\n",
    ),
    Refused(
        "a method that the parser's list does not have",
        b"X-METHOD / HTTP/1.1\r\nHost: api\r\n\r\n",
        rb"(?:X-METHOD|get) ",
    ),
)


def refused(raw: bytes) -> bool:
    return any(re.search(row.pattern, raw) for row in REFUSED)


def known(verdict: str) -> Known | None:
    return next((row for row in KNOWN if re.search(row.says, verdict, re.DOTALL)), None)
