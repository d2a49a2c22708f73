"""The typed client against a real Consul server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import pytest
from tests.support.consul import ConsulServer, free_ports

from fleetmesh.edge import consul
from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.consul_http import ConsulError, ConsulHttp
from fleetmesh.plan.chain import InstanceQuery

pytestmark = pytest.mark.consul

SIDECAR = {
    "Kind": "connect-proxy",
    "ID": "api-sidecar-proxy",
    "Name": "api-sidecar-proxy",
    "Port": 21000,
    "Meta": {"version": "v1"},
    "Proxy": {"DestinationServiceName": "api", "LocalServicePort": 8000},
    "Checks": [{"CheckID": "beat", "Name": "beat", "TTL": "30s"}],
}


@pytest.fixture
async def client(consul_server: ConsulServer) -> AsyncIterator[ConsulClient]:
    client = ConsulClient(consul_server.address)
    yield client
    await client.close()


async def test_agent_names_its_node_and_datacenter(client: ConsulClient) -> None:
    config = (await client.agent_self()).config
    assert (config.node, config.datacenter, config.version) == ("test", "dc1", "1.8.7")


async def test_leaf_is_signed_for_the_service(client: ConsulClient) -> None:
    roots = (await client.roots()).value
    leaf = (await client.leaf("api")).value
    assert leaf.uri == f"spiffe://{roots.trust_domain}/ns/default/dc/dc1/svc/api"
    assert "PRIVATE KEY" in leaf.key
    assert leaf.key not in repr(leaf)


async def test_registration_heartbeat_and_deregistration(client: ConsulClient) -> None:
    query = InstanceQuery("api")
    await client.register(SIDECAR)
    await client.beat("beat")
    (instance,) = (await client.instances(query)).value
    assert instance.service.proxy is not None
    assert instance.service.proxy.local_port == 8000
    assert {check.status for check in instance.checks or ()} == {"passing"}
    await client.register({**SIDECAR, "Checks": []})
    assert "beat" not in await client.agent_checks()
    with pytest.raises(ConsulError) as unknown:
        await client.beat("beat")
    assert unknown.value.status in {404, 500}
    await client.deregister("api-sidecar-proxy")
    await client.deregister("api-sidecar-proxy")
    assert await client.agent_services() == {}


async def test_query_blocks_until_something_changes(client: ConsulClient) -> None:
    before = await client.catalog()
    began = time.monotonic()
    blocked = asyncio.ensure_future(client.catalog(before.index))
    await asyncio.sleep(0.3)
    assert not blocked.done()
    await client.register({"ID": "new", "Name": "new", "Port": 1})
    after = await asyncio.wait_for(blocked, 5)
    assert time.monotonic() - began < 5
    assert after.index > before.index
    assert "new" in after.value
    await client.deregister("new")


async def test_filter_is_applied_to_the_sidecar(client: ConsulClient) -> None:
    await client.register(SIDECAR)
    matching = InstanceQuery("api", "", 'Service.Meta.version == "v1"')
    other = InstanceQuery("api", "", 'Service.Meta.version == "v2"')
    assert len((await client.instances(matching)).value) == 1
    assert (await client.instances(other)).value == ()
    await client.deregister("api-sidecar-proxy")


async def test_default_policy_is_probed_on_a_server_that_does_not_tell(
    client: ConsulClient,
) -> None:
    assert (await client.intentions()).default_allow is None
    assert await client.intention_allowed("nobody", "nothing") is True


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (InstanceQuery("api", "", "=== nonsense"), "expression evaluator"),
        (InstanceQuery("api", "", "Service.Bogus == x"), "is not valid"),
        (InstanceQuery("api", "elsewhere"), "No path to datacenter"),
    ],
)
async def test_query_that_consul_refuses_is_answered_with_its_words(
    client: ConsulClient, query: InstanceQuery, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, and not asked again before a pause."""
    monkeypatch.setattr(consul, "REFUSED_PAUSE", 0.3)
    first = await client.instances(query)
    assert (first.value, first.index) == ((), 1)
    assert words in first.refusal
    began = time.monotonic()
    assert await client.instances(query, first.index) == first
    assert time.monotonic() - began >= 0.3


async def test_mesh_gateways_are_found_by_their_kind(client: ConsulClient) -> None:
    query = InstanceQuery("mesh-gateway", gateway=True)
    await client.register({"ID": "impostor", "Name": "mesh-gateway", "Port": 1})
    await client.register(
        {"ID": "gateway", "Name": "mesh-gateway", "Kind": "mesh-gateway", "Port": 8443}
    )
    assert [one.service.id for one in (await client.instances(query)).value] == ["gateway"]
    await client.deregister("gateway")
    await client.deregister("impostor")


async def test_defaults_are_listed_and_block(
    client: ConsulClient, consul_server: ConsulServer
) -> None:
    before = await client.service_defaults()
    assert (before.value, (await client.proxy_defaults()).value) == ((), ())
    blocked = asyncio.ensure_future(client.service_defaults(before.index))
    consul_server.put(
        "/v1/config", {"Kind": "proxy-defaults", "Name": "global", "Config": {"a": {"b": 1}}}
    )
    consul_server.put("/v1/config", {"Kind": "service-defaults", "Name": "api", "Protocol": "http"})
    assert [one.name for one in (await asyncio.wait_for(blocked, 5)).value] == ["api"]
    (everywhere,) = (await client.proxy_defaults()).value
    assert everywhere.config == {"a": {"b": 1}}


@pytest.mark.parametrize("status", [403, 404])
async def test_defaults_that_may_not_be_read_are_none(
    client: ConsulClient, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Any other error stays one."""
    refusals = [ConsulError("not that", status), ConsulError("broken", 500)]

    async def refuse(*_args: object) -> None:
        raise refusals.pop(0)

    monkeypatch.setattr(ConsulHttp, "rows", refuse)
    answer = await client.service_defaults()
    assert (answer.value, answer.refusal) == ((), "not that")
    with pytest.raises(ConsulError, match="broken"):
        await client.proxy_defaults()


async def test_nobody_listening_is_an_error_without_status() -> None:
    client = ConsulClient(f"http://127.0.0.1:{free_ports(1)[0]}")
    with pytest.raises(ConsulError) as unreachable:
        await client.catalog()
    assert unreachable.value.status == 0
    await client.close()


async def test_servers_without_acls_accept_any_token(consul_server: ConsulServer) -> None:
    client = ConsulClient(consul_server.address, "anything")
    await client.check_token()
    await client.close()


async def test_sidecars_are_found_by_address_and_port(
    client: ConsulClient, consul_server: ConsulServer
) -> None:
    """The service's address, or its node's, or a tagged one; with that port only."""
    for name, more in (
        ("by-node", {}),
        ("by-own", {"Address": "10.97.0.2"}),
        ("by-tag", {"TaggedAddresses": {"lan_ipv6": {"Address": "fd97::1", "Port": 21000}}}),
    ):
        proxy = {"DestinationServiceName": name, "LocalServicePort": 8000}
        sidecar = {"Service": f"{name}-sidecar-proxy", "Kind": "connect-proxy", "Port": 21000}
        node = {"Node": f"node of {name}", "Address": f"10.97.1.{len(name)}"}
        consul_server.put(
            "/v1/catalog/register", {**node, "Service": {**sidecar, "Proxy": proxy, **more}}
        )

    async def owners(address: str, port: int = 8000) -> set[str]:
        found = await client.owners(address, port)
        return {one.service.proxy.destination for one in found if one.service.proxy}

    assert await owners("10.97.1.7") == {"by-node"}
    assert await owners("10.97.0.2") == {"by-own"}
    assert await owners("fd97::1") == {"by-tag"}
    assert await owners("10.97.1.7", 8001) == set()
    assert await owners("203.0.113.9") == set()
