"""Messages that others wrote to trip HTTP/1.1 implementations, through both sides of the mesh.

What becomes of each grade is shown as a table at the end of the run; docs/http.md says why.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from tests.support.evidence import tally
from tests.support.http_meaning import (
    received_answer,
    received_request,
    sent_answer,
    sent_request,
)
from tests.support.http_reader import End, Message, read_answers, read_requests
from tests.support.mesh import Mesh, mesh
from tests.support.recorder import Recorder

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


# What Host says of a request without one.
HOSTS = {"outbound": b"api", "inbound": b"localhost"}
SETTINGS = WorkerSettings(http=HttpSettings(head_timeout=0.5, idle_timeout=1.0))
REFUSAL = re.compile(rb"HTTP/1\.1 [45]\d\d [^\r]+\r\n(?:.*\r\n)*?x-fleetmesh-reason: (\w+)\r\n")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def application() -> Recorder:
    return Recorder()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def meshed(application: Recorder) -> AsyncIterator[Mesh]:
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
    message: dict[str, Any], side: str, meshed: Mesh, application: Recorder
) -> None:
    """Each grade's verdict holds, and whatever is forwarded is read in one way only."""
    application.clear()
    raw = base64.b64decode(message["raw"])
    answer = await exchange(meshed, side, raw)
    forwarded = application.whole()
    refusal = REFUSAL.search(answer)
    assert application.garbled() == []
    assert forwarded or refusal, "neither forwarded nor refused"
    grade, row = message["grade"], f"{message['grade']}, {side}"
    outcome = "forwarded" if forwarded else "cut" if application.cut() else "rejected"
    tally("requests", row, "total", outcome)
    if grade == "must-reject":
        assert forwarded == ()
        assert b" 200 " not in answer
        assert refusal is not None
        assert b"\r\nConnection: close\r\n" in answer
    elif grade == "must-forward":
        client = read_requests(raw)
        ours = [sent_request(one, HOSTS[side]) for one in client.messages]
        arrived = [received_request(one) for one in (*forwarded, *application.cut())]
        assert len(arrived) == 1
        if client.end is not End.PARTIAL_BODY:
            assert forwarded
            assert arrived[0] == ours[0]
            assert b" 200 " in answer
        else:  # one recording ends before its Content-Length does
            assert refusal is not None
            assert refusal[1] == b"body_timeout"
    elif grade == "reject-or-single-safe-framing":
        assert_safe(raw, forwarded, HOSTS[side])
        assert refusal or len(forwarded) == 1
        tally("requests", row, "safe")
    else:
        why = read_requests(raw).why.partition(":")[0]
        reason = f": {why or refusal[1].decode()}" if refusal else ""
        tally("record-only requests", f"{outcome}{reason}", side)


def assert_safe(raw: bytes, forwarded: tuple[Message, ...], default_host: bytes) -> None:
    """One framing, no look-alike of a field that frames, and what the client's own bytes say by
    that framing; if anything follows that says nothing, it was not forwarded."""
    client = read_requests(raw).messages
    assert len(forwarded) <= len(client)
    for ours, theirs in zip(client, forwarded, strict=False):
        names = [name.lower().replace(b"_", b"-") for name, _ in theirs.fields]
        assert names.count(b"content-length") + names.count(b"transfer-encoding") <= 1
        assert received_request(theirs) == sent_request(ours, default_host)


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


REQUEST = b"GET / HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n"


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
    writer.write(REQUEST)
    answer = b""
    try:
        async with asyncio.timeout(3):
            answer = await reader.read()
    except ConnectionError:
        pass
    writer.close()
    name = message["id"]
    made_here = REFUSAL.match(_finals(answer)) is not None
    got = read_answers(answer, [b"GET"], ended=True)
    assert not got.rest
    tally("responses", f"expected to {message['expect']}", "total")
    if name in CUT:
        # Refused where it was seen in time, else the client misses the end.
        assert made_here or not got.messages[-1].whole
        outcome = "refused" if made_here else "cut off"
    elif name in STRICTER or (message["expect"] == "reject" and name not in GOOD_UP_TO_CLOSE):
        assert made_here, answer
        outcome = "refused"
    else:
        assert not made_here, answer
        given = read_answers(replay.raw, [b"GET"], ended=True, empty_lines=True)
        asked = read_requests(REQUEST).messages[0]
        ours = [sent_answer(one, asked) for one in given.messages]
        assert ours
        assert [received_answer(one) for one in got.messages] == ours
        outcome = "relayed"
    tally("responses", f"expected to {message['expect']}", outcome)


def _finals(answer: bytes) -> bytes:
    """`answer` without interim answers."""
    return re.sub(rb"\A(?:HTTP/1.1 1\d\d (?s:.*?)\r\n\r\n)*", b"", answer)
