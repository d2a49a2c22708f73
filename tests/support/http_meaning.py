"""What a request or an answer means behind the mesh: what must arrive of what was sent.

`sent_...` says what the receiver is to read of a message that came to the mesh, `received_...` what
it does read; the two are equal, or the mesh changed a message.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.support.http_reader import Field, Message, split_absolute

# RFC 9110 section 7.6.1, and the fields by which a connection is changed or described.
ONE_HOP = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding"}
    | {b"upgrade"}
)
REQUEST_ONE_HOP = ONE_HOP | {b"http2-settings"}
FRAMING = frozenset({b"content-length", b"transfer-encoding"})
# The mesh moves these to another place of the head.
MOVED = frozenset({b"host", b"expect", b"content-length"})
# The mesh says these itself, whatever a client said.
OURS = frozenset({b"x-forwarded-client-cert", b"traceparent", b"tracestate", b"x-request-id"})
NEVER_NOMINATED = FRAMING | {b"host", b"x-forwarded-client-cert"}
# RFC 9110 section 6.5.1: these would change a message when merged into its head.
NO_TRAILER = (
    ONE_HOP
    | MOVED
    | {b"authorization", b"cache-control", b"content-encoding", b"content-range"}
    | {b"content-type", b"cookie", b"max-forwards", b"proxy-authorization", b"set-cookie"}
    | {b"x-forwarded-client-cert"}
)
_PROTOCOL = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z/]+")


@dataclass(frozen=True)
class Meaning:
    """`line` is (method, target) or (status, reason); `offers` what Upgrade asks for or grants."""

    line: tuple[bytes, bytes]
    host: bytes
    fields: tuple[Field, ...]
    expect: tuple[bytes, ...]
    framing: str
    length: int | None
    offers: bytes
    wants_trailers: bool
    body: bytes
    trailers: tuple[Field, ...] = ()


def sent_request(message: Message, default_host: bytes) -> Meaning:
    """What the application is to read. Trailers end here: no upstream ever asked for them."""
    method, target = message.line
    hosts = message.values(b"host")
    host = hosts[0] if hosts else default_host
    absolute = split_absolute(target)
    if absolute is not None:
        host, target = absolute
        if not target:
            target = b"*" if method == b"OPTIONS" else b"/"  # RFC 9112 section 3.2.4
        elif target[:1] == b"?":
            target = b"/" + target
    options = message.members(b"connection")
    nominated = options - NEVER_NOMINATED
    offers = _protocols(message) if _may_upgrade(message, options) else b""
    return Meaning(
        (method, target),
        host,
        _end_to_end(message, REQUEST_ONE_HOP | OURS | nominated),
        tuple(message.values(b"expect")) if message.minor else (),
        message.framing,
        _length(message),
        offers,
        wants_trailers(message) and not offers,
        message.body,
    )


def received_request(message: Message) -> Meaning:
    """What an upstream read, every field of it."""
    options = message.members(b"connection")
    offers = _protocols(message)
    te = message.values(b"te")
    assert te in ([], [b"trailers"]), te
    expected = ([b"te"] if te else []) + ([b"upgrade"] if offers else [])
    assert options == set(expected), options
    return Meaning(
        message.line,
        b", ".join(message.values(b"host")),
        _end_to_end(message, FRAMING | OURS | {b"connection", b"upgrade", b"te"}),
        tuple(message.values(b"expect")),
        message.framing,
        _length(message),
        offers,
        bool(te),
        message.body,
        message.trailers,
    )


def wants_trailers(request: Message) -> bool:
    return any(
        member.partition(b";")[0].strip(b" \t") == b"trailers" for member in request.members(b"te")
    )


def sent_answer(message: Message, request: Message) -> Meaning:
    """What the client of `request` is to read."""
    status = message.line[0]
    framing = message.framing
    if framing in ("close", "chunked"):
        framing = "chunked" if request.minor else "close"
    bodiless = status[:1] == b"1" or status == b"204"
    return Meaning(
        message.line,
        b"",
        _end_to_end(message, ONE_HOP | message.members(b"connection") - NEVER_NOMINATED),
        (),
        framing,
        None if bodiless else _length(message),
        _protocols(message) if status in (b"101", b"426") else b"",
        False,
        message.body,
        _mergeable(message.trailers) if wants_trailers(request) and request.minor else (),
    )


def received_answer(message: Message) -> Meaning:
    return Meaning(
        message.line,
        b"",
        _end_to_end(message, FRAMING | {b"connection", b"upgrade", b"trailer"}),
        (),
        message.framing,
        _length(message),
        _protocols(message),
        False,
        message.body,
        message.trailers,
    )


def _end_to_end(message: Message, gone: frozenset[bytes] | set[bytes]) -> tuple[Field, ...]:
    return tuple(
        (name, value)
        for name, value in message.fields
        if name.lower() not in gone | MOVED and name.lower().replace(b"_", b"-") not in gone & OURS
    )


def _mergeable(trailers: tuple[Field, ...]) -> tuple[Field, ...]:
    return tuple(one for one in trailers if one[0].lower() not in NO_TRAILER)


def _protocols(message: Message) -> bytes:
    members = b",".join(message.values(b"upgrade")).split(b",")
    return b", ".join(member.strip(b" \t") for member in members if member.strip(b" \t"))


def _length(message: Message) -> int | None:
    values = message.values(b"content-length")
    return int(values[0]) if values else None


def _may_upgrade(message: Message, options: set[bytes]) -> bool:
    """A tunnel begins only where nothing else could follow, and never in another HTTP."""
    protocols = message.members(b"upgrade")
    return (
        b"upgrade" in options
        and bool(protocols)
        and all(_PROTOCOL.fullmatch(protocol) for protocol in protocols)
        and message.minor > 0
        and message.line[0] == b"GET"
        and message.framing != "chunked"
        and not message.body
        and not _length(message)
        and not any(name.startswith((b"h2", b"http")) for name in protocols)
    )
