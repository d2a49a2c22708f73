"""Where an outbound request goes, and that it goes there again when it is tried again."""

from __future__ import annotations

from msgspec.structs import replace
from tests.support.ca import Authority
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.core.lane import Lane
from fleetmesh.core.request import RequestHead
from fleetmesh.core.table import Table, link
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.traffic import Match, Route
from fleetmesh.proxy.site import OutboundSite

AUTHORITY = Authority()
WEB = local_service("web", 8000, AUTHORITY.leaf("web"))
A = Route("a", Match(path_prefix="/a"), upstream("other", 7).target, "/b")


class Serving:
    def __init__(self, *routes: Route) -> None:
        self.table: Table = link(snapshot(AUTHORITY), 1, None, 0)
        self.publish(*routes)

    def publish(self, *routes: Route) -> None:
        api = replace(upstream("api", 1), routes=routes)
        self.table = link(snapshot(AUTHORITY, (WEB,), (api,)), 1, self.table, 0)

    def site(self) -> OutboundSite:
        return OutboundSite(self, "web", "api", "http", b"api", False)


def asking(target: bytes) -> RequestHead:
    request = RequestHead()
    request.on_url(target)
    request.on_header(b"Host", b"api")
    assert request.judge(b"GET", "1.1", 100) is None
    return request


def port(lane: object) -> int:
    assert isinstance(lane, Lane)
    return lane.port


def test_a_route_is_chosen_once_for_a_request() -> None:
    """Its target is rewritten once; another attempt goes where the first went."""
    site = Serving(A).site()
    request = asking(b"/a/a?b")
    assert port(site.lane((), request)) == 7
    assert (site.route_name, request.target) == ("a", b"/b/a?b")
    assert port(site.lane(["node0/other"])) == 7
    assert (site.route_name, request.target) == ("a", b"/b/a?b")
    assert port(site.lane((), asking(b"/c"))) == 1
    assert site.route_name == ""
    assert port(site.lane(())) == 1


def test_another_attempt_stays_with_its_target_in_the_table_of_the_moment() -> None:
    """At the endpoints that it has now, or had when nothing leads there any more."""
    serving = Serving(A)
    site = serving.site()
    site.lane((), asking(b"/a"))
    serving.publish(replace(A, target=upstream("other", 8).target))
    assert port(site.lane(())) == 8
    serving.publish()
    assert port(site.lane(())) == 7
    assert port(site.lane((), asking(b"/a"))) == 1
    assert site.route_name == ""
    assert port(site.lane(())) == 1


def test_an_upstream_that_was_let_go_cuts_no_connection() -> None:
    """What is open goes on; only a new way there is none."""
    serving = Serving()
    site = serving.site()
    assert port(site.lane(())) == 1
    serving.table = link(snapshot(AUTHORITY, (WEB,), ()), 2, serving.table, 0)
    assert site.recheck()
    assert site.lane(()) is Refusal.UNKNOWN_DESTINATION
