"""Where an outbound request goes, and that it goes there again when it is tried again."""

from __future__ import annotations

from collections import Counter
from math import sqrt
from random import Random
from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.ca import Authority
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.core.lane import Lane
from fleetmesh.core.request import RequestHead
from fleetmesh.core.table import Table, link
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.traffic import (
    Balancing,
    FieldChanges,
    HashPolicy,
    Limits,
    Match,
    Retries,
    Route,
    Split,
)
from fleetmesh.proxy.site import OutboundSite

AUTHORITY = Authority()
WEB = local_service("web", 8000, AUTHORITY.leaf("web"))
A = Route("a", Match(path_prefix="/a"), upstream("other", 7).target, "/b")


class Serving:
    now = 0.0

    def __init__(self, *routes: Route) -> None:
        self.table: Table = link(snapshot(AUTHORITY), 1, None, 0)
        self._random = Random(7)
        self.publish(*routes)

    def publish(self, *routes: Route, **changes: Any) -> None:
        api = replace(upstream("api", 1), routes=routes, **changes)
        self.table = link(snapshot(AUTHORITY, (WEB,), (api,)), 1, self.table, 0)

    def draw(self) -> int:
        return self._random.getrandbits(64)

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


OTHER = upstream("other", 7).target
OWN = upstream("api", 1).target
CHANGES = FieldChanges(add=(("x-split", "other"),))


@pytest.mark.parametrize("weight", [500, 1, 3333])
def test_shares_are_those_of_the_weights(weight: int) -> None:
    """Within three sigma over 20,000 requests, by a route and by none."""
    splits = (Split(10000 - weight, OWN), Split(weight, OTHER), Split(0, A.target or OTHER))
    share = weight / 10000
    for changes in ({"splits": splits}, {"routes": (Route("r", splits=splits),)}):
        serving = Serving()
        serving.publish(*changes.pop("routes", ()), **changes)
        site, request = serving.site(), asking(b"/")
        counts = Counter(port(site.lane((), request)) for _ in range(20000))
        assert abs(counts[7] - 20000 * share) <= 3 * sqrt(20000 * share * (1 - share))
        assert counts[1] + counts[7] == 20000


def test_another_attempt_stays_with_its_split() -> None:
    serving = Serving()
    serving.publish(splits=(Split(5000, OWN), Split(5000, OTHER)))
    site = serving.site()
    seen = set()
    for _ in range(50):
        first = port(site.lane((), asking(b"/")))
        assert {port(site.lane(["node0/x"])) for _ in range(20)} == {first}
        seen.add(first)
    assert seen == {1, 7}


def test_without_a_request_the_way_is_the_targets_own() -> None:
    """As for TCP, which knows no splits."""
    serving = Serving()
    serving.publish(splits=(Split(10000, OTHER),))
    assert port(serving.site().lane(())) == 1


def test_a_leg_is_there_when_there_is_something_to_say() -> None:
    plain = Route("plain", Match(path_prefix="/plain"), OTHER)
    retried = Route(
        "retried", Match(path_prefix="/retried"), retries=Retries(2, ("reset",)), timeout=3.0
    )
    changed = Split(10000, OTHER, request_fields=CHANGES)
    divided = Route("divided", Match(path_prefix="/divided"), splits=(changed,))
    serving = Serving(plain, retried, divided)
    site = serving.site()
    site.lane((), asking(b"/plain"))
    assert site.leg is None
    site.lane((), asking(b"/retried"))
    assert site.leg is not None
    assert site.leg.retries is not None
    assert (site.leg.retries.count, site.leg.request, site.leg.timeout) == (2, None, 3.0)
    site.lane((), asking(b"/divided"))
    assert site.leg is not None
    assert site.leg.request is not None
    assert (site.leg.retries, site.leg.response, site.leg.timeout) == (None, None, None)
    assert site.route_name == "divided"
    site.lane((), asking(b"/"))
    assert site.leg is None
    serving.publish(timeout=9.0, splits=(changed,))
    site.lane((), asking(b"/"))
    assert site.leg is not None
    assert site.leg.request is not None
    assert site.leg.timeout == 9.0
    serving.publish()
    site.lane((), asking(b"/"))
    assert site.leg is None


def test_a_spare_serves_while_nothing_else_does_and_no_longer() -> None:
    """The first in order that has endpoints; its own failover is not followed."""
    empty = replace(upstream("empty").target, failover=("last.default.dc1",))
    last = upstream("last", 9).target
    ids = (empty.id, OTHER.id, last.id)
    serving = Serving()
    site = serving.site()

    def publish(*ports: int, other: Any = OTHER) -> None:
        target = replace(upstream("api", *ports).target, failover=ids)
        serving.publish(target=target, spares=(empty, other, last))

    publish(1)
    assert port(site.lane((), asking(b"/"))) == 1
    publish()
    assert port(site.lane((), asking(b"/"))) == 7
    publish(other=replace(OTHER, endpoints=()))
    assert port(site.lane((), asking(b"/"))) == 9
    publish(1, 2)
    assert {port(site.lane((), asking(b"/"))) for _ in range(4)} == {1, 2}


def hashing(*policies: HashPolicy, policy: str = "ring_hash") -> Serving:
    target = replace(
        upstream("api", *range(1, 9)).target, balancing=Balancing(policy, hash_policies=policies)
    )
    serving = Serving()
    serving.publish(target=target)
    return serving


@pytest.mark.parametrize("policy", ["ring_hash", "maglev"])
def test_the_same_value_leads_to_the_same_endpoint(policy: str) -> None:
    serving = hashing(HashPolicy(query="u"), policy=policy)
    for user in range(20):
        request = asking(b"/?u=%d" % user)
        assert len({port(serving.site().lane((), request)) for _ in range(9)}) == 1
    site = serving.site()
    assert len({port(site.lane((), asking(b"/?u=%d" % user))) for user in range(60)}) == 8
    assert len({port(site.lane((), asking(b"/"))) for _ in range(100)}) == 8


def test_another_attempt_of_a_hashed_request_leaves_its_endpoint() -> None:
    site = hashing(HashPolicy(query="u")).site()
    first = site.lane((), asking(b"/?u=1"))
    assert isinstance(first, Lane)
    assert site.lane(()) is first
    assert port(site.lane([first.endpoint_id])) != first.port


def test_a_connection_is_hashed_by_whom_it_comes_from() -> None:
    serving = hashing(HashPolicy(header="x"), HashPolicy(source_address=True))
    clients = [b"10.0.0.%d" % number for number in range(60)]

    def site(client: bytes) -> OutboundSite:
        return OutboundSite(serving, "web", "api", "tcp", b"api", False, client)

    ports = [port(site(client).lane(())) for client in clients]
    assert ports == [port(site(client).lane(())) for client in clients]
    assert len(set(ports)) == 8


def test_the_answer_gets_the_cookie_of_its_own_request() -> None:
    serving = hashing(HashPolicy(cookie="u", cookie_ttl=60.0))
    site = serving.site()
    first = port(site.lane((), asking(b"/")))
    assert site.extra.startswith(b'Set-Cookie: u="')
    again = asking(b"/")
    again.lines.append(b"Cookie: " + site.extra[12:].partition(b";")[0] + b"\r\n")
    assert port(site.lane((), again)) == first
    assert site.extra == b""


def test_the_least_busy_endpoint_is_known_by_its_pools() -> None:
    target = replace(
        upstream("api", 1, 2).target, balancing=Balancing("least_request", choice_count=30)
    )
    serving = Serving()
    serving.publish(target=target)
    site = serving.site()
    for _ in range(10):
        lane = site.lane((), asking(b"/"))
        assert isinstance(lane, Lane)
        lane.pool.lend()
    busy = [place.active() for place in serving.table.upstreams["api"].default.target.places]
    assert busy == [5, 5]


def test_limits_change_on_lanes_that_are_there() -> None:
    serving = Serving()
    lane = serving.site().lane((), asking(b"/"))
    assert isinstance(lane, Lane)
    assert lane.pool.max_requests == 0
    serving.publish(target=replace(OWN, limits=Limits(4, 3, 2)))
    assert serving.site().lane((), asking(b"/")) is lane
    assert (lane.pool.max_connections, lane.pool.max_requests, lane.pool.max_pending) == (4, 2, 3)
    serving.publish()
    assert (lane.pool.max_connections, lane.pool.max_requests, lane.pool.max_pending) == (0, 0, 0)


def test_an_upstream_that_was_let_go_cuts_no_connection() -> None:
    """What is open goes on; only a new way there is none."""
    serving = Serving()
    site = serving.site()
    assert port(site.lane(())) == 1
    serving.table = link(snapshot(AUTHORITY, (WEB,), ()), 2, serving.table, 0)
    assert site.recheck()
    assert site.lane(()) is Refusal.UNKNOWN_DESTINATION
