"""Consul's own cases for its Envoy sidecars, as a real Consul reads their files.

No part of them is parsed here: a server of its own loads a case and is asked what it understood.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.consul import ConsulServer, running_consul

SUITE = Path(__file__).parents[3] / "shared/suites/consul-cases"
DATACENTER = "primary"
FIRST_SIDECAR = 21000
# Those of Consul 1.8.7 that the cases without gateways use, in the order in which they can be
# written: what needs an http service after what makes it one.
KINDS = (
    "proxy-defaults",
    "service-defaults",
    "service-resolver",
    "service-splitter",
    "service-router",
)
ASSIGNED = {"CreateIndex", "ModifyIndex"}
BOOTSTRAPPED = re.compile(r"^\s*bootstrap\s*\{", re.MULTILINE)


@dataclass(frozen=True)
class CaseService:
    """An instance with its sidecar. `upstreams`: local bind port → the service behind it."""

    id: str
    name: str
    port: int
    sidecar_port: int
    meta: dict[str, str]
    upstreams: dict[int, str]
    config: dict[str, Any]


@dataclass(frozen=True)
class Case:
    """`entries` are the bodies of `PUT /v1/config`, in an order that Consul accepts."""

    name: str
    services: dict[str, CaseService]
    entries: tuple[dict[str, Any], ...]

    def behind(self, port: int) -> str:
        """The service that s1 calls at localhost:`port`."""
        return self.services["s1"].upstreams[port]


def read_case(name: str, directory: Path) -> Case:
    """`name` as in `case-<name>`; the server lives in `directory`."""
    files = sorted((SUITE / f"case-{name}/effective/primary").glob("*.hcl"))
    if not files:
        pytest.fail(f"case-{name} has no configuration at {SUITE}")
    with running_consul(directory, {"datacenter": DATACENTER}, files) as server:
        wanted = sum(len(BOOTSTRAPPED.findall(file.read_text())) for file in files)
        entries = _entries(server)
        assert len(entries) == wanted, f"Consul took {len(entries)} of {wanted} entries"
        return Case(name, _services(server), entries)


def _entries(server: ConsulServer) -> tuple[dict[str, Any], ...]:
    return tuple(
        {key: value for key, value in entry.items() if key not in ASSIGNED}
        for kind in KINDS
        for entry in server.get(f"/v1/config/{kind}")
    )


def _services(server: ConsulServer) -> dict[str, CaseService]:
    """Sidecar ports count up in the order of the ids, as the cases' assertions have them."""
    registered = dict(server.get("/v1/agent/services"))
    proxies = {
        one["Proxy"]["DestinationServiceID"]: one
        for one in registered.values()
        if one.get("Kind") == "connect-proxy"
    }
    services = {}
    for number, name in enumerate(sorted(proxies)):
        own, proxy = registered[name], proxies[name]["Proxy"]
        services[name] = CaseService(
            id=name,
            name=own["Service"],
            port=own["Port"],
            sidecar_port=FIRST_SIDECAR + number,
            meta=own["Meta"] or {},
            upstreams={
                one["LocalBindPort"]: one["DestinationName"] for one in proxy.get("Upstreams") or ()
            },
            config=proxy.get("Config") or {},
        )
    return services
