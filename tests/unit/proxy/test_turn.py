"""An endpoint that has all that it may have: another serves, or the request waits for its turn."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections.abc import Callable
from hashlib import sha256

from msgspec.structs import replace
from tests.support.called import Called, called

from fleetmesh.model.traffic import Endpoint, Limits, Upstream

SLOW = "GET /drip?n=1&gap=0.4"
"""What an answer's head comes at once for, and its end 0.4 s later."""


def saying(limits: Limits, endpoints: int = 1) -> Callable[[Upstream], Upstream]:
    def say(api: Upstream) -> Upstream:
        (one,) = api.target.endpoints
        several = tuple(Endpoint(f"n{at}", one.address, one.port) for at in range(endpoints))
        return replace(api, target=replace(api.target, endpoints=several, limits=limits))

    return say


async def burst(there: Called, count: int) -> list[int]:
    """The statuses of so many requests at once, sorted."""
    answers = await asyncio.gather(*(there.ask(SLOW) for _ in range(count)))
    return sorted(status for status, _, _ in answers)


async def test_another_endpoint_is_tried_before_a_request_is_refused() -> None:
    limits = Limits(max_concurrent_requests=1)
    async with called(say=saying(limits, endpoints=4)) as there:
        assert await burst(there, 6) == [200] * 4 + [503] * 2


async def test_a_request_waits_for_its_turn() -> None:
    """One place for each of two endpoints, and six requests: three rounds."""
    limits = Limits(max_concurrent_requests=1, queue_wait=5.0)
    async with called(say=saying(limits, endpoints=2)) as there:
        begin = time.monotonic()
        assert await burst(there, 6) == [200] * 6
        assert time.monotonic() - begin >= 1.2


async def test_it_waits_no_longer_than_was_said() -> None:
    limits = Limits(max_concurrent_requests=1, queue_wait=0.2)
    async with called(say=saying(limits)) as there:
        begin = time.monotonic()
        answers = await asyncio.gather(*(there.ask(SLOW) for _ in range(3)))
        assert sorted(status for status, _, _ in answers) == [200, 503, 503]
        assert time.monotonic() - begin >= 0.4
        for status, fields, _ in answers:
            if status == 503:
                assert fields["x-fleetmesh-reason"] == "overflow"
                assert fields["x-fleetmesh-overloaded"] == "true"


async def test_the_line_has_an_end() -> None:
    limits = Limits(max_concurrent_requests=1, max_pending_requests=2, queue_wait=5.0)
    async with called(say=saying(limits)) as there:
        assert await burst(there, 6) == [200] * 3 + [503] * 3


async def test_a_body_is_sent_whole_when_its_turn_comes() -> None:
    limits = Limits(max_concurrent_requests=1, queue_wait=5.0)
    async with called(say=saying(limits)) as there:
        first = asyncio.ensure_future(there.ask(SLOW))
        await asyncio.sleep(0.1)
        body = b"x" * 300_000
        head = b"POST /any HTTP/1.1\r\nHost: api\r\nConnection: close\r\n"
        answer = await there.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert sha256(body).hexdigest().encode() in answer
        assert (await first)[0] == 200


async def test_whoever_goes_away_leaves_the_line() -> None:
    """Its place in it, and its turn, are the next one's."""
    limits = Limits(max_concurrent_requests=1, max_pending_requests=1, queue_wait=5.0)
    async with called(say=saying(limits)) as there:
        first = asyncio.ensure_future(there.ask(SLOW))
        await asyncio.sleep(0.1)
        _, gone = await asyncio.open_connection("127.0.0.1", there.port)
        gone.write(f"{SLOW} HTTP/1.1\r\nHost: api\r\n\r\n".encode())
        await asyncio.sleep(0.05)
        sock = gone.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.transport.abort()
        await asyncio.sleep(0.05)
        third = asyncio.ensure_future(there.ask(SLOW))
        assert (await first)[0] == (await third)[0] == 200
