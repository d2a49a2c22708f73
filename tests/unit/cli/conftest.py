"""A fake agent, and a status to play with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import Result
from tests.unit.cli.fake_agent import FakeAgent, serving
from typer.testing import CliRunner

from fleetmesh.cli import app
from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.status import (
    CaptureStatus,
    ConsulStatus,
    HandshakeStatus,
    IdentityStatus,
    ServiceStatus,
    Status,
    WatchStatus,
    WorkerStatus,
)
from fleetmesh.model.traffic import Endpoint, Health, Protocol, Target, Upstream

HOUR = 3600.0
TRUST_DOMAIN = "11111111-2222-3333-4444-555555555555.consul"


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[FakeAgent]:
    with serving(FakeAgent(tmp_path / "admin.sock")) as fake:
        fake.answers["GET", "/v1/status"] = (200, msgspec.to_builtins(healthy()))
        yield fake


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a verb against the fake agent's socket."""

    def invoke(*arguments: str) -> Result:
        socket = ["--socket", str(tmp_path / "admin.sock")]
        return CliRunner().invoke(app, [*arguments, *socket])

    return invoke


def healthy(**changes: Any) -> Status:
    """A host on which all is well."""
    identity = IdentityStatus(
        spiffe_id=str(SpiffeId(TRUST_DOMAIN, "dc1", "cart")),
        serial="0a",
        not_after=1e9,
        seconds_left=50 * HOUR,
        life=72 * HOUR,
        workers=2,
        handshake=HandshakeStatus(4.0, "0a"),
    )
    spiffe_id = SpiffeId(TRUST_DOMAIN, "dc1", "api")
    endpoints = (
        Endpoint("api1/api-sidecar-proxy", "10.77.0.3", 21000, "fd00::3", meta={"v": "1"}),
        Endpoint("api2/api-sidecar-proxy", "10.77.0.4", 21000, health=Health.CRITICAL),
    )
    status = Status(
        version="0.1.0",
        pid=4711,
        uptime=93784.0,
        node="shop1",
        datacenter="dc1",
        trust_domain=TRUST_DOMAIN,
        generation=7,
        digest="0123456789abcdef",
        consul=ConsulStatus(
            "http://127.0.0.1:8500",
            True,
            2.5,
            watches=(WatchStatus("catalog", 2.5, 0.0), WatchStatus("leaf:cart", 200.0, 0.0)),
        ),
        capture=CaptureStatus("applied", rules=14),
        services=(
            ServiceStatus(
                name="cart",
                id="cart",
                port=7001,
                protocol="http",
                mode="strict",
                user="cart",
                uid=1001,
                outbound_port=15100,
                sidecar_port=21000,
                registered=True,
                identity=identity,
                intentions=("allow web => cart", "deny * => cart"),
            ),
        ),
        upstreams=(
            Upstream(
                "api",
                Protocol.HTTP,
                Target("api.default.dc1", "api", "dc1", "sni", spiffe_id, endpoints),
            ),
        ),
        workers=(
            WorkerStatus(4712, 7, 12, 0, 40 << 20),
            WorkerStatus(4713, 7, 3, 0, 41 << 20),
        ),
        kernel_tls="no (the kernel has no module tls loaded)",
    )
    return msgspec.structs.replace(status, **changes)
