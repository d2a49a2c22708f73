"""A request is sent again where its route says so, and nowhere else."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.called import called, routes

from fleetmesh.model.traffic import Retries, Route


class Failing:
    """Fails `failures` times, with `answer`, or without one: then it drops the connection."""

    def __init__(self, failures: int, answer: bytes) -> None:
        self.left, self.answer, self.bodies = failures, answer, list[bytes]()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0] or 0)
                self.bodies.append(await reader.readexactly(length))
                failing, self.left = self.left > 0, self.left - 1
                if failing and not self.answer:
                    break
                writer.write(
                    self.answer if failing else b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
                )
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


UNAVAILABLE = b"HTTP/1.1 503 No\r\nContent-Length: 3\r\n\r\nno\n"


async def outcome(app: Failing, retries: Retries, body: bytes) -> bytes:
    """The head and the rest of the answer to one POST."""
    async with called(app=app, say=routes(Route("all", retries=retries))) as there:
        return await there.send(
            b"POST / HTTP/1.1\r\nHost: api\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )


@pytest.mark.parametrize(
    ("failures", "answer", "retries", "body", "status", "sent"),
    [
        (2, UNAVAILABLE, Retries(2, ("5xx",)), b"x" * 1000, 200, 3),
        (1, UNAVAILABLE, Retries(1, (), (503,)), b"", 200, 2),
        (9, UNAVAILABLE, Retries(2, (), (503,)), b"x", 503, 3),
        (1, UNAVAILABLE, Retries(1, (), (500,)), b"x", 503, 1),
        (1, UNAVAILABLE, Retries(), b"x", 503, 1),
        (1, UNAVAILABLE, Retries(1, ("5xx",)), b"x" * 100_000, 503, 1),
        (1, b"", Retries(1, ("gateway-error",)), b"x", 200, 2),
    ],
)
async def test_it_is_sent_as_often_as_its_route_says(
    failures: int, answer: bytes, retries: Retries, body: bytes, status: int, sent: int
) -> None:
    """Whole each time, and the client sees the last answer alone."""
    app = Failing(failures, answer)
    told = await outcome(app, retries, body)
    assert told.startswith(b"HTTP/1.1 %d " % status)
    assert told.count(b"HTTP/1.1 ") == 1
    assert app.bodies == [body] * sent
