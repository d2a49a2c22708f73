"""A refusal, turned into the response that a client sees: the only place."""

from __future__ import annotations

import json
from http import HTTPStatus

from fleetmesh.model.refusal import Refusal
from fleetmesh.proxy.site import Site

PHRASES = {one.value: one.phrase.encode() for one in HTTPStatus}
# After these the request's framing is unknown or its rest unwanted: the connection ends.
FATAL = frozenset(
    {
        Refusal.MALFORMED,
        Refusal.CONNECT_METHOD,
        Refusal.HEAD_TIMEOUT,
        Refusal.BODY_TIMEOUT,
        Refusal.BODY_TOO_LARGE,
        Refusal.TARGET_TOO_LONG,
        Refusal.HEAD_TOO_LARGE,
        Refusal.PLAINTEXT,
        Refusal.UNTRUSTED_PEER,
    }
)

SHED = frozenset({Refusal.OVERFLOW, Refusal.OVERLOADED, Refusal.TOO_MANY_CONNECTIONS})
"""Nothing is broken: whoever sees it neither ejects nor asks again, as with x-envoy-overloaded."""
LATER = frozenset({Refusal.OVERLOADED, Refusal.RATE_LIMITED})


def status_of(refusal: Refusal, site: Site) -> int:
    """The status code that goes out."""
    if refusal is Refusal.FAULT and site.fault is not None:
        return site.fault.status
    return refusal.status


def answer(refusal: Refusal, site: Site, *, head_only: bool, keep_alive: bytes) -> bytes:
    """The whole response. `keep_alive` is the Connection field line to send, or empty."""
    body = {
        "error": refusal.sentence,
        "reason": refusal.code,
        "source": site.source,
        "destination": site.destination,
    }
    if refusal is Refusal.DENIED:
        body["intention"] = str(site.verdict)
    status = status_of(refusal, site)
    content = json.dumps(body).encode() + b"\n"
    allow = b"Allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"
    return b"".join(
        (
            b"HTTP/1.1 %d %b\r\n" % (status, PHRASES.get(status, b"")),
            b"Content-Type: application/json\r\nx-fleetmesh-reason: %b\r\n" % refusal.code.encode(),
            b"x-fleetmesh-overloaded: true\r\n" if refusal in SHED else b"",
            site.later if refusal in LATER else b"",
            allow if refusal is Refusal.CONNECT_METHOD else b"",
            site.fault.line if site.fault is not None else b"",
            b"Content-Length: %d\r\n" % len(content),
            keep_alive,
            b"\r\n",
            b"" if head_only else content,
        )
    )
