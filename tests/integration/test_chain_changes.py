"""Config entries written to a real Consul server, as they arrive in a running agent's snapshot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.agent import Agent, agent, inside
from tests.support.consul import ConsulServer, running_consul
from tests.support.netns import needs_root, netns

pytestmark = [
    pytest.mark.consul,
    needs_root,
]


@pytest.fixture
def consul(tmp_path: Path) -> Iterator[ConsulServer]:
    with netns("chains") as space, inside(space.name), running_consul(tmp_path / "c") as server:
        yield server


def upstream(mesh: Agent) -> dict[str, Any]:
    upstreams = mesh.ask("GET", "/v1/snapshot")[1]["upstreams"]
    return next((one for one in upstreams if one["service"] == "api"), {})


def shape(mesh: Agent) -> tuple[list[str], list[tuple[int, str, int]]]:
    """The routes' names; the splits' weights, subsets and counts of endpoints."""
    one = upstream(mesh)
    splits = [
        (split["weight"], split["target"]["subset"], len(split["target"]["endpoints"]))
        for split in one.get("splits", ())
    ]
    return [route["name"] for route in one.get("routes", ())], splits


def test_entries_arrive_and_a_bad_one_is_told(consul: ConsulServer, tmp_path: Path) -> None:
    with agent(tmp_path / "agent", consul={"address": consul.address}) as mesh:
        mesh.declare("api", 8000, user="games", meta={"version": "v1"})
        mesh.start()
        mesh.eventually(lambda: bool(upstream(mesh)), "the upstream")
        subsets = {name: {"Filter": f'Service.Meta.version == "{name}"'} for name in ("v1", "v2")}
        for entry in (
            {"Kind": "proxy-defaults", "Name": "global", "Config": {"envoy_dns_json": "{}"}},
            {"Kind": "service-defaults", "Name": "api", "Protocol": "http"},
            {"Kind": "service-resolver", "Name": "api", "Subsets": subsets},
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
                "Routes": [{"Match": {"HTTP": {"PathRegex": "/(?=no)"}}}],
            },
        ):
            assert consul.put("/v1/config", entry) is True
        wanted = (["api/0"], [(9500, "v1", 1), (500, "v2", 0)])
        mesh.eventually(lambda: shape(mesh) == wanted, "routes and splits")
        assert upstream(mesh)["routes"][0]["target"]["endpoints"] == []

        subsets["v2"]["Filter"] = "Service.Bogus == 1"
        consul.put("/v1/config", {"Kind": "service-resolver", "Name": "api", "Subsets": subsets})

        def told() -> list[str]:
            return sorted(problem["path"] for problem in mesh.status()["problems"])

        expected = [
            "proxy-defaults/global: Config.envoy_dns_json",
            "service-resolver/api: Subsets[v2]",
            "service-router/api: Routes[0].Match.HTTP.PathRegex",
        ]
        mesh.eventually(lambda: told() == expected, "the problems")
        status = mesh.status()
        assert status["consul"]["reachable"] is True
        assert shape(mesh) == wanted
        assert mesh.log().count("not honoured: proxy-defaults/global: Config.envoy_dns_json") == 1
        assert mesh.stop() == 0
