from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.answers import chain, instance

from fleetmesh.edge.consul_http import ConsulError
from fleetmesh.model.report import ConnectionCount, Direction, Report
from fleetmesh.plan.answers import Instance
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.observed import Observed, WatchInstances
from fleetmesh.process import uses
from fleetmesh.process.uses import UsesKeeper
from fleetmesh.settings import OnDemandSettings, ServiceSettings, Settings

WEB = ServiceSettings(name="web", port=8080, upstreams=("declared",))
CATALOG = frozenset({"web", "declared", "api", "cart"})


class Site:
    """A keeper with what is around it: nothing asks Consul, nothing is compiled."""

    def __init__(self, **on_demand: Any) -> None:
        self.asked: list[tuple[str, int]] = []
        self.found: tuple[Instance, ...] | ConsulError = ()
        self.observer = SimpleNamespace(
            observed=Observed(catalog=CATALOG),
            failing={},
            last_contact=1.0,
            followed=frozenset(),
            follow_upstreams=self._follow,
            runs=self._runs,
        )
        settings = Settings("10.0.0.1", services=(WEB,), on_demand=OnDemandSettings(**on_demand))
        self.front = SimpleNamespace(settings=settings, snapshot=None)
        self.keeper = UsesKeeper(self, self.observer, self.front)  # type: ignore[arg-type]
        self.keeper.fit()

    def _follow(self, upstreams: frozenset[str]) -> None:
        self.observer.followed = upstreams

    def _runs(self, watch: WatchInstances) -> bool:
        return watch.query.service in self.observer.followed

    async def owners(self, address: str, port: int) -> tuple[Instance, ...]:
        self.asked.append((address, port))
        if isinstance(self.found, ConsulError):
            raise self.found
        return self.found

    def publish(self, *services: str) -> None:
        upstreams = [SimpleNamespace(service=name) for name in services]
        self.front.snapshot = SimpleNamespace(upstreams=upstreams)
        self.keeper.published(self.observer.observed)

    def see(self, **changed: Any) -> None:
        self.observer.observed = replace(self.observer.observed, **changed)


async def test_who_wants_a_service_waits_until_it_is_served() -> None:
    site = Site()
    wanting = asyncio.ensure_future(site.keeper.want("api"))
    await asyncio.sleep(0)
    assert site.observer.followed == {"web", "declared", "api"}
    site.publish("web")
    await asyncio.sleep(0)
    assert not wanting.done()
    site.publish("web", "api")
    assert await wanting
    assert await site.keeper.want("api")


async def test_what_is_not_in_the_mesh_is_not_waited_for() -> None:
    site = Site()
    assert not await site.keeper.want("nothing")
    wanting = asyncio.ensure_future(site.keeper.want("api"))
    await asyncio.sleep(0)
    site.see(instances={InstanceQuery("api"): ()})
    site.publish()
    assert not await wanting


async def test_it_waits_for_all_that_the_chain_leads_to() -> None:
    """Else the first connection would find no endpoint."""
    site = Site()
    api, subset = InstanceQuery("api"), InstanceQuery("api", "", "v == 2")
    site.see(
        datacenter="dc1",
        instances={api: (instance(),)},
        chains={"api": chain("api", Subset={"Filter": "v == 2"})},
    )
    wanting = asyncio.ensure_future(site.keeper.want("api"))
    await asyncio.sleep(0)
    site.publish("api")
    await asyncio.sleep(0)
    assert not wanting.done()
    site.see(instances={api: (instance(),), subset: ()})
    site.publish("api")
    assert await wanting


async def test_names_of_nothing_are_not_remembered() -> None:
    site = Site()
    for name in ("nobody", "v1.nobody.default.dc1", "web-sidecar-proxy"):
        site.see(datacenter="dc1")
        assert not await site.keeper.want(name)
    assert site.keeper.uses.undeclared == {}


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uses, "PATIENCE", 0.02)
    assert not await Site().keeper.want("api")


async def test_disabled_it_watches_what_is_declared_and_no_more() -> None:
    site = Site(enabled=False)
    assert not await site.keeper.want("api")
    site.publish("declared")
    assert await site.keeper.want("declared")
    assert site.observer.followed == {"web", "declared"}


async def test_an_address_is_looked_up_once_until_the_catalog_changes() -> None:
    site = Site()
    await asyncio.gather(*(site.keeper.resolve("10.0.0.9", 8000) for _ in range(3)))
    await site.keeper.resolve("10.0.0.9", 8000)
    assert site.asked == [("10.0.0.9", 8000)]
    site.see(catalog=CATALOG | {"new"})
    await site.keeper.resolve("10.0.0.9", 8000)
    assert len(site.asked) == 2


async def test_an_owner_is_wanted() -> None:
    site = Site()
    site.found = (instance(),)
    service = site.found[0].service
    assert service.proxy is not None
    address = service.address or site.found[0].node.address
    resolving = asyncio.ensure_future(site.keeper.resolve(address, service.proxy.local_port))
    await asyncio.sleep(0.01)
    assert not resolving.done()
    site.publish(service.proxy.destination)
    await resolving
    assert service.proxy.destination in site.keeper.uses.undeclared


async def test_a_consul_that_does_not_answer_is_not_asked() -> None:
    site = Site()
    site.found = ConsulError("refused")
    await site.keeper.resolve("10.0.0.9", 8000)
    await site.keeper.resolve("10.0.0.8", 8000)
    assert len(site.asked) == 1
    site = Site()
    site.observer.failing = {"roots": "refused"}
    await site.keeper.resolve("10.0.0.9", 8000)
    assert site.asked == []


async def test_a_flood_of_addresses_is_not_passed_on_to_consul() -> None:
    site = Site()
    for port in range(uses.BURST + 20):
        await site.keeper.resolve("10.0.0.9", port)
    assert uses.BURST <= len(site.asked) <= uses.BURST + 5


def report(destination: str, opened: int, active: int) -> Report:
    counts = (Direction.OUTBOUND, "web", destination, "tcp", opened, active, 0, 0)
    return Report(1, 1, connections=(ConnectionCount(*counts),))


async def test_traffic_keeps_upstreams_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site()
    keeper, now = site.keeper, site.keeper._loop.time()
    monkeypatch.setattr(uses, "PATIENCE", 0.0)
    for service in ("api", "cart"):
        await keeper.want(service)
    later = now + 1000
    monkeypatch.setattr(keeper, "_loop", SimpleNamespace(time=lambda: later))
    keeper.seen([report("api", 3, 0), report("cart", 1, 1), report("stranger", 1, 1)])
    assert keeper.uses.idle(later, 500) == ()
    assert keeper.uses.undeclared.keys() == {"api", "cart"}
    later += 1000
    keeper.seen([report("api", 3, 0), report("cart", 1, 1)])
    assert keeper.uses.idle(later, 500) == ("api",)


async def test_nothing_is_let_go_while_consul_does_not_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site()
    keeper, now = site.keeper, site.keeper._loop.time()
    monkeypatch.setattr(uses, "PATIENCE", 0.0)
    await keeper.want("api")
    monkeypatch.setattr(keeper, "_loop", SimpleNamespace(time=lambda: now + 1000))
    site.observer.failing = {"roots": "refused"}
    keeper._let_idle_go(500)
    assert keeper.uses.undeclared.keys() == {"api"}
    site.observer.failing = {}
    keeper._let_idle_go(500)
    assert not keeper.uses.undeclared


async def test_what_has_no_room_is_told() -> None:
    site = Site(max_watches=12)
    site.see(catalog=CATALOG | {"one", "two"})
    site.keeper.fit()
    assert site.keeper.problems == ()
    await asyncio.gather(*(site.keeper.want(name) for name in ("api", "cart")))
    (problem,) = site.keeper.problems
    assert "not watched is" in problem.rule
    assert len(site.observer.followed) == 3
    services = tuple(replace(WEB, name=f"s{n}") for n in range(6))
    site.front.settings = replace(site.front.settings, services=services)
    site.keeper.fit()
    assert "declared on this host takes" in site.keeper.problems[0].rule
