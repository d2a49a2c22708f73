"""Rates and adaptive concurrency: what a caller is told, and what its sidecar makes of it."""

from __future__ import annotations

import asyncio

from msgspec.structs import replace
from tests.support.called import called
from tests.support.worker import local_service

from fleetmesh.model.traffic import Match, RateLimit, Retries, Route, Upstream

API = local_service("api", 1, None)
AGAIN = Retries(5, ("5xx", "gateway-error"), (429, 503))


def retrying(api: Upstream) -> Upstream:
    return replace(api, routes=(Route("all", retries=AGAIN),))


async def test_a_request_beyond_the_rate_is_told_which_and_until_when() -> None:
    """The caller's sidecar passes the answer on as it came; others have their own limit."""
    limits = (
        RateLimit("/search*", 0.5, 2, Match(path_prefix="/search")),
        RateLimit("caller", 100.0, 3, per_caller=True),
    )
    async with called(replace(API, rate_limits=limits)) as there:
        answers = [await there.ask("GET /search?q=1") for _ in range(3)]
        assert [status for status, _, _ in answers] == [200, 200, 429]
        _, fields, content = answers[-1]
        assert b'"reason": "rate_limited"' in content
        assert fields["retry-after"] == "2"
        assert fields["ratelimit-policy"] == '"/search*";q=2;w=4'
        assert fields["ratelimit"] == '"/search*";r=0;t=2'
        assert "x-fleetmesh-overloaded" not in fields
        burst = await asyncio.gather(*(there.ask("GET /any") for _ in range(20)))
        named = {told.get("ratelimit", "") for status, told, _ in burst if status == 429}
        assert named == {'"caller";r=0;t=1'}


class Slow:
    """An application that is asked, and does not answer before it may."""

    def __init__(self) -> None:
        self.asked = 0
        self.may = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                self.asked += 1
                await self.may.wait()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def test_what_is_too_much_is_refused_at_once_and_neither_retried_nor_ejected_for() -> None:
    app = Slow()
    adaptive = replace(API, adaptive_concurrency=True)
    async with called(adaptive, app=app, say=retrying) as there:
        asked = [asyncio.ensure_future(there.ask("GET /any")) for _ in range(60)]
        done, waiting = await asyncio.wait(asked, timeout=3)
        answers = [task.result() for task in done]
        assert {status for status, _, _ in answers} == {503}
        for _, fields, _ in answers:
            assert fields["x-fleetmesh-reason"] == "overloaded"
            assert fields["x-fleetmesh-overloaded"] == "true"
            assert fields["retry-after"] == "1"
        assert app.asked == len(waiting) == 8, "of ten places, two are for what is under way"
        trace = "traceparent: 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        urgent = [asyncio.ensure_future(there.ask("GET /any", trace)) for _ in range(4)]
        refused, placed = await asyncio.wait(urgent, timeout=2)
        assert (len(refused), len(placed)) == (2, 2)
        app.may.set()
        assert [(await task)[0] for task in (*waiting, *placed)] == [200] * 10
        report = await there.caller.report()
        assert not report.retries
        assert not report.ejections
