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


KNOWN: tuple[Known, ...] = ()


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
