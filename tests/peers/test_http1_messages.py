"""Messages that others wrote to trip HTTP/1.1 implementations, through both sides of the mesh."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.mesh import Mesh, mesh

from fleetmesh.settings import HttpSettings, WorkerSettings

SUITE = Path(__file__).parents[3] / "shared/suites/http1/messages.jsonl"

pytestmark = [
    pytest.mark.skipif(not SUITE.exists(), reason=f"the message suite is not at {SUITE}"),
    pytest.mark.asyncio(loop_scope="module"),
]


def messages(kind: str) -> list[dict[str, Any]]:
    if not SUITE.exists():
        return []
    lines = map(json.loads, SUITE.read_text().splitlines())
    return [message for message in lines if message["kind"] == kind]


@dataclass
class Received:
    """One request as an application reads it, with a parser as plain as can be."""

    method: bytes
    target: bytes
    fields: list[tuple[bytes, bytes]]
    body: bytes

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key.lower() == name]


@dataclass
class Application:
    """Keeps what it receives; answers 200."""

    requests: list[Received] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                lines = head[:-4].split(b"\r\n")
                method, target, version = lines[0].split(b" ")
                assert version == b"HTTP/1.1"
                fields = []
                for line in lines[1:]:
                    name, colon, value = line.partition(b":")
                    assert colon, line
                    assert re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name), line
                    assert b"\n" not in value
                    assert b"\r" not in value
                    fields.append((name, value.strip()))
                request = Received(method, target, fields, b"")
                self.requests.append(request)
                lengths = request.values(b"content-length")
                codings = request.values(b"transfer-encoding")
                if len(lengths) + len(codings) > 1:
                    self.faults.append(f"ambiguous framing: {fields}")
                if lengths:
                    request.body = await reader.readexactly(int(lengths[0]))
                elif codings:
                    assert codings == [b"chunked"]
                    while size := int(await reader.readuntil(b"\r\n"), 16):
                        request.body += await reader.readexactly(size)
                        assert await reader.readexactly(2) == b"\r\n"
                    assert await reader.readexactly(2) == b"\r\n"
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except (AssertionError, ValueError) as error:
            self.faults.append(repr(error))
        finally:
            writer.close()


SETTINGS = WorkerSettings(http=HttpSettings(head_timeout=0.5, idle_timeout=1.0))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def application() -> Application:
    return Application()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def meshed(application: Application) -> AsyncIterator[Mesh]:
    async with mesh(application, settings=SETTINGS) as running:
        yield running


async def exchange(running: Mesh, side: str, raw: bytes) -> bytes:
    """Send `raw`, keep the connection open, read until the mesh closes it or falls silent."""
    reader, writer = await (running.call() if side == "outbound" else running.call_inbound())
    writer.write(raw)
    answer = b""
    try:
        async with asyncio.timeout(3):
            while data := await reader.read(65536):
                answer += data
                if answer.count(b"HTTP/1.1 200") and answer.endswith(b"\r\n\r\n"):
                    async with asyncio.timeout(0.05):
                        answer += await reader.read(65536)
    except (TimeoutError, ConnectionError):
        pass
    writer.close()
    return answer


@pytest.mark.parametrize("side", ["outbound", "inbound"])
@pytest.mark.parametrize("message", messages("request"), ids=lambda message: message["id"])
async def test_request(
    message: dict[str, Any], side: str, meshed: Mesh, application: Application
) -> None:
    """Each grade's verdict holds, and whatever is forwarded is framed in one way only."""
    application.requests.clear()
    application.faults.clear()
    raw = base64.b64decode(message["raw"])
    answer = await exchange(meshed, side, raw)
    await asyncio.sleep(0)
    assert application.faults == []
    for request in application.requests:
        if request.values(b"transfer-encoding"):
            assert not any(
                re.fullmatch(rb"content[-_]length", name.lower()) for name, _ in request.fields
            )
    if message["grade"] == "must-reject":
        assert b" 200 " not in answer
        assert application.requests == [] or message["id"] in BROKEN_IN_THE_BODY
    elif message["grade"] == "must-forward":
        assert application.requests, answer
        same_meaning(raw.lstrip(b"\r\n"), application.requests[0])
        # One recording ends before its Content-Length does.
        assert b" 200 " in answer or b"body_timeout" in answer


HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"upgrade"}
OURS = {b"transfer-encoding", b"content-length", b"host", b"x-forwarded-client-cert"}
OURS |= {b"traceparent", b"tracestate", b"x-request-id"}


def same_meaning(raw: bytes, request: Received) -> None:
    """The first message of `raw` is `request`: method, target, fields in order, body."""
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.split(b" ")
    assert request.method == method
    assert request.target == re.sub(rb"^https?://[^/]*", b"", target)
    sent = [(name, value.strip()) for name, _, value in (line.partition(b":") for line in lines)]
    skipped = HOP_BY_HOP | OURS
    assert [one for one in request.fields if one[0].lower() not in skipped] == [
        one for one in sent if one[0].lower() not in skipped
    ]
    by_name = {name.lower(): value for name, value in sent}
    if b"host" in by_name:
        assert request.values(b"host") == [by_name[b"host"]]
    if b"content-length" in by_name:
        length = int(by_name[b"content-length"])
        assert request.body == (body[:length] if len(body) >= length else b"")
    elif b"transfer-encoding" in by_name:
        content = b""
        while size := int(re.match(rb"[0-9A-Fa-f]+", body)[0], 16):  # type: ignore[index]
            start = body.index(b"\r\n") + 2
            content += body[start : start + size]
            body = body[start + size + 2 :]
        assert request.body == content
    else:
        assert request.body == b""


# What is wrong with these stands in the chunked body: the head went on before that was known, and
# the connection to the application was cut without an end of the body.
BROKEN_IN_THE_BODY: frozenset[str] = frozenset()


class Replay:
    """Answers every request with the same bytes, then says no more."""

    def __init__(self) -> None:
        self.raw = b""

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(self.raw)
            writer.write_eof()
            await reader.read()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


# Where a proxy must judge otherwise than a parser alone.
STRICTER = {
    "llhttp/response/sample/01": "RTSP is not HTTP",
    "llhttp/response/sample/02": "ICE is not HTTP",
    "llhttp/response/sample/16": "neither is HTTP/0.9",
    "llhttp/response/transfer-encoding/01": "chunked must come last",
    "llhttp/response/transfer-encoding/02": "identity is no transfer coding any more",
    "llhttp/response/transfer-encoding/03": "an unknown transfer coding",
}
# The first message is good; what is rejected is what follows, and that is not forwarded.
GOOD_UP_TO_CLOSE = {"llhttp/response/connection/05", "llhttp/response/connection/07"}
# The head is good, the body is not, or ends too early: the client sees it end without its end.
CUT = {
    "llhttp/response/transfer-encoding/00",
    "llhttp/response/transfer-encoding/05",
    "llhttp/response/transfer-encoding/06",
    "llhttp/response/transfer-encoding/08",
}


@pytest.fixture(scope="module")
def replay() -> Replay:
    return Replay()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def replaying(replay: Replay) -> AsyncIterator[Mesh]:
    async with mesh(replay, settings=SETTINGS) as running:
        yield running


@pytest.mark.parametrize("message", messages("response"), ids=lambda message: message["id"])
async def test_response(message: dict[str, Any], replaying: Mesh, replay: Replay) -> None:
    """A legal answer reaches the client with one framing; of an illegal one, nothing does."""
    replay.raw = base64.b64decode(message["raw"])
    reader, writer = await replaying.call()
    writer.write(b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")
    answer = b""
    try:
        async with asyncio.timeout(3):
            answer = await reader.read()
    except ConnectionError:
        pass
    writer.close()
    name = message["id"]
    while (interim := re.match(rb"HTTP/1.1 1\d\d .*?\r\n\r\n", answer, re.DOTALL)) is not None:
        assert interim[0] in replay.raw
        answer = answer[interim.end() :]
    head = answer.partition(b"\r\n\r\n")[0]
    framings = re.findall(rb"(?im)^(content-length|transfer-encoding):", head)
    assert len(framings) <= 1
    if name in CUT:
        assert not answer.endswith(b"0\r\n\r\n") or answer.startswith(b"HTTP/1.1 50")
    elif name in STRICTER or (message["expect"] == "reject" and name not in GOOD_UP_TO_CLOSE):
        assert answer.startswith((b"HTTP/1.1 502 ", b"HTTP/1.1 503 ")), answer
    else:
        expected = re.search(rb"(?m)^HTTP/1.[01] +([2-5]\d\d)", replay.raw)
        assert expected is not None
        assert answer.startswith(b"HTTP/1.1 " + expected[1]), answer
