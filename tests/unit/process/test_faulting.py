"""The life of injected faults in the controller."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from msgspec.structs import replace
from tests.unit.plan.test_explain import api, snapshot

from fleetmesh.model.fault import Fault, Order, Permission
from fleetmesh.model.problem import Problem
from fleetmesh.model.report import FaultCount, Report
from fleetmesh.process.faulting import FaultKeeper
from fleetmesh.process.front import Front
from fleetmesh.settings import ServiceSettings, Settings

ORDER = Order("api", 5.0, delay=2.0, why="tests")


class Site:
    """A keeper with what it stands on. `published` are the faults each time."""

    def __init__(self) -> None:
        services = (ServiceSettings("web", 8080, user="web"),)
        settings = Settings(address="192.0.2.1", services=services)
        self.front: Any = SimpleNamespace(settings=settings, snapshot=snapshot(api()), faults=())
        self.permission = Permission("api", ("web",))
        self.published: list[tuple[Fault, ...]] = []
        self.keeper = FaultKeeper(
            cast("Front", self.front), lambda _key: self.permission, self._publish
        )

    async def _publish(self) -> None:
        self.published.append(self.front.faults)

    async def inject(self, order: Order = ORDER) -> Fault:
        fault = await self.keeper.inject(order, "root (uid 0)")
        assert isinstance(fault, Fault), fault
        return fault


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    site = Site()
    yield site
    await site.keeper.close()


def events(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    fields = [record.fields for record in caplog.records if hasattr(record, "fields")]
    return [(one["event"], one["by"]) for one in fields]


async def test_it_is_published_logged_and_cleared(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = await site.inject(), await site.inject(replace(ORDER, delay=0.0, abort=503))
    assert one.id != two.id
    assert site.published == [(one,), (one, two)]
    report = Report(1, 1, faults=(FaultCount(one.id, "web", "api", "delay", 3),))
    shown = site.keeper.statuses((report, report))
    assert [(status.struck, status.by, status.why) for status in shown] == [
        (6, "root (uid 0)", "tests"),
        (0, "root (uid 0)", "tests"),
    ]
    assert 590 < shown[0].seconds_left <= 600
    assert await site.keeper.clear("unknown", "me") == []
    assert await site.keeper.clear(one.id, "me") == [one.id]
    assert await site.keeper.clear("", "me") == [two.id]
    assert site.published[2:] == [(two,), ()]
    assert events(caplog) == [
        ("fault_injected", "root (uid 0)"),
        ("fault_injected", "root (uid 0)"),
        ("fault_ended", "me"),
        ("fault_ended", "me"),
    ]
    assert "for 600 s by root (uid 0): tests" in caplog.messages[0]
    assert "5 % of the requests from web to api are delayed by 2s" in caplog.messages[0]


async def test_a_refused_one_is_logged_and_nothing_is_published(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.permission = Permission("api")
    (problem,) = await site.keeper.inject(ORDER, "me")  # type: ignore[misc]
    assert isinstance(problem, Problem)
    site.front.snapshot = None
    assert isinstance(await site.keeper.inject(ORDER, "me"), list)
    assert site.published == []
    assert events(caplog) == [("fault_refused", "me"), ("fault_refused", "me")]


async def test_it_ends_by_itself(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    first, second = await site.inject(replace(ORDER, seconds=1.0)), await site.inject()
    async with asyncio.timeout(5):
        while len(site.published) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    assert site.published[-1] == (second,)
    assert f"fault {first.id} has ended, its time is over" in caplog.messages[-1]


async def test_it_ends_with_its_permission(site: Site) -> None:
    await site.inject()
    site.keeper.fit()
    await asyncio.sleep(0)
    assert len(site.published) == 1
    site.permission = Permission("api", ("other",))
    site.keeper.fit()
    await asyncio.sleep(0.01)
    assert site.published[1:] == [()]


async def test_an_agent_that_stops_says_so(caplog: pytest.LogCaptureFixture) -> None:
    site = Site()
    await site.inject()
    await site.keeper.close()
    assert "has ended, the agent stops" in caplog.messages[-1]
    assert site.front.faults == ()
