"""`fleetmesh explain` against a real Consul and a real agent: what is in force, what Consul says,
and where the two differ."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.integration.test_chain_property import _entries, _request, upstream_of, write
from tests.support.agent import Agent, agent, inside
from tests.support.chain_walk import walk
from tests.support.consul import ConsulServer, running_consul
from tests.support.netns import needs_root, netns
from tests.unit.plan.test_explain import NOW, local
from typer.testing import CliRunner

from fleetmesh.cli import app
from fleetmesh.model.explanation import Explanation, Question
from fleetmesh.plan.explain import explain

pytestmark = [
    pytest.mark.consul,
    needs_root,
]

Asked = Callable[..., tuple[int, Any]]
SUBSETS = {name: {"Filter": f'Service.Meta.version == "{name}"'} for name in ("v1", "v2")}
ENTRIES: tuple[dict[str, Any], ...] = (
    {"Kind": "service-defaults", "Name": "api", "Protocol": "http"},
    {"Kind": "service-resolver", "Name": "api", "Subsets": SUBSETS, "ConnectTimeout": "3s"},
    {
        "Kind": "service-splitter",
        "Name": "api",
        "Splits": [
            {"Weight": 95, "ServiceSubset": "v1"},
            {"Weight": 5, "ServiceSubset": "v2"},
        ],
    },
    {
        "Kind": "service-router",
        "Name": "api",
        "Routes": [
            {
                "Match": {
                    "HTTP": {
                        "PathPrefix": "/cart",
                        "Header": [{"Name": "x-user", "Exact": "8"}],
                    }
                },
                "Destination": {"ServiceSubset": "v2"},
            },
            {
                "Match": {"HTTP": {"PathPrefix": "/cart", "Methods": ["GET"]}},
                "Destination": {
                    "ServiceSubset": "v1",
                    "PrefixRewrite": "/basket",
                    "RequestTimeout": "2s",
                    "NumRetries": 2,
                    "RetryOnStatusCodes": [503],
                },
            },
        ],
    },
)


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[ConsulServer]:
    with netns("explain") as space, inside(space.name), running_consul(tmp_path / "c") as server:
        yield server


@pytest.fixture
def mesh(consul: ConsulServer, tmp_path: Path) -> Iterator[Agent]:
    """`web` and `api` on this host, with the entries in force."""
    for entry in ENTRIES:
        assert consul.put("/v1/config", entry) is True
    with agent(tmp_path / "agent", consul={"address": consul.address}) as one:
        one.declare("web", 8080, user="daemon", protocol="http", upstreams=["cart"])
        one.declare("api", 8000, user="games", meta={"version": "v1"})
        one.start()

        def arrived() -> bool:
            upstreams = one.ask("GET", "/v1/snapshot")[1]["upstreams"]
            api = next((up for up in upstreams if up["service"] == "api"), {})
            endpoints = api.get("target", {}).get("endpoints", ())
            return len(api.get("routes", ())) == 2 and [e["health"] for e in endpoints] == [
                "passing"
            ]

        one.eventually(arrived, "the entries and an endpoint")
        yield one


@pytest.fixture
def ask(mesh: Agent) -> Asked:
    """The exit code and the JSON of a verb."""

    def asked(*arguments: str) -> tuple[int, Any]:
        found = run(mesh, *arguments, "--json")
        return found[0], json.loads(found[1])

    return asked


def run(mesh: Agent, *arguments: str) -> tuple[int, str]:
    files = ("--agent", str(mesh.home / "agent.yaml"), "--services", str(mesh.services))
    result = CliRunner().invoke(app, [*arguments, "--socket", str(mesh.socket), *files])
    return result.exit_code, result.stdout


def test_a_request_is_explained_step_by_step(mesh: Agent, ask: Asked) -> None:
    code, found = ask(
        "explain", "http", "GET", "http://10.99.1.1:8000/cart?x=1", "-H", "x-user: 7", "--from=web"
    )
    assert (code, found["outcome"]) == (0, "allowed")
    assert (found["found"]["how"], found["upstream"]) == ("address", "api")
    assert [(rule["entry"], rule["taken"]) for rule in found["rules"]] == [
        ("service-router/api: Routes[0]", False),
        ("service-router/api: Routes[1]", True),
    ]
    assert [one["holds"] for one in found["rules"][0]["criteria"]] == [True, False]
    (leg,) = found["legs"]
    assert (leg["forwarded"], leg["timeout"], leg["retries"]) == ("/basket?x=1", 2.0, 2)
    assert "status 503" in leg["retried"]
    target = leg["target"]
    assert (target["subset"], target["connect_timeout"]) == ("v1", 3.0)
    assert [one["out"] for one in target["endpoints"]] == [""]
    assert target["spiffe_id"].endswith("/svc/api")
    assert target["filter"] == 'Service.Meta.version == "v1"'
    assert leg["steps"] == ["router:api.default", "resolver:v1.api.default.dc1"]
    assert leg["decision"]["because"] == "default policy: allow"
    assert leg["decision"]["basis"] == "in force on this host"
    assert found["identity"]["seconds_left"] > 3600


def test_shares_intentions_and_health_are_told(
    mesh: Agent, consul: ConsulServer, ask: Asked
) -> None:
    code, found = ask("explain", "http", "GET", "http://api/", "--from=web")
    assert (code, found["outcome"]) == (1, "partly")
    assert [(leg["share"], leg["refusal"]) for leg in found["legs"]] == [
        (9500, ""),
        (500, "no_endpoint"),
    ]
    assert [leg["steps"][1:] for leg in found["legs"]] == [
        ["splitter:api.default", "resolver:v1.api.default.dc1"],
        ["splitter:api.default", "resolver:v2.api.default.dc1"],
    ]
    consul.call(
        "POST",
        "/v1/connect/intentions",
        {"SourceName": "web", "DestinationName": "api", "Action": "deny"},
    )
    url = "http://api/cart"

    def denied() -> Any:
        code, found = ask("explain", "http", "GET", url, "--from=web")
        return code == 1 and found["outcome"] == "denied" and found

    decision = mesh.eventually(denied, "the intention")["legs"][0]["decision"]
    assert (decision["because"], decision["precedence"]) == ("deny web => api", 9)
    assert decision["consul"] is False
    consul.put("/v1/agent/check/register", {"Name": "sick", "ServiceID": "api", "TTL": "60s"})

    def out() -> Any:
        code, found = ask("endpoints", "api")
        assert code == 0
        endpoints = [one for target in found["targets"] for one in target["endpoints"]]
        return endpoints and all(one["out"] for one in endpoints) and endpoints

    assert mesh.eventually(out, "a critical check")[0]["out"] == "critical: api-sidecar-proxy:alias"


def test_a_callee_of_another_host_and_one_without_a_sidecar(
    mesh: Agent, consul: ConsulServer, ask: Asked
) -> None:
    """`cart` lives elsewhere: its intentions are the list's, and Consul is asked, too."""
    there = {"Node": "other", "Address": "10.99.1.2", "SkipNodeUpdate": False}
    for service in (
        {"ID": "cart", "Service": "cart", "Port": 7001},
        {"ID": "bare", "Service": "cart", "Port": 7002},
        {
            "ID": "cart-sidecar-proxy",
            "Service": "cart-sidecar-proxy",
            "Kind": "connect-proxy",
            "Port": 21000,
            "Proxy": {
                "DestinationServiceName": "cart",
                "DestinationServiceID": "cart",
                "LocalServicePort": 7001,
            },
        },
    ):
        consul.put("/v1/catalog/register", {**there, "Service": service})
    consul.call(
        "POST",
        "/v1/connect/intentions",
        {"SourceName": "*", "DestinationName": "cart", "Action": "deny"},
    )

    def denied() -> Any:
        code, found = ask("explain", "tcp", "10.99.1.2:7001", "--from=web")
        return code == 1 and found["outcome"] == "denied" and found["legs"][0]["decision"]

    decision = mesh.eventually(denied, "the callee's intention")
    assert (decision["because"], decision["precedence"]) == ("deny * => cart", 8)
    assert decision["basis"] == "the intentions that Consul lists to this agent"
    assert decision["consul"] is False
    _, found = ask("endpoints", "cart")
    assert [(one["id"], one["out"]) for one in found["others"]] == [("other/bare", "no sidecar")]


def test_routes_are_listed_and_unknown_ones_refused(mesh: Agent, ask: Asked) -> None:
    code, found = ask("routes", "api")
    assert (code, [route["name"] for route in found["routes"]]) == (0, ["api/0", "api/1", ""])
    assert [share for share, _ in found["routes"][2]["legs"]] == [9500, 500]
    assert mesh.ask("GET", "/v1/routes/nope")[0] == 400
    assert mesh.ask("POST", "/v1/explain", {"source": "web"})[0] == 400


def test_consul_is_computed_from_and_compared(
    mesh: Agent, consul: ConsulServer, ask: Asked
) -> None:
    """Also after the agent is gone."""
    question = ("explain", "http", "GET", "http://10.99.1.1:8000/cart", "--from=web", "--consul")
    mesh.eventually(lambda: ask(*question)[1]["differences"] == [], "that both say the same")
    code, found = ask(*question)
    assert (code, found["consul"]["outcome"]) == (0, "allowed")
    assert found["consul"]["identity"]["serial"] == found["in_force"]["identity"]["serial"]
    code, text = run(mesh, *question)
    assert text.splitlines()[-1] == "computed from Consul; the same is in force"
    frozen = mesh.ask("POST", "/v1/explain", found["in_force"]["question"])[1]
    mesh.stop()
    code, found = ask(*question)
    assert (code, found["in_force"]) == (0, None)
    assert found["consul"]["legs"][0]["forwarded"] == frozen["legs"][0]["forwarded"] == "/basket"
    assert found["consul"]["identity"]["serial"]


def test_what_differs_is_named(mesh: Agent, consul: ConsulServer, tmp_path: Path) -> None:
    """The command's Consul is another than the agent's."""
    with running_consul(tmp_path / "second") as second:
        for entry in ENTRIES[:1]:
            assert second.put("/v1/config", entry) is True
        proxy = consul.get("/v1/agent/service/api-sidecar-proxy")["Proxy"]
        sidecar = {
            "ID": "api-sidecar-proxy",
            "Service": "api-sidecar-proxy",
            "Kind": "connect-proxy",
            "Address": "10.99.1.1",
            "Port": 21000,
            "Proxy": proxy,
        }
        for service in ({"Service": "api", "Port": 8000}, sidecar):
            there = {"Node": "other", "Address": "10.99.1.1", "Service": service}
            second.put("/v1/catalog/register", there)
        other = mesh.home / "other.yaml"
        other.write_text(json.dumps(mesh.settings | {"consul": {"address": second.address}}))
        arguments = ["explain", "http", "GET", "http://10.99.1.1:8000/cart", "--from=web"]
        arguments += ["--consul", "--socket", str(mesh.socket), "--agent", str(other)]
        arguments += ["--services", str(mesh.services)]
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 1, result.output
        lines = result.stdout.split("in force it differs:\n")[1].splitlines()
        differing = {line.split(":")[0].strip() for line in lines}
        assert {"decided_by", "route", "legs[0].forwarded", "legs[0].retries"} <= differing


def test_what_is_explained_is_what_the_chain_says(consul_server: ConsulServer) -> None:
    """Random entries in a real Consul: the explanation against an independent walk."""
    for service in ("api", "cart", "shop"):
        body = {"Kind": "service-defaults", "Name": service, "Protocol": "http"}
        consul_server.put("/v1/config", body)
    deadline = time.monotonic() + 8
    seen = {"route": 0, "rest": 0, "split": 0}

    @settings(
        max_examples=100, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(_entries, st.lists(_request, min_size=5, max_size=20))
    def agrees(entries: dict[str, Any], requests: list[tuple[str, str, dict[str, str]]]) -> None:
        if time.monotonic() > deadline:
            return
        write(consul_server, entries)
        chain = consul_server.get("/v1/discovery-chain/api")["Chain"]
        compiled = upstream_of(chain)
        assert compiled.warnings == ()
        state = replace(compiled.snapshot, services=(local("web"),))
        for method, url, headers in requests:
            question = Question("web", "api", 80, method, url, tuple(headers.items()))
            found = explain(state, question, NOW)
            assert isinstance(found, Explanation)
            taken, ends = walk(chain, method, url, headers)
            assert found.route == ("" if taken is None else f"api/{taken}")
            assert {(leg.target.service, leg.target.subset) for leg in found.legs} == ends
            seen["rest" if taken is None else "route"] += 1
            seen["split"] += len(found.legs) > 1

    agrees()
    assert min(seen.values()) > 20, seen
