"""What a worker logs of those it turns away or lets in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from fleetmesh.core.authz import Verdict
from fleetmesh.core.table import link
from fleetmesh.model.identity import Action
from fleetmesh.model.intention import Intention
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Direction
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.proxy.plane import Plane
from fleetmesh.proxy.site import PassthroughSite, Site
from fleetmesh.settings import HttpSettings, TcpSettings

PEER = "192.0.2.9:40000"


@pytest.fixture
def plane() -> Iterator[Plane]:
    loop = asyncio.new_event_loop()
    empty = link(Snapshot("t.consul", "dc1", "host1", (), (), ()), 1, None, 0)
    yield Plane(loop, HttpSettings(), TcpSettings(), empty)
    loop.close()


def test_a_denial_is_logged_with_its_intention(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    """In the line itself, for whoever reads no fields."""
    site = Site(plane, Direction.INBOUND, "web", "api", "http")
    site.verdict = Verdict(False, Intention("*", "api", Action.DENY, 8))
    plane.refused(site, Refusal.DENIED, PEER)
    assert caplog.messages == ["refused web => api: an intention denies this call (deny * => api)"]


def test_who_has_no_identity_is_logged_by_address(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    site = Site(plane, Direction.PLAIN, "", "api", "permissive")
    plane.refused(site, Refusal.PLAINTEXT, PEER)
    plane.admitted(site, PEER)
    assert caplog.messages == [
        f"refused {PEER} => api: this service takes mutual TLS only",
        f"plain connection from {PEER} to api admitted",
    ]


def test_an_unreachable_stranger_is_logged_by_address(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    site = PassthroughSite(plane, "web", "192.0.2.1", 80)
    plane.refused(site, Refusal.CONNECT_FAILED, PEER, "192.0.2.1:80: No route to host")
    assert caplog.messages == [
        "refused web => ?: the endpoint could not be reached (192.0.2.1:80: No route to host)"
    ]
