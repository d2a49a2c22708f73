"""Which lanes are worth a connection before the first request."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from tests.support.ca import Authority
from tests.support.worker import local_service, snapshot, upstream

from fleetmesh.core.table import Table, link
from fleetmesh.core.target import TargetEntry
from fleetmesh.core.warm import cold
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import Endpoint, Health, Protocol

AUTHORITY = Authority()
BOTH = ("web", "cart")


def state(*ports: int, protocol: Protocol = Protocol.HTTP) -> Snapshot:
    """web is declared to call api, cart is not; api has an endpoint for each port."""
    return snapshot(
        AUTHORITY,
        (
            replace(local_service("web", 1, None), upstreams=("api",)),
            local_service("cart", 2, None),
        ),
        (upstream("api", *ports, protocol=protocol), upstream("other", 9)),
    )


def warmed(table: Table, ready: tuple[str, ...] = BOTH) -> list[str]:
    """`source:port`, warm from now on."""
    found = cold(table, ready)
    for _, lane in found:
        lane.warmed = True
    return [f"{lane.source}:{lane.port}" for _, lane in found]


def own(table: Table) -> TargetEntry:
    return table.upstreams["api"].default.target


def call(table: Table, source: str, ipv6: bool = False) -> None:
    for place in own(table).places:
        place.lane(source, ipv6)


def test_each_endpoint_is_warmed_once_for_whoever_is_declared_to_call_it() -> None:
    one = link(state(1, 2), 1, None, 0)
    assert warmed(one) == ["web:1", "web:2"]
    assert warmed(link(state(1, 2), 2, one, 0)) == []
    assert warmed(link(state(1, 2, 3), 3, one, 0)) == ["web:3"]


def test_a_new_endpoint_is_warmed_for_whoever_has_called_another() -> None:
    one = link(state(1), 1, None, 0)
    assert warmed(one) == ["web:1"]
    call(one, "cart")
    assert warmed(link(state(2), 2, one, 0)) == ["cart:2", "web:2"]


def test_a_family_is_warmed_that_is_dialled() -> None:
    """A service that calls over IPv6 needs no connection over IPv4, declared or not."""
    one = link(state(1), 1, None, 0)
    call(one, "web", ipv6=True)
    assert [lane for _, lane in cold(one, BOTH)] == [own(one).places[0].lane("web", True)]


def test_nobody_without_a_certificate_warms_anything_and_it_is_made_up_for() -> None:
    table = link(state(1), 1, None, 0)
    assert warmed(table, ()) == warmed(table, ("cart",)) == []
    assert warmed(table) == ["web:1"]


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.AUTO])
def test_a_connection_that_must_not_be_silent_is_not_warmed(protocol: Protocol) -> None:
    assert warmed(link(state(1, protocol=protocol), 1, None, 0)) == []


def test_an_endpoint_that_comes_back_is_warmed_anew() -> None:
    """While it was critical, its connections ended."""
    well = state(1)
    target = well.upstreams[0].target
    ill = replace(target, endpoints=(replace(target.endpoints[0], health=Health.CRITICAL),))
    sick = replace(well, upstreams=(replace(well.upstreams[0], target=ill),))
    one = link(well, 1, None, 0)
    assert warmed(one) == ["web:1"]
    two = link(sick, 2, one, 0)
    assert warmed(two) == []
    assert warmed(link(well, 3, two, 0)) == ["web:1"]


def test_endpoints_are_told_by_what_they_are() -> None:
    """Another address is another endpoint, whatever its id."""
    one = link(state(1), 1, None, 0)
    warmed(one)
    moved = state(1)
    target = replace(moved.upstreams[0].target, endpoints=(Endpoint("node0/api", "127.0.0.2", 1),))
    moved = replace(moved, upstreams=(replace(moved.upstreams[0], target=target),))
    assert warmed(link(moved, 2, one, 0)) == ["web:1"]
