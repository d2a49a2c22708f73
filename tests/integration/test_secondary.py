"""Certificates of a secondary datacenter, as two real Consuls sign them."""

from __future__ import annotations

import asyncio
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from tests.support.consul import ConsulServer, running_consul

from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.handshake import Shown, shown
from fleetmesh.edge.tls import server_context
from fleetmesh.model.snapshot import Leaf
from fleetmesh.plan.answers import LeafAnswer

pytestmark = pytest.mark.consul
PATIENCE = 60.0


@pytest.fixture
def secondary(tmp_path: Path) -> Iterator[ConsulServer]:
    """A server of dc2, whose primary datacenter dc1 is beside it."""
    with running_consul(tmp_path / "dc1", {"connect": {"enabled": True}}) as primary:
        joined = {
            "datacenter": "dc2",
            "primary_datacenter": "dc1",
            "connect": {"enabled": True},
            "retry_join_wan": [f"127.0.0.1:{primary.ports['serf-wan']}"],
            "retry_interval_wan": "1s",
        }
        with running_consul(tmp_path / "dc2", joined) as server:
            yield server


def signed(server: ConsulServer) -> Any:
    """A leaf, once the datacenter has its intermediate."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            return server.get("/v1/agent/connect/ca/leaf/api")
        except (OSError, urllib.error.HTTPError):
            time.sleep(0.25)
    pytest.fail("no leaf of the secondary datacenter")


def test_a_peer_that_knows_the_primarys_root_alone_is_convinced(secondary: ConsulServer) -> None:
    """What Consul signs is served with all that stands between it and the root."""
    signed(secondary)

    async def run() -> tuple[LeafAnswer, str, Shown]:
        client = ConsulClient(secondary.address, None)
        try:
            answer = (await client.leaf("api")).value
            roots = (await client.roots()).value
        finally:
            await client.close()
        assert len(roots.roots or ()) == 1
        root = (roots.roots or ())[0].cert
        leaf = Leaf(
            answer.serial,
            answer.valid_after.timestamp(),
            answer.valid_before.timestamp(),
            answer.cert,
            answer.key,
        )

        async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        server = await asyncio.start_server(
            accept, "127.0.0.1", 0, ssl=server_context([root], leaf)
        )
        async with server:
            return answer, root, await shown(server.sockets[0].getsockname()[1], [root], leaf)

    answer, root, found = asyncio.run(run())
    assert found.current
    assert "/dc/dc2/svc/api" in answer.uri
    leaf, *between = x509.load_pem_x509_certificates(answer.cert.encode())
    assert between, "signed by the root itself: no secondary datacenter"
    assert leaf.issuer == between[0].subject
    assert between[-1].issuer == x509.load_pem_x509_certificate(root.encode()).subject
