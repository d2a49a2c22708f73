"""The same requests through the mesh and through Envoy: both understand them alike, or the mesh is
the stricter of the two in a way that is written down here."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from random import Random

import pytest
import pytest_asyncio
from tests.bench.running import free_ports
from tests.support.envoy import envoy_before
from tests.support.evidence import Evidence
from tests.support.http_grammar import mutate, request
from tests.support.http_known import REFUSED
from tests.support.http_meaning import OURS
from tests.support.http_reader import End, Message, read_requests
from tests.support.mesh import mesh
from tests.support.recorder import Recorder

pytestmark = pytest.mark.asyncio(loop_scope="module")

CASES = 900
PATIENCE = 0.15  # seconds for an answer; whoever says nothing waits for more bytes

_GET = b"GET /a HTTP/1.1\r\nHost: api\r\n"
_POST = b"POST /a HTTP/1.1\r\nHost: api\r\n"
BORDERLINE = (
    b"GET /a HTTP/1.1\r\nHost: api\r\nHost: api\r\n\r\n",
    b"GET /a HTTP/1.1\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost:\r\n\r\n",
    b"GET /a HTTP/1.1\r\nHost: a/b\r\n\r\n",
    b"GET http://other/a HTTP/1.1\r\nHost: api\r\n\r\n",
    b"GET http://u:p@other/a HTTP/1.1\r\nHost: api\r\n\r\n",
    b"GET ftp://other/a HTTP/1.1\r\nHost: api\r\n\r\n",
    b"GET a HTTP/1.1\r\nHost: api\r\n\r\n",
    b"GET * HTTP/1.1\r\nHost: api\r\n\r\n",
    b"GET /a#b HTTP/1.1\r\nHost: api\r\n\r\n",
    b'GET /"<>\\^`{|} HTTP/1.1\r\nHost: api\r\n\r\n',
    b"GET /\xc3\xa4 HTTP/1.1\r\nHost: api\r\n\r\n",
    b"GET /a HTTP/1.2\r\nHost: api\r\n\r\n",
    b"GET /a HTTP/2.0\r\nHost: api\r\n\r\n",
    b"GET /a\r\nHost: api\r\n\r\n",
    b"GET\t/a HTTP/1.1\r\nHost: api\r\n\r\n",
    b"CONNECT other:80 HTTP/1.1\r\nHost: other:80\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: api\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"GET /a HTTP/1.1\nHost: api\n\n",
    b"GET /a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    _GET + b"X : 1\r\n\r\n",
    _GET + b" X: 1\r\n\r\n",
    _GET + b"X: 1\r\n folded\r\n\r\n",
    _GET + b"X: a\rb\r\n\r\n",
    _GET + b"X: a\x00b\r\n\r\n",
    _GET + b"X: a\x01b\r\n\r\n",
    _GET + b"X\xe4: 1\r\n\r\n",
    _GET + b": 1\r\n\r\n",
    _GET + b"no colon\r\n\r\n",
    _GET + b"Content-Length: 3\r\n\r\nabc",
    _GET + b"Connection: host\r\n\r\n",
    _GET + b"Connection: content-length\r\nContent-Length: 3\r\n\r\nabc",
    _GET + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    _GET + b"Connection: upgrade, http2-settings\r\nUpgrade: h2c\r\nHTTP2-Settings: a\r\n\r\n",
    _POST + b"Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    _POST + b"Content-Length: 3, 3\r\n\r\nabc",
    _POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
    _POST + b"Content-Length: +3\r\n\r\nabc",
    _POST + b"Content-Length: 0x3\r\n\r\nabc",
    _POST + b"Content-Length: \r\n\r\n",
    _POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    _POST + b"Content_Length: 3\r\n\r\n",
    _POST + b"Transfer_Encoding: chunked\r\n\r\n",
    _POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: identity\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n3 \r\nabc\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n3;a=\"b\r\nabc\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 3\r\n\r\n",
    _POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nno colon\r\n\r\n",
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """`verdict` is forwarded, refused or waiting; `refusal` the status line's code, if any."""

    verdict: str
    messages: tuple[Message, ...] = ()
    refusal: bytes = b""


@dataclass
class Way:
    """One of the two proxies with a backend of its own."""

    port: int
    backend: Recorder

    async def send(self, raw: bytes) -> Outcome:
        self.backend.clear()
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(raw)
        answer = b""
        try:
            async with asyncio.timeout(PATIENCE):
                while not re.search(rb"HTTP/1.[01] [2-5]", answer):
                    if not (data := await reader.read(65536)):
                        break
                    answer += data
            waiting = False
        except (TimeoutError, ConnectionError):
            waiting = True
        # What was pipelined behind the first may still be on its way.
        if raw.count(b"HTTP/1.") > 1:
            await asyncio.sleep(0.03)
        writer.close()
        messages = self.backend.whole()
        code = re.search(rb"HTTP/1.[01] ([45]\d\d)", answer)
        if messages or self.backend.garbled():
            return Outcome("forwarded", messages, code[1] if code else b"")
        if waiting and code is None:
            return Outcome("waiting")
        return Outcome("refused", (), code[1] if code else b"")


@dataclass(frozen=True)
class Ways:
    mesh: Way
    envoy: Way


@pytest.fixture(scope="module")
def envoy(tmp_path_factory: pytest.TempPathFactory, envoy_backend_port: int) -> Iterator[int]:
    with envoy_before(envoy_backend_port, tmp_path_factory.mktemp("envoy")) as entry:
        yield entry


@pytest.fixture(scope="module")
def envoy_backend_port() -> int:
    return free_ports(1)[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ways(envoy: int, envoy_backend_port: int) -> AsyncIterator[Ways]:
    ours, theirs = Recorder(), Recorder()
    async with (
        await asyncio.start_server(theirs, "127.0.0.1", envoy_backend_port),
        mesh(ours) as running,
    ):
        yield Ways(Way(running.outbound_port, ours), Way(envoy, theirs))


def cases() -> list[bytes]:
    made = list(BORDERLINE)
    for number in range(CASES - len(made)):
        chance = Random(number)
        raw = request(chance).raw
        made.append(mutate(chance, raw) if number % 3 else raw)
    return made


# What Envoy forwards, mended or as it is, and the mesh refuses: by what the strict reader says.
STRICTER = (
    ("the request line is not three words with one space between", "no request line"),
    ("a line is no field: bare CR or LF, folded, control characters", "no field line"),
    ("Host is missing, or comes twice, which Envoy joins with a comma", "[02] Host fields"),
    ("Host is no host", "no host"),
    ("the lines of the head end in bare LF", "in a head"),
    ("Transfer-Encoding in HTTP/1.0", "Transfer-Encoding in a message of HTTP/1.0"),
    ("Connection is no list of options", "Connection is no list"),
    ("a chunk's line or end is not legal", "no (chunk|CRLF)"),
)
# Legal by the letter, but refused: each is a smuggler's tool or nobody's habit.
STRICTER_OF_LEGAL = (
    ("a minor version above 1", rb"HTTP/1\.[2-9]\r\n"),
    (
        "Connection nominates what frames or routes",
        rb"(?i)\nconnection:[^\r]*(?:content-length|host)",
    ),
    ("a look-alike of Content-Length or Transfer-Encoding", rb"(?i)\n(?:content|transfer)_\w+:"),
    *((row.title, row.pattern) for row in REFUSED),
)
# What the mesh forwards and Envoy does not. Nothing that Envoy holds for malformed belongs here.
LAXER = (
    (
        "a target without a path, for which Envoy has no route",
        rb"^(?:\r\n)*\S+ (?:\*|\w+://[^/ ]+) HTTP",
    ),
)


def explained(raw: bytes, ours: Outcome, theirs: Outcome) -> str | None:
    """Why the two differ, from the tables: empty when they do not, None when no row has it."""
    if ours.verdict == theirs.verdict == "forwarded":
        alike = [meaning(one) for one in ours.messages] == [meaning(one) for one in theirs.messages]
        return "" if alike else None
    if theirs.verdict == "forwarded":
        reading = read_requests(raw)
        why = reading.why or ("" if reading.end is End.CLEAN else reading.end.value)
        by_letter = (title for title, pattern in STRICTER if re.match(pattern, why))
        legal = (title for title, pattern in STRICTER_OF_LEGAL if re.search(pattern, raw))
        return next(by_letter, None) if why else next(legal, None)
    if ours.verdict == "forwarded":
        routed = theirs.refusal != b"400"
        return next((why for why, what in LAXER if routed and re.search(what, raw)), None)
    return ""


APART = {b"connection", b"content-length", b"expect", b"host", b"keep-alive", b"te", b"upgrade"}
APART |= {b"transfer-encoding", b"x-forwarded-proto", *OURS}


def meaning(message: Message) -> object:
    """What both must agree on. Envoy joins the values of fields that it knows, so those of one name
    count as one, at the place of the first; trailers are left out."""
    joined: dict[bytes, list[bytes]] = {}
    for name, value in message.fields:
        if name.lower() not in APART:
            joined.setdefault(name.lower(), []).append(value)
    fields = [
        (name, [part for part in re.split(rb"[ \t]*[,;][ \t]*", b",".join(values)) if part])
        for name, values in joined.items()
    ]
    # RFC 9112 section 3.2.4: OPTIONS of a URI without a path is for `*`, Envoy makes it `/`.
    line = (b"OPTIONS", b"/") if message.line == (b"OPTIONS", b"*") else message.line
    return line, message.values(b"host"), fields, message.body


async def test_envoy_understands_what_the_mesh_understands(ways: Ways) -> None:
    """Both forward the same, or the mesh alone refuses, for a reason that stands in a table here;
    it forwards nothing that Envoy holds for malformed."""
    seen: Counter[str] = Counter()
    unexplained = []
    for raw in cases():
        ours, theirs = await asyncio.gather(ways.mesh.send(raw), ways.envoy.send(raw))
        assert ways.mesh.backend.garbled() == [], raw
        both = f"mesh {ours.verdict}, Envoy {theirs.verdict}"
        why = explained(raw, ours, theirs)
        seen[f"{both}: {why}" if why else both] += 1
        if why is None:
            unexplained.append((both, raw, ours, theirs))
    evidence = Evidence("envoy differential")
    for line, count in sorted(seen.items()):
        evidence(f"{count:4} {line}")
    assert not unexplained, "\n".join(map(str, unexplained))
    assert seen["mesh forwarded, Envoy forwarded"] > CASES / 4
    assert seen["mesh refused, Envoy refused"] > CASES / 10
