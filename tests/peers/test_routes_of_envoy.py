"""Random routes, asked of Envoy as Consul configures it: the same route takes the same request."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from tests.bench.contenders.envoy_routes import matching
from tests.bench.running import accepts, free_ports, running, wait_for
from tests.unit.core.test_routes import head, random_match

from fleetmesh.core.routes import Matcher
from fleetmesh.model.traffic import Match

ENVOY = Path(sys.executable).with_name("envoy")
SETS = 12
ROUTES = 25
REQUESTS = 60

_TYPE = "type.googleapis.com/envoy.extensions.filters"
_ROUTER = {"name": "router", "typed_config": {"@type": f"{_TYPE}.http.router.v3.Router"}}


def matches_of(seed: int) -> list[Match]:
    dice = random.Random(seed)
    return [random_match(dice) for _ in range(ROUTES)]


def listener(port: int, matches: list[Match]) -> dict[str, Any]:
    """Answers with the number of the route."""
    numbered = [*enumerate(map(matching, matches)), (-1, {"prefix": ""})]
    routes = [
        {"match": match, "direct_response": {"status": 200, "body": {"inline_string": f"{number}"}}}
        for number, match in numbered
    ]
    manager = {
        "@type": f"{_TYPE}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "routes",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [_ROUTER],
    }
    return {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[int]]:
    """Where Envoy listens with the routes of each seed."""
    directory = tmp_path_factory.mktemp("envoy")
    found = free_ports(SETS)
    listeners = [listener(port, matches_of(seed)) for seed, port in enumerate(found)]
    config = directory / "envoy.json"
    config.write_text(json.dumps({"static_resources": {"listeners": listeners}}))
    command = [str(ENVOY), "--config-path", str(config), "--concurrency", "1"]
    command += ["--log-level", "error", "--disable-hot-restart"]
    with running("envoy", command, directory):
        wait_for("envoy", lambda: all(accepts(port) for port in found))
        yield found


@pytest.mark.parametrize("seed", range(SETS))
def test_envoy_takes_the_same_route(ports: list[int], seed: int) -> None:
    """Paths in ASCII and fields that come once: of what lies beyond, Envoy's versions differ."""
    matches = matches_of(seed)
    matcher = Matcher(matches)
    dice = random.Random(seed)
    envoy = HTTPConnection("127.0.0.1", ports[seed], timeout=10)
    for _ in range(REQUESTS):
        method = dice.choice(("GET", "PUT", "POST", "DELETE"))
        path = dice.choice(("/", "/a", "/a/", "/a/b", "/ab", "/b", "/b/1", "/b/12", "/a/b/c"))
        query = dice.choice(("", "?", "?q", "?q=1", "?q=2&q=1", "?r=1&q=12", "?q=%31", "?Q=1"))
        target = path + dice.choice(("", "", "b", "/", "1", "c")) + query
        value = dice.choice((None, "", "1", "12", "012", "123"))
        fields = {} if value is None else {"x-A": value}
        envoy.request(method, target, headers=fields)
        theirs = int(envoy.getresponse().read())
        request = head(method, target, *fields.items())
        ours = matcher.find(request.method, request.target, request)
        assert ours == theirs, (method, target, value, matches)
    envoy.close()
