"""Explanations, for people and for programs, with their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_agent import FakeAgent
from tests.unit.plan.test_explain import (
    NOW,
    TRUST,
    api,
    endpoint,
    entry,
    explained,
    get,
    local,
    seen,
    snapshot,
    target,
)

from fleetmesh.cli import explain_text
from fleetmesh.model.explanation import Endpoints, EndpointState, Outcome, Question
from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.traffic import (
    Balancing,
    FieldChanges,
    FieldMatch,
    HashPolicy,
    Health,
    Limits,
    Match,
    Retries,
    Route,
    Split,
)
from fleetmesh.plan import listing
from fleetmesh.plan.callee import LISTED
from fleetmesh.plan.defaults import ServiceDefaults
from fleetmesh.plan.difference import differences
from fleetmesh.plan.observed import Observed

ALLOWED = replace(NOW, observed=seen(entry("web", "allow", 9)).observed)


def answer(agent: FakeAgent, path: str, value: Any) -> None:
    method = "POST" if path == "/v1/explain" else "GET"
    agent.answers[method, path] = (200, msgspec.to_builtins(value))


def http(run: Run, *more: str, url: str = "http://api.mesh/cart?x=1") -> Any:
    return run("explain", "http", "GET", url, "--from", "web", *more)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.ALLOWED, 0),
        (Outcome.PASSES, 0),
        (Outcome.DENIED, 1),
        (Outcome.REFUSED, 1),
        (Outcome.PARTLY, 1),
        (Outcome.UNKNOWN, 1),
    ],
)
def test_the_exit_code_is_the_outcome(
    agent: FakeAgent, run: Run, outcome: Outcome, code: int
) -> None:
    found = replace(explained(snapshot(api())), outcome=outcome)
    answer(agent, "/v1/explain", found)
    assert http(run).exit_code == code
    result = http(run, "--json")
    assert result.exit_code == code
    assert json.loads(result.stdout) == json.loads(msgspec.json.encode(found))


def test_the_question_is_what_was_asked(agent: FakeAgent, run: Run) -> None:
    answer(agent, "/v1/explain", explained(snapshot(api())))
    http(run, "-H", "x-user: 7", "-H", "Accept:text/html", url="http://[fd00::1]:8080")
    run("explain", "tcp", "[fd00::2]:5432", "--from", "web")
    asked = [msgspec.convert(body, Question) for _, _, body in agent.asked]
    assert asked == [
        Question("web", "fd00::1", 8080, "GET", "/", (("x-user", "7"), ("Accept", "text/html"))),
        Question("web", "fd00::2", 5432),
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("http", "GET", "https://api/"), "is no URL of http"),
        (("http", "GET", "api/cart"), "is no URL of http"),
        (("http", "GET", "http://api:99999/"), "is no URL of http"),
        (("http", "GET", "http://api/", "-H", "x-user"), "is not NAME: VALUE"),
        (("http", "GET", "http://api/", "-H", ": 1"), "is not NAME: VALUE"),
        (("tcp", "api"), "is not HOST:PORT"),
        (("tcp", "api:http"), "is not HOST:PORT"),
        (("tcp", "api:70000"), "is not HOST:PORT"),
        (("tcp", "fd00::1:80"), "is not HOST:PORT"),
    ],
)
def test_a_wrong_question_is_told(run: Run, arguments: tuple[str, ...], said: str) -> None:
    result = run("explain", *arguments, "--from", "web")
    assert result.exit_code == 2
    assert said in result.stderr


def test_a_caller_is_needed(run: Run) -> None:
    assert run("explain", "tcp", "api:80").exit_code == 2


def test_the_agents_problem_is_told(agent: FakeAgent, run: Run) -> None:
    agent.answers["POST", "/v1/explain"] = (400, {"error": "--from: web is no service"})
    assert str(http(run).exception) == "--from: web is no service"


def test_an_agent_of_another_version(agent: FakeAgent, run: Run) -> None:
    agent.answers["GET", "/v1/routes/api"] = (200, {"rules": []})
    result = run("routes", "api")
    assert result.exit_code == 2
    assert "of another version" in result.stderr


def test_with_consul_the_settings_must_be_right(agent: FakeAgent, run: Run, tmp_path: Path) -> None:
    answer(agent, "/v1/explain", explained(snapshot(api())))
    settings = tmp_path / "agent.yaml"
    settings.write_text("address: 10.0.0.1\nworkerz: 3\n")
    services = tmp_path / "services.d"
    services.mkdir()
    files = ("--agent", str(settings), "--services", str(services))
    result = http(run, "--consul", *files)
    assert result.exit_code == 2
    assert "workerz" in result.stderr
    settings.write_text("address: 10.0.0.1\nconsul: {address: 'http://127.0.0.1:1'}\n")
    (services / "web.yaml").write_text("name: web\nport: 80\n")
    result = http(run, "--consul", *files)
    assert result.exit_code == 2
    assert "fleetmesh: consul: /v1/agent/self" in result.stderr


def test_the_walk_in_words() -> None:
    routes = (
        Route("api/0", Match(headers=(FieldMatch("x-user", exact="8"),))),
        Route(
            "api/1",
            Match(path_prefix="/cart"),
            prefix_rewrite="/basket",
            splits=(
                Split(9500, target("v1", endpoint("a"), subset="v1")),
                Split(500, target("v2", endpoint("b", health=Health.CRITICAL))),
            ),
            timeout=2.0,
            retries=Retries(2, ("reset",)),
            request_fields=FieldChanges(set=(("x-v", "1"),)),
            response_fields=FieldChanges(remove=("server",)),
        ),
    )
    state = snapshot(api(routes=routes, virtual_addresses=("240.0.0.7",)))
    found = explained(state, get("/cart?x=1", "api.mesh", x_user="7"), ALLOWED)
    assert explain_text.explanation(found)[:23] == [
        "GET http://api.mesh/cart?x=1 from web: partly",
        "  because      95 % are served; no_endpoint: no healthy endpoint for v2",
        "  found by     name: api (240.0.0.7)",
        f"  identity     {SpiffeId(TRUST, 'dc1', 'web')}, certificate 0a for another 10m 0s",
        "  upstream     api, http, carried as http",
        "  rule         service-router/api: Routes[1]",
        "  service-router/api: Routes[0]: does not match",
        "    no   header x-user is 8",
        "  service-router/api: Routes[1]: taken",
        "    yes  path begins with /cart",
        "95 % to api, subset v1 in dc1 [v1]",
        "    sent as    /basket?x=1",
        f"    expects    {SpiffeId(TRUST, 'dc1', 'api')}",
        "    sni        v1.sni",
        "    balancing  peak_ewma",
        "    connect    5 s",
        "    endpoint   node/a 10.0.0.1:21000 passing, weight 1",
        f"    intention  allows: allow web => api, precedence 9 [{LISTED}]",
        "    timeout    2 s (route)",
        "    idle       300 s (settings: http.idle_timeout)",
        "    retries    2 after a reset before the answer (route)",
        "    request    + x-v: 1",
        "    response   remove server",
    ]
    rest = "\n".join(explain_text.explanation(found)[23:])
    assert "5 % to api in dc1 [v2]\n    refused    no_endpoint" in rest
    assert "node/b 10.0.0.1:21000 critical, weight 1; OUT: critical" in rest


def test_what_the_callee_takes_in_words() -> None:
    meta = {"fleetmesh-rate-limit": "20", "fleetmesh-rate-limit-burst": "5"}
    observed = Observed(service_defaults=(ServiceDefaults("api", meta=meta),))
    found = explained(snapshot(api()), None, replace(ALLOWED, observed=observed))
    lines = explain_text.explanation(found)
    assert "    rate       20/s of all callers, 5 at once: instance" in lines


def test_failover_hashes_limits_and_doubt_in_words() -> None:
    spare = target(
        "cart",
        endpoint("two"),
        service="cart",
        balancing=Balancing("maglev", hash_policies=(HashPolicy(header="x-user"),)),
        limits=Limits(max_connections=5, max_concurrent_requests=3, queue_wait=0.5),
    )
    dead = target("api", failover=("cart",))
    state = snapshot(api(target=dead, spares=(spare,)), services=(local("web", leaf=None),))
    assert "no certificate" in explain_text.explanation(explained(state))[3]
    state = replace(state, services=(local("web"),))
    hidden = replace(seen(allow=True), consul={"cart": False}, now=2000.0)
    text = "\n".join(explain_text.explanation(explained(state, get(x_user="7"), hidden)))
    for words in (
        "EXPIRED 16m 40s ago",
        "failover   cart in dc1 [cart]: serves now",
        "balancing  maglev by header x-user: this request's is node/two",
        "at most    5 connections and 3 requests for each endpoint and worker, then 0.5 s in line",
        "endpoint   none",
        "Consul's own answer for a connection: denies",
        "some are hidden from its token",
    ):
        assert words in text
    doubt = explain_text.explanation(explained(state, Question("web", "10.0.0.1", 8000)))
    assert doubt[0] == "tcp 10.0.0.1:8000 from web: unknown"


def test_routes_in_words(agent: FakeAgent, run: Run) -> None:
    splits = (Split(9999, target("v1")), Split(1, target("v2")))
    route = Route("api/0", Match(path_exact="/a"), splits=splits, timeout=1.5)
    answer(agent, "/v1/routes/api", listing.routes(snapshot(api(routes=(route,))), "api"))
    result = run("routes", "api")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "api, http",
        "  service-router/api: Routes[0]",
        "    when  path is /a",
        "    to    v1 99.99 %",
        "    to    v2 0.01 %",
        "    with  timeout 1.5 s",
        "  service-router/api: the rest",
        "    to    api",
    ]


def test_endpoints_in_words(agent: FakeAgent, run: Run) -> None:
    found = listing.endpoints(snapshot(api()), "api", NOW)
    assert isinstance(found, Endpoints)
    bare = EndpointState("n/bare", "fd00::1", 80, "passing", 1, "no sidecar")
    answer(agent, "/v1/endpoints/api", replace(found, others=(bare,)))
    result = run("endpoints", "api")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[1] == "api in dc1 [api]"
    assert lines[-2:] == [
        "in no target",
        "    endpoint   n/bare [fd00::1]:80 passing, weight 1; OUT: no sidecar",
    ]


def test_a_comparison_in_words() -> None:
    one = explained(snapshot(api()))
    other = explained(snapshot(api(target=target("api", endpoint("one", weight=3)))))
    assert list(explain_text.compared(False, ())) == [
        "computed from Consul; nothing in force to compare it with"
    ]
    assert list(explain_text.compared(True, differences(one, other))) == [
        "computed from Consul; in force it differs:",
        "  legs[0].target.endpoints[node/one].weight: in force 1, by Consul 3",
    ]
