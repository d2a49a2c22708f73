"""web calls api through two workers; api can do `CAPACITY` requests a second, and gets more."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from msgspec.structs import replace
from tests.bench.running import favoured
from tests.support.ca import Authority
from tests.support.worker import (
    WorkerProcess,
    inbound,
    listening,
    local_service,
    outbound,
    port_of,
    snapshot,
    upstream,
)

from fleetmesh.settings import WorkerSettings

PLACES = 4
SECONDS = 0.2
CAPACITY = PLACES / SECONDS
PATIENCE = 1.0
"""Seconds after which an answer is no good any more."""
WARM = 5.0
QUIET = WorkerSettings(log_level="error")


@dataclass(frozen=True)
class Outcome:
    """`stretches` are good answers a second in each part of the run, latencies are seconds of those
    that were let in; `normal` at half of the capacity."""

    normal: float
    asked: int
    statuses: dict[str, int]
    stretches: list[float]
    median: float
    p99: float
    within: float

    @property
    def row(self) -> str:
        told = " ".join(f"{rate / CAPACITY:4.0%}" for rate in self.stretches)
        others = ", ".join(f"{count} x {code}" for code, count in sorted(self.statuses.items()))
        return (
            f"{self.normal * 1e3:4.0f} ms | {self.median / self.normal:5.1f} | "
            f"{self.p99 / self.normal:5.1f} | {told} | {others}"
        )


async def trial(adaptive: bool, times: float, seconds: float, stretch: float) -> Outcome:
    """`times` its capacity for so many seconds."""
    async with _mesh(adaptive) as port:
        calm = await _load(port, CAPACITY / 2, WARM)
        normal = _quantile([took for _, took in calm["good"]], 0.5)
        found = await _load(port, times * CAPACITY, seconds)
    good = found["good"]
    took = [latency for _, latency in good] or [float("inf")]
    stretches = []
    for number in range(int(seconds / stretch)):
        begin, end = number * stretch, (number + 1) * stretch
        # By when it was answered: the run's end has those that are under way yet.
        answers = sum(begin <= due + late < end and late <= PATIENCE for due, late in good)
        stretches.append(answers / stretch)
    return Outcome(
        normal,
        found["asked"],
        found["statuses"],
        stretches,
        _quantile(took, 0.5),
        _quantile(took, 0.99),
        sum(late <= 3 * normal for late in took) / len(took),
    )


def _quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


async def _load(port: int, rate: float, seconds: float) -> Any:
    command = [sys.executable, "-m", "tests.overload.load", str(port), str(rate), str(seconds)]
    with favoured():
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
    return json.loads(out)


async def _end(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.communicate()


@asynccontextmanager
async def _mesh(adaptive: bool) -> AsyncIterator[int]:
    """The port of web's calls to api."""
    authority, out, side = Authority(), listening(), listening()
    command = [sys.executable, "-m", "tests.overload.application", str(PLACES), str(SECONDS)]
    async with AsyncExitStack() as stack:
        application = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        stack.push_async_callback(_end, application)
        assert application.stdout is not None
        port = int(await application.stdout.readline())
        caller = await stack.enter_async_context(WorkerProcess(0, QUIET))
        callee = await stack.enter_async_context(WorkerProcess(1, QUIET))
        api = replace(
            local_service("api", port, authority.leaf("api")), adaptive_concurrency=adaptive
        )
        web = local_service("web", 1, authority.leaf("web"))
        what = snapshot(authority, (web, api), (upstream("api", port_of(side)),))
        assert not (await callee.publish(what, {inbound("api"): side})).error
        assert not (await caller.publish(what, {outbound("web", "api"): out})).error
        yield port_of(out)
    out.close()
    side.close()
