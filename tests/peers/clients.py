"""HTTP clients that others wrote, behind one way of asking them.

Each keeps its connections open from call to call, as far as it does that at all; curl does so
within one `exchange`.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol

import aiohttp
import pytest
import requests

NODE_PROGRAM = Path(__file__).parent / "programs/client.mjs"
PATIENCE = 15.0  # seconds for one call
PIECE = 50_000


@dataclass(frozen=True)
class Call:
    """`chunked`: the body's length is not told. `expect`: the body waits for 100 (Continue).
    `follow`: redirects are."""

    method: str
    path: str
    fields: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    chunked: bool = False
    expect: bool = False
    follow: bool = False


@dataclass(frozen=True)
class Reply:
    """`fields` have lower-case names. `continued`: a 100 came first."""

    status: int
    fields: dict[str, str]
    content: bytes
    continued: bool = False


class Client(Protocol):
    async def exchange(self, port: int, *calls: Call) -> list[Reply]:
        """One after the other, with 127.0.0.1:`port`."""


def url(port: int, call: Call) -> str:
    return f"http://127.0.0.1:{port}{call.path}"


def pieces(body: bytes) -> Iterator[bytes]:
    for at in range(0, len(body), PIECE):
        yield body[at : at + PIECE]


class Curl:
    """`patience`: seconds for a 100 before the body is sent anyway."""

    def __init__(self, version: str = "--http1.1", patience: float = PATIENCE) -> None:
        self._options = [version, "--expect100-timeout", str(patience)]
        self._options += ["--silent", "--show-error", "--max-time", str(PATIENCE)]

    async def exchange(self, port: int, *calls: Call) -> list[Reply]:
        with TemporaryDirectory() as directory:
            command = ["curl"]
            for number, call in enumerate(calls):
                folder = Path(directory) / str(number)
                folder.mkdir()
                command += ["--next"] if number else []
                command += self._arguments(url(port, call), call, folder)
            process = await asyncio.create_subprocess_exec(*command, stderr=-1)
            _, complaint = await process.communicate()
            assert process.returncode == 0, complaint.decode()
            return [self._reply(Path(directory) / str(n)) for n in range(len(calls))]

    def _arguments(self, target: str, call: Call, folder: Path) -> list[str]:
        (folder / "content").touch()
        options = [
            *self._options,
            "--dump-header",
            f"{folder}/head",
            "--output",
            f"{folder}/content",
            target,
        ]
        options += ["--head"] if call.method == "HEAD" else ["--request", call.method]
        fields = {**call.fields, "Expect": "100-continue" if call.expect else ""}
        if call.body is not None:
            (folder / "body").write_bytes(call.body)
            options += ["--data-binary", f"@{folder}/body"]
            fields["Content-Type"] = "application/octet-stream"
        if call.chunked:
            fields["Transfer-Encoding"] = "chunked"
        for name, value in fields.items():
            options += ["--header", f"{name}: {value}"]
        return options + (["--location"] if call.follow else [])

    def _reply(self, folder: Path) -> Reply:
        heads = (folder / "head").read_text().strip().split("\n\n")
        first, *lines = heads[-1].splitlines()
        fields = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        # --head repeats the heads there.
        content = (folder / "content").read_bytes().removeprefix((folder / "head").read_bytes())
        return Reply(int(first.split()[1]), fields, content, " 100 " in heads[0].splitlines()[0])


@asynccontextmanager
async def curl() -> AsyncIterator[Client]:
    present("curl")
    yield Curl()


class Requests:
    def __init__(self, session: requests.Session) -> None:
        self._session = session

    async def exchange(self, port: int, *calls: Call) -> list[Reply]:
        return await asyncio.to_thread(lambda: [self._one(port, call) for call in calls])

    def _one(self, port: int, call: Call) -> Reply:
        assert not call.expect, "requests cannot wait for a 100"
        answer = self._session.request(
            call.method,
            url(port, call),
            headers=call.fields,
            data=pieces(call.body) if call.chunked and call.body is not None else call.body,
            allow_redirects=call.follow,
            timeout=PATIENCE,
        )
        fields = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(answer.status_code, fields, answer.content)


@asynccontextmanager
async def requests_() -> AsyncIterator[Client]:
    with requests.Session() as session:
        session.trust_env = False
        yield Requests(session)


class Aiohttp:
    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def exchange(self, port: int, *calls: Call) -> list[Reply]:
        return [await self._one(port, call) for call in calls]

    async def _one(self, port: int, call: Call) -> Reply:
        async def gradually(body: bytes) -> AsyncIterator[bytes]:
            for piece in pieces(body):
                yield piece

        async with self._session.request(
            call.method,
            url(port, call),
            headers=call.fields,
            data=gradually(call.body) if call.chunked and call.body is not None else call.body,
            expect100=call.expect,
            allow_redirects=call.follow,
        ) as answer:
            fields = {name.lower(): value for name, value in answer.headers.items()}
            # It sends no body before the 100, so that the body arrived is what tells.
            return Reply(answer.status, fields, await answer.read(), continued=call.expect)


@asynccontextmanager
async def aiohttp_() -> AsyncIterator[Client]:
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        yield Aiohttp(session)


class Node:
    """`kind` is `fetch` or `http`."""

    def __init__(self, kind: str, process: asyncio.subprocess.Process) -> None:
        self._kind = kind
        self._process = process
        self._numbers = itertools.count()
        self._replies: dict[int, dict[str, Any]] = {}
        self._reading = asyncio.Lock()

    async def exchange(self, port: int, *calls: Call) -> list[Reply]:
        return [await self._one(port, call) for call in calls]

    async def _one(self, port: int, call: Call) -> Reply:
        assert self._process.stdin is not None
        number = next(self._numbers)
        body = None if call.body is None else base64.b64encode(call.body).decode()
        asked: dict[str, Any] = {
            **call.__dict__,
            "number": number,
            "client": self._kind,
            "url": url(port, call),
            "body": body,
        }
        self._process.stdin.write(json.dumps(asked).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            answer = await self._answer(number)
        assert "error" not in answer, answer["error"]
        return Reply(**{**answer, "content": base64.b64decode(answer["content"])})

    async def _answer(self, number: int) -> dict[str, Any]:
        """Who waits reads for all."""
        assert self._process.stdout is not None
        async with self._reading:
            while number not in self._replies:
                answer = json.loads(await self._process.stdout.readline())
                self._replies[answer.pop("number")] = answer
        return self._replies.pop(number)


@asynccontextmanager
async def node(kind: str) -> AsyncIterator[Client]:
    process = await asyncio.create_subprocess_exec(
        *(present("node"), NODE_PROGRAM), stdin=-1, stdout=-1, limit=1 << 24
    )
    try:
        yield Node(kind, process)
    finally:
        process.kill()
        await process.wait()


def present(program: str) -> str:
    """Its path. The test is skipped where it is not installed."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed: `make test` installs it")
    return found


CLIENTS: dict[str, Callable[[], AbstractAsyncContextManager[Client]]] = {
    "curl": curl,
    "requests": requests_,
    "aiohttp": aiohttp_,
    "node-fetch": lambda: node("fetch"),
    "node-http": lambda: node("http"),
}
EXPECTING = ("curl", "aiohttp", "node-http")
"""Clients that can wait for 100 (Continue)."""
FOLLOWING = ("curl", "requests", "aiohttp", "node-fetch")
"""Clients that follow redirects."""
