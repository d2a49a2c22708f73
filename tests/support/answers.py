"""Values as decoded from Consul's answers, made by hand."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec

from fleetmesh.plan.answers import Chain, ChainAnswer, Instance, LeafAnswer

TRUST = "11111111-2222-3333-4444-555555555555.consul"
NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def chain(service: str, protocol: str = "http", **target: Any) -> Chain:
    """A default chain; `target` overrides fields of its one target."""
    answer = {
        "Chain": {
            "ServiceName": service,
            "Datacenter": "dc1",
            "StartNode": "opaque",
            "Protocol": protocol,
            "Nodes": {"opaque": {"Type": "resolver", "Resolver": {"Target": "t"}}},
            "Targets": {
                "t": {"ID": "t", "Service": service, "Datacenter": "dc1", "SNI": "sni"} | target
            },
        }
    }
    return msgspec.convert(answer, ChainAnswer).chain


def instance(
    service: str = "api",
    number: int = 1,
    checks: tuple[str, ...] = ("passing",),
    local_port: int = 8000,
    **more: Any,
) -> Instance:
    body = {
        "Node": {"Node": f"node{number}", "Address": f"10.0.0.{number}"},
        "Service": {
            "Kind": "connect-proxy",
            "ID": f"{service}-sidecar-proxy",
            "Service": f"{service}-sidecar-proxy",
            "Port": 21000,
            "Proxy": {"DestinationServiceName": service, "LocalServicePort": local_port},
        }
        | more,
        "Checks": [{"Status": status} for status in checks],
    }
    return msgspec.convert(body, Instance)


def leaf(service: str, serial: str = "01") -> LeafAnswer:
    uri = f"spiffe://{TRUST}/ns/default/dc/dc1/svc/{service}"
    return LeafAnswer(
        serial, "CHAIN", "KEY", service, uri, NOON, NOON + datetime.timedelta(hours=72)
    )
