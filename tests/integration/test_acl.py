"""Tokens against a real Consul 1.8.7 with ACLs, which denies by default."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from tests.support.agent import agent, inside
from tests.support.consul import ConsulServer, running_consul
from tests.support.netns import needs_root, netns

from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.consul_http import ConsulError
from fleetmesh.plan.acl import VIRTUAL_IPS, Rule, missing, policy, rules

pytestmark = [
    pytest.mark.consul,
    needs_root,
]

MANAGEMENT = "2b778dd9-f5f1-6f29-b4b4-9a5fa948757a"
ACL = {"acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": MANAGEMENT}}}
AGAIN = "registered web-sidecar-proxy event"
RULES = rules(["web"])
SHARED = [rule for rule in RULES if rule.resource != "key_prefix"]
NEEDED = {
    'service "web" { policy = "write" }': 'needs service:write on "web"',
    'service "web-sidecar-proxy" { policy = "write" }': (
        'needs service:write on "web-sidecar-proxy"'
    ),
    'service_prefix "" { policy = "read" }': "needs service:read",
    'node_prefix "" { policy = "read" }': "needs node:read",
}


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    with (
        netns("acl") as space,
        inside(space.name),
        running_consul(tmp_path_factory.mktemp("consul"), ACL) as server,
    ):
        yield server


@pytest.fixture(autouse=True)
def _nothing_registered(consul: ConsulServer) -> None:
    for there in consul.call("GET", "/v1/agent/services", token=MANAGEMENT):
        consul.call("PUT", f"/v1/agent/service/deregister/{there}", token=MANAGEMENT)


def token(consul: ConsulServer, name: str, granted: list[Rule]) -> str:
    def put(path: str, body: Any) -> Any:
        return consul.call("PUT", path, body, token=MANAGEMENT)

    put("/v1/acl/policy", {"Name": name, "Rules": policy(granted)})
    return str(put("/v1/acl/token", {"Policies": [{"Name": name}]})["SecretID"])


def test_the_shipped_policy_suffices(consul: ConsulServer, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token(consul, "whole", list(RULES)))
    settings = {"address": consul.address, "token_file": str(tmp_path / "token")}
    with agent(tmp_path / "agent", consul=settings) as mesh:
        mesh.declare("web", 8080, user="daemon")
        mesh.start()
        mesh.eventually(lambda: mesh.service("web")["registered"], "the registration")
        mesh.eventually(lambda: mesh.status()["upstreams"], "its instances")
        assert mesh.status()["consul"]["error"] == ""
        assert mesh.service("web")["identity"]["workers"] == 1


def test_a_host_without_services_is_well_too(consul: ConsulServer, tmp_path: Path) -> None:
    """Nobody tells it the datacenter by a leaf or a chain."""
    (tmp_path / "token").write_text(token(consul, "bare", list(rules([]))))
    settings = {"address": consul.address, "token_file": str(tmp_path / "token")}
    with agent(tmp_path / "agent", consul=settings) as mesh:
        mesh.start()
        mesh.eventually(lambda: mesh.status()["generation"], "a snapshot")
        assert mesh.status()["datacenter"] == "dc1"
        assert "Permission denied" not in mesh.log()


ENTRIES = [
    {"Kind": "proxy-defaults", "Name": "global", "Config": {"protocol": "http"}},
    {"Kind": "service-defaults", "Name": "web", "Protocol": "http"},
    {"Kind": "service-defaults", "Name": "api", "Protocol": "http"},
    {
        "Kind": "service-resolver",
        "Name": "far",
        "Redirect": {"Service": "api", "Datacenter": "dc2"},
    },
    {
        "Kind": "service-resolver",
        "Name": "api",
        "Subsets": {"v1": {"Filter": 'Service.Meta.version == "v1"'}},
        "Failover": {"*": {"Datacenters": ["dc2"]}},
    },
    {
        "Kind": "service-splitter",
        "Name": "api",
        "Splits": [{"Weight": 50, "ServiceSubset": "v1"}, {"Weight": 50}],
    },
    {
        "Kind": "service-router",
        "Name": "api",
        "Routes": [{"Match": {"HTTP": {"PathPrefix": "/v1"}}, "Destination": {"Service": "web"}}],
    },
]


def test_nothing_that_the_agent_asks_is_denied(consul: ConsulServer, tmp_path: Path) -> None:
    """Chains of every kind, other datacenters, config entries, intentions; a change of each; and
    the registration, its heartbeat, and its end. Not one denial stands in the agent's log."""
    (tmp_path / "token").write_text(token(consul, "silent", list(rules(["web", "api"]))))
    for written in ENTRIES:
        consul.call("PUT", "/v1/config", written, token=MANAGEMENT)
    intention = {"SourceName": "web", "DestinationName": "api", "Action": "allow"}
    made = consul.call("POST", "/v1/connect/intentions", intention, token=MANAGEMENT)
    settings = {"address": consul.address, "token_file": str(tmp_path / "token")}
    try:
        with agent(tmp_path / "agent", consul=settings) as mesh:
            mesh.declare("web", 8080, user="daemon", upstreams=["api", "far"])
            mesh.declare("api", 8081, user="bin", id="api-1")
            mesh.start()
            for name in ("web", "api"):
                mesh.eventually(lambda n=name: mesh.service(n)["registered"], name)
            mesh.eventually(lambda: "No path to datacenter" in mesh.log(), "the other one")
            before = mesh.status()["generation"]
            path = f"/v1/connect/intentions/{made['ID']}"
            consul.call("PUT", path, {**intention, "Action": "deny"}, token=MANAGEMENT)
            mesh.eventually(lambda: mesh.status()["generation"] > before, "the intention")
            (mesh.services / "api.yaml").unlink()
            assert mesh.ask("POST", "/v1/reload")[0] == 200
            mesh.eventually(
                lambda: "api-1" not in consul.call("GET", "/v1/agent/services", token=MANAGEMENT),
                "api is deregistered",
            )
            assert mesh.status()["consul"]["error"] == ""
            assert "denied" not in mesh.log()
            assert "403" not in mesh.log()
    finally:
        consul.call("DELETE", f"/v1/connect/intentions/{made['ID']}", token=MANAGEMENT)
        for written in reversed(ENTRIES):
            where = f"/v1/config/{written['Kind']}/{written['Name']}"
            consul.call("DELETE", where, token=MANAGEMENT)


@pytest.mark.parametrize("granted", [True, False])
def test_virtual_addresses_need_their_keys(consul: ConsulServer, granted: bool) -> None:
    held = token(consul, f"keys-{granted}", list(RULES if granted else SHARED))
    path = f"/v1/kv/{VIRTUAL_IPS}240.0.0.1"
    if granted:
        assert consul.call("PUT", f"{path}?cas=0", "web", token=held)
        found = consul.call("GET", f"/v1/kv/{VIRTUAL_IPS}?recurse", token=held)
        assert f"{VIRTUAL_IPS}240.0.0.1" in [pair["Key"] for pair in found]
        return
    with pytest.raises(HTTPError) as refused:
        consul.call("PUT", f"{path}?cas=0", "web", token=held)
    assert VIRTUAL_IPS in missing(path, refused.value.read().decode())


def test_a_handed_over_token_is_what_the_registration_lives_on(
    consul: ConsulServer, tmp_path: Path
) -> None:
    """The first comes as a credential of the unit, the second with the reload. Consul forgets the
    first, and what was registered with it is taken out of the catalog all the same."""
    first, second = (token(consul, f"rotated-{n}", list(RULES)) for n in (1, 2))
    (tmp_path / "consul-token").write_text(first)
    with (
        pytest.MonkeyPatch.context() as patch,
        agent(tmp_path / "agent", consul={"address": consul.address}) as mesh,
    ):
        patch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        mesh.declare("web", 8080, user="daemon")
        mesh.start()
        mesh.eventually(lambda: mesh.service("web")["registered"], "the registration")
        status, answer = mesh.ask("POST", "/v1/reload", {"token": "two words"})
        assert (status, "holds no token" in answer["problems"][0]["rule"]) == (400, True)
        assert mesh.ask("POST", "/v1/reload", {"token": 7})[0] == 400
        assert mesh.ask("POST", "/v1/reload", {"token": second})[0] == 200
        mesh.eventually(
            lambda: mesh.log().count(AGAIN) == 2,
            "it is registered anew",
        )
        mesh.stop()
        (tmp_path / "consul-token").write_text(token(consul, "rotated-3", list(RULES)))
        mesh.start()
        mesh.eventually(lambda: mesh.log().count(AGAIN) == 3, "so it is by one that starts")
        for old in (first, second):
            own = consul.call("GET", "/v1/acl/token/self", token=old)["AccessorID"]
            consul.call("DELETE", f"/v1/acl/token/{own}", token=MANAGEMENT)
        mesh.declare("web", 8088, user="daemon")
        assert mesh.ask("POST", "/v1/reload")[0] == 200
        mesh.eventually(
            lambda: catalog_port(consul) == 8088, "the change is in the catalog", patience=30
        )
        (mesh.services / "web.yaml").unlink()
        assert mesh.ask("POST", "/v1/reload")[0] == 200
        mesh.eventually(lambda: catalog_port(consul) == 0, "it leaves the catalog", patience=30)
        assert first not in mesh.log()
        assert second not in mesh.log()


def catalog_port(consul: ConsulServer) -> int:
    """Of web; 0 when it is not in the catalog."""
    found = consul.call("GET", "/v1/catalog/service/web", token=MANAGEMENT)
    return int(found[0]["ServicePort"]) if found else 0


@pytest.mark.parametrize("number", range(len(SHARED)))
def test_a_token_one_rule_short_names_it(consul: ConsulServer, tmp_path: Path, number: int) -> None:
    lacking = SHARED[number]
    granted = [rule for rule in RULES if rule is not lacking]
    (tmp_path / "token").write_text(token(consul, f"short-{number}", granted))
    settings = {"address": consul.address, "token_file": str(tmp_path / "token")}
    with agent(tmp_path / "agent", consul=settings) as mesh:
        mesh.declare("web", 8080, user="daemon")
        mesh.start(ready=False)
        wanted = NEEDED[str(lacking)]
        mesh.eventually(lambda: wanted in str(mesh.status()), wanted)


def test_reload_takes_a_new_token(consul: ConsulServer, tmp_path: Path) -> None:
    """One that lacks a rule is replaced by one that has it; the file may not be missing."""
    file = tmp_path / "token"
    file.write_text(token(consul, "before", list(RULES[1:])))
    with agent(
        tmp_path / "agent", consul={"address": consul.address, "token_file": str(file)}
    ) as mesh:
        mesh.declare("web", 8080, user="daemon")
        mesh.start(ready=False)
        wanted = NEEDED[str(RULES[0])]
        mesh.eventually(lambda: wanted in str(mesh.status()), wanted)
        file.unlink()
        status, answer = mesh.ask("POST", "/v1/reload")
        assert (status, "token_file" in answer["problems"][0]["path"]) == (400, True)
        file.write_text(token(consul, "after", list(RULES)))
        assert mesh.ask("POST", "/v1/reload")[0] == 200
        mesh.eventually(lambda: mesh.service("web")["registered"], "the registration")
        mesh.eventually(lambda: mesh.status()["consul"]["error"] == "", "no error")


def test_what_is_gone_already_is_deregistered_well(consul: ConsulServer) -> None:
    """With ACLs a 1.8 agent answers 500 to it, without them 404."""

    async def ask() -> None:
        client = ConsulClient(consul.address, MANAGEMENT)
        try:
            await client.deregister("nobody")
        finally:
            await client.close()

    asyncio.run(ask())


def test_unknown_token_is_told(consul: ConsulServer) -> None:
    async def ask() -> None:
        client = ConsulClient(consul.address, "8cb8fc4e-0000-4000-8000-000000000000")
        try:
            await client.catalog()
        finally:
            await client.close()

    with pytest.raises(ConsulError, match="does not know the token"):
        asyncio.run(ask())
