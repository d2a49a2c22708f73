"""What role consul runs on the server to make policies and tokens, against a real Consul 1.8.7."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.consul import ROOT, ConsulServer, running_consul

from fleetmesh.plan.acl import policy, rules

pytestmark = pytest.mark.consul
SCRIPT = (ROOT / "roles/consul/files/acl.py").read_text()
MANAGEMENT = "2b778dd9-f5f1-6f29-b4b4-9a5fa948757a"
ACL = {"acl": {"enabled": True, "default_policy": "deny", "tokens": {"master": MANAGEMENT}}}


@pytest.fixture(scope="module")
def consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulServer]:
    with running_consul(tmp_path_factory.mktemp("consul"), ACL) as server:
        yield server


def wanted(name: str, *services: str) -> dict[str, str]:
    return {"name": name, "description": f"of {name}", "rules": policy(rules(services))}


def run(
    consul: ConsulServer, *policies: dict[str, str], **changed: Any
) -> subprocess.CompletedProcess[str]:
    """As the role does: the script is the argument, all that is secret is the input."""
    asked = {"url": consul.address, "token": MANAGEMENT, "check": False, "keep": True}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT],
        input=json.dumps({**asked, "wanted": policies, **changed}),
        capture_output=True,
        text=True,
    )


def made(consul: ConsulServer, *policies: dict[str, str], **changed: Any) -> Any:
    done = run(consul, *policies, **changed)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def held(consul: ConsulServer, name: str) -> str:
    for listed in consul.call("GET", "/v1/acl/policies", token=MANAGEMENT):
        if listed["Name"] == name:
            path = f"/v1/acl/policy/{listed['ID']}"
            return str(consul.call("GET", path, token=MANAGEMENT)["Rules"])
    return ""


def test_a_second_run_changes_nothing(consul: ConsulServer) -> None:
    """Each policy has one token, the same each time, and Consul takes it."""
    asked = [wanted("one", "web"), wanted("two")]
    first = made(consul, *asked)
    assert first["changed"] == ["one", "two"]
    assert made(consul, *asked) == {"changed": [], "tokens": first["tokens"]}
    told = consul.call("GET", "/v1/acl/token/self", token=first["tokens"]["one"])
    assert [policy["Name"] for policy in told["Policies"]] == ["one"]
    assert told["Description"] == "of one"


def test_check_mode_writes_nothing(consul: ConsulServer) -> None:
    assert made(consul, wanted("checked", "web"), check=True) == {
        "changed": ["checked"],
        "tokens": {},
    }
    assert held(consul, "checked") == ""


def test_a_former_service_stays_until_it_is_to_be_forgotten(consul: ConsulServer) -> None:
    made(consul, wanted("host", "web", "cart"))
    without = wanted("host", "web")
    made(consul, without)
    assert made(consul, without)["changed"] == []
    assert 'service "cart" { policy = "write" }' in held(consul, "host")
    assert made(consul, wanted("host", "web", "api"))["changed"] == ["host"]
    assert 'service "cart-sidecar-proxy" { policy = "write" }' in held(consul, "host")
    assert made(consul, without, keep=False)["changed"] == ["host"]
    assert held(consul, "host") == without["rules"]


def test_the_newest_token_counts(consul: ConsulServer) -> None:
    """So is one rotated: a second one is made, and delivered by the next run."""
    before = made(consul, wanted("rotated"))["tokens"]["rotated"]
    body = {"Description": "new", "Policies": [{"Name": "rotated"}]}
    fresh = consul.call("PUT", "/v1/acl/token", body, token=MANAGEMENT)["SecretID"]
    assert made(consul, wanted("rotated")) == {"changed": [], "tokens": {"rotated": fresh}}
    assert fresh != before


def test_a_management_token_that_is_none_is_told(consul: ConsulServer) -> None:
    done = run(consul, wanted("any"), token="8cb8fc4e-0000-4000-8000-000000000000")
    assert done.returncode != 0
    assert "403" in done.stderr
    assert "ACL not found" in done.stderr
