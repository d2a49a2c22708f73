"""Virtual addresses agreed in a real Consul's KV, and names of a real agent's mesh."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import dns.message
import dns.query
import dns.rcode
import pytest
from tests.support.agent import agent, inside
from tests.support.consul import ConsulServer, free_ports, running_consul
from tests.support.netns import Netns, needs_root, netns

from fleetmesh.edge.consul import ConsulClient
from fleetmesh.plan.answers import Instance, Node, ServiceInstance, TaggedAddress
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.observed import Observed
from fleetmesh.plan.virtual import KV_PREFIX, both, candidates
from fleetmesh.process import naming, stand_in
from fleetmesh.process.front import Front
from fleetmesh.process.naming import Naming
from fleetmesh.process.sockets import Sockets
from fleetmesh.settings import DnsSettings, Settings

pytestmark = pytest.mark.consul
PATIENCE = 10.0


def observing(*services: str) -> Observed:
    return Observed(
        catalog=frozenset(services),
        instances={
            InstanceQuery(name): (Instance(Node("n"), ServiceInstance(name, name)),)
            for name in services
        },
    )


async def served(_: str) -> bool:
    return True


class One:
    """A host's naming."""

    def __init__(self, address: str, observed: Observed, **dns: Any) -> None:
        settings = Settings("192.0.2.1", dns=DnsSettings(port=free_ports(1)[0], **dns))
        self.front = SimpleNamespace(settings=settings, sockets=Sockets({}), snapshot=None)
        self.client = ConsulClient(address)
        self.observed = observed
        self.naming = Naming(
            self.client, cast(Front, self.front), lambda: self.observed, lambda: None, served
        )

    def virtual(self) -> dict[str, tuple[str, ...]]:
        return self.naming.named(self.observed).virtual

    async def has(self, condition: Callable[[], bool]) -> None:
        deadline = asyncio.get_running_loop().time() + PATIENCE
        while not condition():
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.02)


Making = Callable[..., Any]


@pytest.fixture
async def host() -> AsyncIterator[Making]:
    made: list[One] = []

    async def make(address: str, observed: Observed, **dns: Any) -> One:
        one = One(address, observed, **dns)
        made.append(one)
        await one.naming.start()
        return one

    yield make
    for one in made:
        await one.naming.close()
        await one.client.close()


def first(service: str) -> tuple[str, ...]:
    return both(next(candidates(service)))


async def test_hosts_agree_on_addresses(consul_server: ConsulServer, host: Making) -> None:
    """Also on those whose first choice another service holds, and from whichever begins."""
    names = [f"agreed-{number}" for number in range(20)]
    contested, second = list(candidates(names[0]))[:2]
    consul_server.call("DELETE", f"/v1/kv/{KV_PREFIX}?recurse")
    assert await asyncio.to_thread(
        consul_server.put, f"/v1/kv/{KV_PREFIX}{contested}?cas=0", "somebody"
    )
    hosts = [await host(consul_server.address, observing(*names)) for _ in range(3)]
    for one in hosts:
        assert one.virtual() == {}
    for one in hosts:
        await one.has(lambda one=one: len(one.virtual()) == len(names))
    assert hosts[0].virtual() == hosts[1].virtual() == hosts[2].virtual()
    assert hosts[0].virtual()[names[0]] == both(second)
    assert hosts[0].virtual()[names[1]] == first(names[1])
    assert not any(one.naming.problems for one in hosts)
    keys = await asyncio.to_thread(consul_server.get, f"/v1/kv/{KV_PREFIX}?keys")
    assert len(keys) == len(names) + 1


async def test_consuls_own_address_needs_no_agreement(
    consul_server: ConsulServer, host: Making
) -> None:
    tagged = {"consul-virtual": TaggedAddress("240.0.0.9", 20000)}
    instance = Instance(Node("n"), ServiceInstance("given", "given", tagged_addresses=tagged))
    observed = Observed(
        catalog=frozenset({"given"}), instances={InstanceQuery("given"): (instance,)}
    )
    one = await host(consul_server.address, observed)
    assert one.virtual() == {"given": both("240.0.0.9")}


async def test_without_the_kv_the_derived_address_counts_and_a_problem_says_so(
    consul_server: ConsulServer, host: Making, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(naming, "RETRY", 0.05)
    one = await host("http://127.0.0.1:1", observing("alone"))
    assert one.virtual() == {}
    await one.has(lambda: bool(one.naming.problems))
    assert one.virtual() == {"alone": first("alone")}
    (problem,) = one.naming.problems
    assert "1 services are not agreed upon" in str(problem)
    assert 'key_prefix "fleetmesh/virtual-ips/" { policy = "write" }' in str(problem)
    good = ConsulClient(consul_server.address)
    monkeypatch.setattr(one.naming, "_client", good)
    await one.has(lambda: one.virtual() == {"alone": first("alone")} and not one.naming.problems)
    await good.close()


async def test_a_taken_port_is_a_problem_and_nothing_is_captured(
    consul_server: ConsulServer, host: Making
) -> None:
    one = await host(consul_server.address, observing())
    other = One(consul_server.address, observing())
    other.front.settings = one.front.settings
    other.naming = Naming(other.client, cast(Front, other.front), observing, lambda: None, served)
    await other.naming.start()
    assert one.naming.port == one.front.settings.dns.port
    assert other.naming.port is None
    assert "DNS is not captured" in str(other.naming.problems[0])
    await other.naming.close()
    await other.client.close()


async def test_disabled_there_is_nothing(consul_server: ConsulServer, host: Making) -> None:
    one = await host(consul_server.address, observing("off"), enabled=False)
    assert one.naming.port is None
    assert one.virtual() == {}


@pytest.fixture
def space() -> Iterator[Netns]:
    with netns("naming") as space, inside(space.name):
        yield space


@pytest.fixture
def consul(space: Netns, tmp_path: Path) -> Iterator[ConsulServer]:
    with running_consul(tmp_path / "consul") as server:
        yield server


def lookup(space: Netns, name: str, *, tcp: bool = False) -> tuple[str, list[str]]:
    """What a service's user is told: the code and the addresses."""
    query = dns.message.make_query(name, "A")
    how = dns.query.tcp if tcp else dns.query.udp
    answer = space.call(how, query, "127.0.0.53", PATIENCE, uid=1)
    found = [str(record) for rrset in answer.answer for record in rrset]
    return dns.rcode.to_text(answer.rcode()), found


@needs_root
def test_an_agent_answers_for_its_mesh_and_after_consul_is_gone(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    """The query of the service's user goes to a nameserver that is not even there."""
    with agent(tmp_path / "agent", consul={"address": consul.address}) as mesh:
        mesh.declare("web", 8080, user="daemon", protocol="http")
        mesh.declare("api", 8000, user="games", protocol="http")
        mesh.start()

        def asked(name: str) -> tuple[str, list[str]]:
            return lookup(space, name)

        mesh.eventually(lambda: asked("api.mesh")[0] == "NOERROR", "api.mesh")
        expected = ("NOERROR", [next(candidates("api"))])
        assert asked("api.mesh") == expected
        assert asked("api.virtual.consul") == expected
        assert asked("nobody.mesh") == ("NXDOMAIN", [])
        upstreams = {u["service"]: u for u in mesh.status()["upstreams"]}
        assert upstreams["api"]["virtual_addresses"] == list(first("api"))
        page = mesh.page("/metrics")[1]
        assert 'fleetmesh_dns_queries_total{kind="mesh",result="NXDOMAIN"} 1.0' in page

        consul.stop()
        assert asked("api.mesh") == expected
        assert mesh.stop() == 0
        assert {"dns4.udp", "dns4.tcp"} <= mesh.manager.stored.keys()
        mesh.start()
        assert asked("api.mesh") == expected
        assert mesh.stop() == 0


@needs_root
def test_dns_is_answered_while_no_agent_runs(
    space: Netns, consul: ConsulServer, tmp_path: Path
) -> None:
    """Over a restart whose second half takes its time: what is known at once, what nobody knows
    once there is somebody to find out."""
    with agent(tmp_path / "agent", consul={"address": consul.address}) as mesh:
        mesh.declare("api", 8000, user="daemon", protocol="http")
        mesh.start()
        mesh.eventually(lambda: lookup(space, "api.mesh")[0] == "NOERROR", "api.mesh")
        expected = ("NOERROR", [next(candidates("api"))])
        took: list[float] = []
        stop = threading.Event()

        def ask_on() -> None:
            while not stop.is_set():
                began = time.monotonic()
                for tcp in (False, True):
                    assert lookup(space, "api.mesh", tcp=tcp) == expected
                took.append(time.monotonic() - began)
                time.sleep(0.02)

        with ThreadPoolExecutor() as pool:
            asking = pool.submit(ask_on)
            try:
                assert mesh.process is not None
                mesh.process.send_signal(signal.SIGWINCH)
                assert mesh.stop() == 0
                unknown = pool.submit(lookup, space, "nobody.mesh")
                time.sleep(1.5)
                assert not unknown.done()
                assert stand_ins(mesh.manager.path)
                mesh.start()
                assert unknown.result() == ("SERVFAIL", [])
                assert lookup(space, "nobody.mesh") == ("NXDOMAIN", [])
                mesh.eventually(lambda: not stand_ins(mesh.manager.path), "the stand-in's end")
                time.sleep(0.2)
            finally:
                stop.set()
            asking.result()
        assert len(took) > 50
        assert max(took) < 0.7
        assert mesh.stop() == 0
        assert not stand_ins(mesh.manager.path)


def stand_ins(notify_socket: Path) -> list[int]:
    """Those of the agent with that manager."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            command = (process / "cmdline").read_bytes()
            environment = (process / "environ").read_bytes()
        except OSError:
            continue
        if stand_in.MODULE.encode() in command and str(notify_socket).encode() in environment:
            found.append(int(process.name))
    return found
