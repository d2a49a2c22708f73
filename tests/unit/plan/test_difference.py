"""Where what is in force and what Consul says differ."""

from __future__ import annotations

from msgspec.structs import replace
from tests.unit.plan.test_explain import api, endpoint, explained, snapshot, target

from fleetmesh.model.traffic import Match, Route
from fleetmesh.plan.difference import differences


def test_the_same_is_no_difference_whenever_it_was_asked() -> None:
    one = explained(snapshot(api()))
    later = replace(one, generation=9, identity=replace(one.identity, seconds_left=1.0))
    assert differences(one, later) == ()


def test_endpoints_and_rules_are_compared_by_their_names() -> None:
    before = explained(snapshot(api(target=target("api", endpoint("a"), endpoint("b")))))
    routes = (Route("api/0", Match(path_exact="/x")),)
    after = explained(
        snapshot(api(target=target("api", endpoint("b", weight=3), endpoint("c")), routes=routes))
    )
    found = {one.path: (one.in_force, one.consul) for one in differences(before, after)}
    where = "legs[0].target.endpoints"
    assert found.pop(f"{where}[node/b].weight") == (1, 3)
    gone, new = found.pop(f"{where}[node/a]"), found.pop(f"{where}[node/c]")
    assert (gone[1], new[0]) == (None, None)
    assert found.pop("rules[api/0]")[0] is None
    assert set(found) == {"decided_by"}
