"""A callee that fails everything gets little more than its callers ask for, whatever routes say."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.support.called import Called, called, routes

from fleetmesh.model.traffic import Retries, Route
from fleetmesh.settings import OutlierSettings, UpstreamSettings

DEMAND = 2000
CALLERS = 40
FIVE = Route("all", retries=Retries(5, ("5xx", "connect-failure", "reset"), (500, 502, 503)))
NEVER = OutlierSettings(consecutive_5xx=0, consecutive_gateway=0, consecutive_unanswered=0)


class Failing:
    """Answers with `answer`, or closes the connection where there is none."""

    def __init__(self, answer: bytes) -> None:
        self.answer, self.asked = answer, 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                if not self.answer:
                    break
                writer.write(self.answer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def demand(there: Called, count: int) -> int:
    """How many of so many requests on one connection were failed."""
    reader, writer = await asyncio.open_connection("127.0.0.1", there.port)
    failed = 0
    for _ in range(count):
        writer.write(b"GET / HTTP/1.1\r\nHost: api\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        failed += head.startswith(b"HTTP/1.1 5")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        await reader.readexactly(length)
    writer.close()
    return failed


@pytest.mark.parametrize(
    ("status", "floor"), [(b"503", 0), (b"500", 3)], ids=["503", "500, by default"]
)
async def test_a_retry_storm_does_not_happen(status: bytes, floor: int) -> None:
    """What is sent again whatever is asked, `floor` a second, matters for callers of few requests
    alone; it comes on top."""
    app = Failing(b"HTTP/1.1 " + status + b" No\r\nContent-Length: 3\r\n\r\nno\n")
    keep = UpstreamSettings(outlier=NEVER, min_retries_per_second=floor)
    async with called(app=app, keep=keep, say=routes(FIVE)) as there:
        begin = time.monotonic()
        async with asyncio.timeout(120):
            failed = await asyncio.gather(
                *(demand(there, DEMAND // CALLERS) for _ in range(CALLERS))
            )
        seconds = time.monotonic() - begin
        assert sum(failed) == DEMAND
        (told,) = (await there.caller.report()).retries
        assert app.asked == DEMAND + told.count
        print(f"{app.asked / DEMAND:.3f} times the demand; {told.spared} retries were not sent")
        assert app.asked > DEMAND, "there were retries"
        assert app.asked <= 1.25 * DEMAND + floor * seconds
