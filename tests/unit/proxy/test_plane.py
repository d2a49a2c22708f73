"""What a worker logs of those it turns away or lets in."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

import pytest

from fleetmesh.core.authz import Authorizer, Verdict
from fleetmesh.core.request import RequestHead
from fleetmesh.core.table import link
from fleetmesh.model.identity import Action
from fleetmesh.model.intention import Intention, Permission
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Direction
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.proxy.plane import LOG_BURST, Plane
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


def test_an_audit_line_says_who_asked_for_what(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(plane, Direction.INBOUND, "web", "api", "http")
    site.identity = "spiffe://t.consul/ns/default/dc/dc1/svc/web"
    permission = Intention("web", "api", Action.DENY, 9, "", (Permission(Action.DENY),))
    site.verdict = Authorizer((permission,), True).explain("web", asking(b"/a?token=x"))
    plane.refused(site, Refusal.DENIED, PEER, "", asking(b"/a\x1b?token=x"))
    (line,) = caplog.messages
    assert line.endswith("(1 permission web => api (permission 1: deny), GET /a\\x1b)")
    assert vars(caplog.records[0])["fields"] == {
        "event": "refused",
        "direction": "inbound",
        "source": "web",
        "destination": "api",
        "reason": "denied",
        "peer": PEER,
        "spiffe_id": "spiffe://t.consul/ns/default/dc/dc1/svc/web",
        "intention": "1 permission web => api (permission 1: deny)",
        "method": "GET",
        "path": "/a\\x1b",
    }


def test_what_is_ambiguous_is_named(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    site = Site(plane, Direction.INBOUND, "web", "api", "http")
    site.verdict = Verdict(False, None, "", "x_role")
    plane.refused(site, Refusal.AMBIGUOUS, PEER, "", asking(b"/a"))
    assert caplog.messages == [
        "refused web => api: the request can be read in more than one way (x_role, GET /a)"
    ]


def test_what_the_log_leaves_out_is_counted(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    """Each denial counts; of a second's flood ten lines are written, and how many more."""
    site = Site(plane, Direction.INBOUND, "web", "api", "http")
    for _ in range(LOG_BURST + 32):
        plane.refused(site, Refusal.DENIED, PEER)
    assert len(caplog.messages) == LOG_BURST
    assert "muted" in vars(caplog.records[-1])["fields"]
    plane._sweep(4)
    assert caplog.messages[LOG_BURST:] == ["32 more like it were not logged: web => api: denied"]
    assert vars(caplog.records[-1])["fields"]["suppressed"] == 32
    plane._sweep(8)
    assert len(caplog.messages) == LOG_BURST + 1
    (refusals,) = plane.telemetry.report(1, 1, ()).refusals
    assert refusals.count == LOG_BURST + 32


def asking(target: bytes) -> RequestHead:
    request = RequestHead()
    request.method = b"GET"
    request.target = target
    return request
