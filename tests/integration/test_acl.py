"""Tokens against a real Consul 1.8.7 with ACLs, which denies by default."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent import agent, inside
from tests.support.consul import ConsulServer, running_consul
from tests.support.netns import netns

from fleetmesh.edge.consul import ConsulClient, ConsulError
from fleetmesh.plan.acl import Rule, policy, rules

pytestmark = [
    pytest.mark.consul,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
]

MANAGEMENT = "2b778dd9-f5f1-6f29-b4b4-9a5fa948757a"
ACL = {"acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": MANAGEMENT}}}
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


@pytest.mark.parametrize("number", range(len(SHARED)))
def test_a_token_one_rule_short_names_it(consul: ConsulServer, tmp_path: Path, number: int) -> None:
    lacking = SHARED[number]
    granted = [rule for rule in RULES if rule is not lacking]
    (tmp_path / "token").write_text(token(consul, f"short-{number}", granted))
    settings = {"address": consul.address, "token_file": str(tmp_path / "token")}
    for there in consul.call("GET", "/v1/agent/services", token=MANAGEMENT):
        consul.call("PUT", f"/v1/agent/service/deregister/{there}", token=MANAGEMENT)
    with agent(tmp_path / "agent", consul=settings) as mesh:
        mesh.declare("web", 8080, user="daemon")
        mesh.start(ready=False)
        wanted = NEEDED[str(lacking)]
        mesh.eventually(lambda: wanted in mesh.status()["consul"]["error"], wanted)


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
        mesh.eventually(lambda: wanted in mesh.status()["consul"]["error"], wanted)
        file.unlink()
        status, answer = mesh.ask("POST", "/v1/reload")
        assert (status, "token_file" in answer["problems"][0]["rule"]) == (400, True)
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
