"""Messages written from the grammar of RFC 9110 and 9112, and what becomes of them by accident.

Every function takes its choices from a `random.Random`: a seeded one, hypothesis's (which shrinks
them) or one that reads a fuzzer's bytes.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from random import Random

from tests.support.http_reader import Field, Message

METHODS = (b"GET", b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"PROPFIND")
OTHER_METHODS = (b"X-METHOD", b"get")
HOSTS = (b"api", b"api:80", b"a.example", b"[::1]:8080", b"127.0.0.1", b"")
PATHS = (b"/", b"/a", b"/a/b;c=d", b"/%41%2f", b"/a//b/../c", b"/~x!$&'()*+,:@", b"/ws-1.2")
QUERIES = (b"", b"", b"?", b"?a=b&c=%20", b"?a=/b?c")
NAMES = (b"Accept", b"X-A", b"x-b", b"X-C", b"Cookie", b"Forwarded", b"X", b"a!#$%&'*+-.^_`|~9")
VALUES = (b"", b"1", b"*/*", b"a, b;q=0.5", b'"quoted, \\" text"', b"t\xc3\xa4\xff\x80", b"a\tb  c")
BLANKS = (b"", b" ", b"\t", b" \t ", b"  ")
EXTENSIONS = (b"", b"", b";a", b";a=b", b' ; a = "q;\\"x" ;b', b";\tc=1")
STATUSES = ((b"200", b"OK"), (b"201", b""), (b"404", b"Not Found"), (b"302", b"No\xe4 Way\t!"))
SNIPPETS = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b",", b";", b"0\r\n\r\n", b"\r\n\r\n",
    b"Content-Length: 3\r\n", b"content-length:3,3\r\n", b"Content-Length: +1\r\n", b"\x0b",
    b"Transfer-Encoding: chunked\r\n", b"transfer-encoding:identity\r\n", b"Host: b\r\n", b"\xff",
    b"Transfer-Encoding : chunked\r\n", b"Transfer_Encoding: chunked\r\n", b" folded\r\n",
    b"HTTP/1.1", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/11", b"-", b"_",
    b"GET / HTTP/1.1\r\nHost: evil\r\n\r\n", b"Connection: content-length, host\r\n", b"0x3",
    b"Connection: close\r\n", b"Connection: x-a\r\n", b"Expect: 100-continue\r\n", b"CONNECT ",
    b"TE: trailers\r\n", b"Upgrade: h2c\r\nConnection: Upgrade\r\n", b"99999999999999999999",
    b"#", b"@", b"http://", b"HTTP/1.1 100 Continue\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
)  # fmt: skip


@dataclass(frozen=True)
class Written:
    """The bytes of one message and what its writer meant by them."""

    raw: bytes
    message: Message
    closes: bool = False  # the connection ends behind it, by its own word


def request(chance: Random, *, last: bool = True) -> Written:
    """A legal request. One that is not `last` keeps the connection and changes no protocol."""
    method = chance.choice(METHODS) if chance.randrange(20) else chance.choice(OTHER_METHODS)
    minor = 1 if not last else chance.choice((1, 1, 1, 0))
    host = chance.choice(HOSTS)
    path = chance.choice(PATHS) + chance.choice(QUERIES)
    target = path
    form = chance.randrange(8)
    if form == 0 and host:
        user = chance.choice((b"", b"", b"user:pw@"))
        target = chance.choice((b"http://", b"HTTPS://")) + user + host
        target += chance.choice((path, b"", b"?q"))
    elif form == 1 and method == b"OPTIONS":
        target = b"*"
    lines = _fields(chance)
    if minor or chance.randrange(2):
        lines.insert(chance.randrange(len(lines) + 1), (_case(chance, b"Host"), host))
    closes = minor == 0
    if chance.randrange(3) == 0:
        options = chance.sample((b"X-A", b"x-b", b"keep-alive", b"TE"), chance.randrange(3))
        if last and chance.randrange(3) == 0:
            options.append(chance.choice((b"close", b"CLOSE")))
        closes = options[-1:] in ([b"close"], [b"CLOSE"]) or (
            minor == 0 and b"keep-alive" not in options
        )
        lines.append((b"Connection", chance.choice((b",", b", ", b" ,\t")).join(options)))
    one_hop = ((b"TE", b"trailers"), (b"TE", b"gzip"), (b"Keep-Alive", b"timeout=5"))
    lines += chance.sample(one_hop, chance.choice((0, 0, 0, 1)))
    if method == b"GET" and minor and last and chance.randrange(6) == 0:
        lines += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        framing, raw, content, trailers = b"", b"", b"", ()
    else:
        framing, raw, content, trailers = _content(chance, lines, chunked=minor > 0)
    kind = {b"": "none", b"c": "chunked", b"l": "length"}[framing]
    head = b"%b %b HTTP/1.%d\r\n%b\r\n" % (method, target, minor, _lines(chance, lines))
    blank = b"\r\n" if chance.randrange(12) == 0 else b""
    message = Message((method, target), minor, tuple(lines), kind, content, trailers)
    return Written(blank + head + raw, message, closes)


def answer(chance: Random, method: bytes, *, last: bool = True) -> Written:
    """A legal answer to a request of `method`; `last`: its end may be the connection's."""
    line = chance.choice((*STATUSES, *STATUSES, (b"204", b"No Content"), (b"304", b"")))
    minor = 1 if not last else chance.choice((1, 1, 1, 0))
    lines = _fields(chance)
    closes = minor == 0
    if chance.randrange(3) == 0:
        lines.append((b"Connection", chance.choice((b"x-a", b"keep-alive, X-B", b"Keep-Alive"))))
    bodiless = method == b"HEAD" or line[0] in (b"204", b"304")
    framing, raw, content, trailers = _content(
        chance, lines, chunked=minor > 0, anything=line[0] != b"204", bodiless=bodiless
    )
    kind = {b"": "close", b"c": "chunked", b"l": "length"}[framing]
    if bodiless:
        kind, raw, content, trailers = "none", b"", b"", ()
    elif kind == "close":
        if last:
            closes = True
            content = raw = chance.choice((b"", b"until the end"))
        else:
            lines.append((b"Content-Length", b"0"))
            kind = "length"
    head = b"HTTP/1.%d %b %b\r\n%b\r\n" % (minor, *line, _lines(chance, lines))
    message = Message(line, minor, tuple(lines), kind, content, trailers)
    interim = b""
    for _ in range(chance.choice((0, 0, 0, 1, 2))):
        interim += chance.choice(
            (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Early\r\nLink: </a>\r\n\r\n")
        )
    return Written(interim + head + raw, message, closes)


def _fields(chance: Random) -> list[Field]:
    return [(chance.choice(NAMES), chance.choice(VALUES)) for _ in range(chance.randrange(5))]


def _case(chance: Random, name: bytes) -> bytes:
    return chance.choice((name, name, name.lower(), name.upper()))


def _lines(chance: Random, fields: list[Field]) -> bytes:
    parts = []
    for name, value in fields:
        parts.append(b"%b:%b%b%b\r\n" % (name, chance.choice(BLANKS), value, chance.choice(BLANKS)))
    return b"".join(parts)


def _content(
    chance: Random,
    lines: list[Field],
    *,
    chunked: bool,
    anything: bool = True,
    bodiless: bool = False,
) -> tuple[bytes, bytes, bytes, tuple[Field, ...]]:
    """(c, l or nothing, bytes on the wire, content, trailers); adds the field that frames it."""
    how = chance.randrange(3) if anything else 0
    at = chance.randrange(len(lines) + 1)
    if how == 1:
        content = bytes(chance.choices(b"ab\r\n0: \xff", k=chance.choice((0, 1, 5, 40))))
        zeros = chance.choice((b"", b"", b"00"))
        lines.insert(at, (_case(chance, b"Content-Length"), zeros + b"%d" % len(content)))
        return b"l", content, content, ()
    if how == 2 and chunked:
        name = _case(chance, b"Transfer-Encoding")
        lines.insert(at, (name, chance.choice((b"chunked", b"Chunked"))))
        raw = content = b""
        for _ in range(chance.randrange(4)):
            piece = bytes(chance.choices(b"ab\r\n0: \xff", k=chance.choice((1, 2, 17))))
            size = chance.choice((b"%x", b"%X", b"0%x")) % len(piece)
            raw += size + chance.choice(EXTENSIONS) + b"\r\n" + piece + b"\r\n"
            content += piece
        trailers = [
            (chance.choice((b"X-T", b"Etag", b"Cookie")), chance.choice(VALUES))
            for _ in range(chance.choice((0, 0, 1, 2)))
        ]
        raw += chance.choice((b"0", b"000")) + chance.choice(EXTENSIONS) + b"\r\n"
        raw += _lines(chance, trailers) + b"\r\n"
        return b"c", raw, content, tuple(trailers)
    return b"", b"", b"", ()


def mutate(chance: Random, raw: bytes) -> bytes:
    """A few accidents: bytes lost, doubled, changed or slipped in."""
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        at, kind = chance.randrange(len(raw) + 1), chance.randrange(6)
        if kind <= 1:
            raw = raw[:at] + chance.choice(SNIPPETS) + raw[at:]
        elif kind == 2:
            raw = raw[:at] + raw[at + 1 + chance.randrange(3) :]
        elif kind == 3:
            raw = raw[:at] + bytes([chance.randrange(256)]) + raw[at + 1 :]
        elif kind == 4:
            lines = raw.split(b"\r\n")
            line = chance.randrange(len(lines))
            lines.insert(chance.randrange(len(lines) + 1), lines[line])
            raw = b"\r\n".join(lines)
        else:
            until = min(len(raw), at + chance.randrange(30))
            raw = raw[:until] + raw[at:until] + raw[until:]
    return raw


def cut(chance: Random, raw: bytes) -> list[bytes]:
    """`raw` as a stream may deliver it."""
    if chance.randrange(6) == 0:
        return [raw[at : at + 1] for at in range(len(raw))]
    edges = {0, len(raw), *(chance.randrange(len(raw) + 1) for _ in range(chance.randrange(6)))}
    return [raw[begin:end] for begin, end in itertools.pairwise(sorted(edges))]
