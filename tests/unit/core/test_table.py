"""Linking snapshots: what is found, what is kept, what is given up."""

from __future__ import annotations

import msgspec
import pytest
from tests.support.ca import Authority
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.core.table import Table, dropped, link
from fleetmesh.core.target import TargetEntry
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.snapshot import Outsider, Snapshot
from fleetmesh.model.traffic import Balancing, Endpoint, Health, Limits, Match, Route, Upstream
from fleetmesh.settings import UpstreamSettings

AUTHORITY = Authority()


def state(*ports: int, services: tuple[str, ...] = ("web", "cart")) -> Snapshot:
    api = upstream("api", *ports, destinations=(("10.0.0.1", 80), ("fd00::1", 80)))
    in_turn = msgspec.structs.replace(api.target, balancing=Balancing("round_robin"))
    return snapshot(
        AUTHORITY,
        tuple(local_service(name, 8000 + at, None) for at, name in enumerate(services)),
        (msgspec.structs.replace(api, target=in_turn),),
    )


def with_endpoints(what: Snapshot, *endpoints: Endpoint) -> Snapshot:
    old = what.upstreams[0]
    target = msgspec.structs.replace(old.target, endpoints=endpoints)
    new: Upstream = msgspec.structs.replace(old, target=target)
    return msgspec.structs.replace(what, upstreams=(new,))


def own(table: Table, service: str = "api") -> TargetEntry:
    return table.upstreams[service].default.target


def picked(table: Table, times: int = 12) -> list[int]:
    target = own(table)
    places = [target.pick() for _ in range(times)]
    return [place.endpoint.port for place in places if place is not None]


def test_both_families_of_a_destination_lead_to_its_upstream() -> None:
    table = link(state(1), 1, None, 0)
    assert table.by_destination["10.0.0.1", 80] is table.by_destination["fd00::1", 80]
    assert table.by_destination["10.0.0.1", 80] is table.upstreams["api"]
    assert table.by_port[8001].service.name == "cart"


DATABASE = ("10.0.0.5", 5432)


@pytest.mark.parametrize("only_mesh", [False, True])
def test_what_goes_past_the_mesh(only_mesh: bool) -> None:
    """A setting on services without a sidecar goes before the one on all other destinations."""
    what = msgspec.structs.replace(state(1), mesh_destinations_only=only_mesh)
    other = Refusal.UNKNOWN_DESTINATION if only_mesh else None
    assert link(what, 1, None, 0).closed(DATABASE) is other
    for refuse, refusal in ((True, Refusal.NO_SIDECAR), (False, None)):
        table = link(
            msgspec.structs.replace(
                what, outsiders=(Outsider("db", (DATABASE,)),), refuse_outsiders=refuse
            ),
            1,
            None,
            0,
        )
        assert table.closed(DATABASE) is refusal
        assert table.outsiders[DATABASE] == "db"
        assert table.closed(("10.0.0.5", 22)) is other


def routed(*ports: int, prefix: str = "/b/") -> Snapshot:
    """api with a route of its own endpoints and one to `other`, whose endpoints are `ports`."""
    other = upstream("other", *ports).target
    api = msgspec.structs.replace(
        upstream("api", 1),
        routes=(Route("a", Match(path_prefix="/a/")), Route("b", Match(path_prefix=prefix), other)),
    )
    services = (local_service("web", 8000, None),)
    return snapshot(AUTHORITY, services, (api, upstream("other", *ports)))


def test_ways_lead_to_the_targets_of_their_routes() -> None:
    """Without a target of its own, a route's is the upstream's, and so is what no route is for."""
    entry = link(routed(7), 1, None, 0).upstreams["api"]
    assert [(way.name, way.target.id) for way in entry.ways] == [
        ("a", "api.default.dc1"),
        ("b", "other.default.dc1"),
        ("", "api.default.dc1"),
    ]
    assert entry.ways[0].target is entry.default.target is entry.ways[-1].target
    assert link(state(1), 1, None, 0).upstreams["api"].matcher is None


def test_upstreams_that_share_a_target_share_its_connections() -> None:
    table = link(routed(7), 1, None, 0)
    place = table.upstreams["api"].ways[1].target.pick()
    assert place is not None
    assert place is own(table, "other").pick()
    lane = place.lane("web", False)
    assert table.lanes().count(lane) == 1
    assert dropped(table, link(routed(8), 2, table, 0)) == [lane]


def test_routes_are_compiled_again_only_when_they_say_something_else() -> None:
    one = link(routed(7), 1, None, 0)
    two = link(routed(8), 2, one, 0)
    three = link(routed(8, prefix="/c/"), 3, two, 0)
    assert two.upstreams["api"].matcher is one.upstreams["api"].matcher
    assert [way.target.places[0].endpoint.port for way in two.upstreams["api"].ways] == [1, 8, 1]
    assert three.upstreams["api"].matcher is not two.upstreams["api"].matcher


def test_critical_endpoints_and_those_without_weight_are_left_out() -> None:
    base = state(1)
    table = link(
        with_endpoints(
            base,
            Endpoint("a", "1.1.1.1", 1, weight=3),
            Endpoint("b", "1.1.1.1", 2, weight=1, health=Health.WARNING),
            Endpoint("c", "1.1.1.1", 3, health=Health.CRITICAL),
            Endpoint("d", "1.1.1.1", 4, weight=0),
        ),
        1,
        None,
        0,
    )
    assert sorted(picked(table, 8)) == [1] * 6 + [2] * 2


def test_no_endpoint_is_told() -> None:
    assert own(link(state(), 1, None, 0)).pick() is None


def test_tried_endpoints_are_avoided_as_long_as_there_are_others() -> None:
    target = own(link(state(1, 2, 3), 1, None, 0))
    place = target.pick({"node0/api", "node1/api"})
    assert place is not None
    assert place.endpoint.port == 3
    assert target.pick({"node0/api", "node1/api", "node2/api"}) is not None


def test_lanes_are_one_for_each_identity_and_family() -> None:
    table = link(
        with_endpoints(state(1), Endpoint("a", "10.0.0.9", 1, address6="fd00::9")), 1, None, 0
    )
    place = own(table).pick()
    assert place is not None
    web, cart = place.lane("web", False), place.lane("cart", False)
    assert web is not cart
    assert web is place.lane("web", False)
    assert (web.source, web.address) == ("web", "10.0.0.9")
    assert place.lane("web", True).address == "fd00::9"


def test_what_did_not_change_keeps_its_lanes() -> None:
    one = link(state(1, 2), 1, None, 0)
    lanes = [place.lane("web", False) for place in own(one).places]
    two = link(state(1, 2, 3), 2, one, 0)
    assert [place.lane("web", False) for place in own(two).places[:2]] == lanes
    assert two.services["web"].application is one.services["web"].application
    assert dropped(one, two) == []


def test_what_is_gone_gives_its_lanes_up() -> None:
    one = link(state(1, 2), 1, None, 0)
    first, second = (place.lane("web", False) for place in own(one).places)
    two = link(state(1), 2, one, 0)
    assert dropped(one, two) == [second]
    three = link(state(1, services=("cart",)), 3, two, 0)
    assert set(dropped(two, three)) == {
        first,
        two.services["web"].application,
        two.services["cart"].application,
    }
    assert own(three).places[0].lane("web", False) is not first


def test_health_changes_without_losing_the_connections() -> None:
    base = state(1)
    endpoint = base.upstreams[0].target.endpoints[0]
    one = link(base, 1, None, 0)
    lane = own(one).places[0].lane("web", False)
    sick = with_endpoints(base, msgspec.structs.replace(endpoint, health=Health.CRITICAL))
    two = link(sick, 2, one, 0)
    assert own(two).places == []
    three = link(base, 3, two, 0)
    assert own(three).places[0].lane("web", False) is lane


def test_pools_are_as_the_settings_say_and_an_application_is_never_limited() -> None:
    keeping = UpstreamSettings(
        idle_timeout=1, application_idle_timeout=2, max_age=3, max_idle=4, max_requests=5
    )
    table = link(state(1), 1, None, 0, keeping)
    place = own(table).pick()
    assert place is not None
    pool, local = place.lane("web", False).pool, table.services["web"].application.pool
    assert (pool.max_idle_seconds, pool.max_age, pool.max_idle) == (1, 3, 4)
    assert (local.max_idle_seconds, local.max_age, local.max_idle) == (2, 3, 4)
    assert (pool.max_requests, local.max_requests) == (5, 0)


def test_who_has_called_is_known_when_all_endpoints_are_new() -> None:
    one = link(state(1), 1, None, 0)
    place = own(one).pick()
    assert place is not None
    place.lane("web", True)
    two = link(state(2), 2, one, 0)
    assert own(link(state(3), 3, two, 0)).callers() == {("web", True)}
    assert own(link(state(3), 3, None, 0)).callers() == frozenset()


def test_every_port_of_a_virtual_address_is_the_upstreams() -> None:
    api = msgspec.structs.replace(upstream("api", 1), virtual_addresses=("240.0.0.7", "fd00::7"))
    table = link(snapshot(AUTHORITY, (), (api,)), 1, None, 0)
    assert table.by_address["240.0.0.7"] is table.by_address["fd00::7"] is table.upstreams["api"]
    assert table.owner(("240.0.0.7", 8443)) is table.upstreams["api"]
    assert table.owner(("240.0.0.8", 80)) is None
    assert link(state(1), 2, table, 0).by_address == {}


def test_a_picker_goes_on_where_its_endpoints_did_not_change() -> None:
    """Or every new snapshot would begin with the same endpoint again."""
    one = link(state(1, 2, 3), 1, None, 0)
    begun = picked(one, 2)
    two = link(state(1, 2, 3), 2, one, 0)
    assert [*begun, *picked(two, 1)] == [1, 2, 3]
    endpoints = two.upstreams["api"].upstream.target.endpoints
    heavier = [msgspec.structs.replace(endpoint, weight=2) for endpoint in endpoints]
    assert picked(link(with_endpoints(state(1), *heavier), 3, two, 0), 1) == [1]


def test_the_stricter_limit_holds() -> None:
    keeping = UpstreamSettings(max_connections=5, max_requests=4)
    base = state(1)
    target = msgspec.structs.replace(base.upstreams[0].target, limits=Limits(9, None, 3))
    limited = msgspec.structs.replace(base.upstreams[0], target=target)
    table = link(msgspec.structs.replace(base, upstreams=(limited,)), 1, None, 0, keeping)
    pool = own(table).places[0].lane("web", False).pool
    assert (pool.max_connections, pool.max_requests, pool.max_pending) == (5, 3, 0)


def test_what_goes_on_at_the_applications_is_counted_by_service() -> None:
    table = link(state(1), 1, None, 0)
    table.services["web"].application.pool.lend()
    table.services["web"].application.pool.opening += 1
    assert {one.service: one.count for one in table.under_way()} == {"web": 2, "cart": 0}
    again = link(state(2), 2, table, 0)
    assert {one.service: one.count for one in again.under_way()} == {"web": 2, "cart": 0}
