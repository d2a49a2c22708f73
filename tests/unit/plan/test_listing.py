"""Rules and endpoints as lists, with why an instance gets nothing."""

from __future__ import annotations

from typing import Any

import msgspec
from tests.support.answers import TRUST, chain, instance, leaf
from tests.unit.plan.test_explain import api, endpoint, snapshot, target

from fleetmesh.model.explanation import Endpoints, Routes
from fleetmesh.model.report import Ejected
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.model.traffic import (
    FieldChanges,
    Match,
    Retries,
    Route,
    Split,
)
from fleetmesh.plan import listing
from fleetmesh.plan.answers import Instance, Root, Roots
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.compile import Compiled, compile_snapshot
from fleetmesh.plan.endpoints import endpoint_id
from fleetmesh.plan.explain import Knowledge
from fleetmesh.plan.observed import Observed
from fleetmesh.plan.outs import reasons
from fleetmesh.settings import ServiceSettings, Settings

FILTER = 'Service.Meta.v == "1"'
QUERY = InstanceQuery("api", filter=FILTER)


def observed(*inside: Instance, outside: tuple[Instance, ...] = (), **subset: Any) -> Observed:
    """`api` leads to a subset, with the instances `inside`."""
    only = {"Filter": FILTER, "OnlyPassing": False} | subset
    typed = chain("api", Subset=only, ServiceSubset="v1")
    return Observed(
        datacenter="dc1",
        node="n",
        roots=Roots(TRUST, [Root("ROOT")]),
        intentions=(),
        default_allow=True,
        catalog=frozenset({"api"}),
        leaves={"web": leaf("web")},
        chains={"api": typed, "web": chain("web")},
        instances={InstanceQuery("api"): (*inside, *outside), QUERY: inside},
    )


def compiled(seen: Observed) -> Snapshot:
    settings = Settings(address="10.0.0.9", services=(ServiceSettings("web", 8080),))
    found = compile_snapshot(settings, seen)
    assert isinstance(found, Compiled)
    return found.snapshot


def listed(seen: Observed, *plain: Instance, ejected: tuple[Ejected, ...] = ()) -> Endpoints:
    knowledge = Knowledge(now=0.0, observed=seen, plain={"api": plain}, ejected=ejected)
    found = listing.endpoints(compiled(seen), "api", knowledge)
    assert isinstance(found, Endpoints)
    return found


def outs(found: Endpoints) -> list[str]:
    return [one.out for target in found.targets for one in target.endpoints]


def test_each_endpoint_says_why_it_is_out() -> None:
    weights = {"Weights": {"Passing": 0, "Warning": 1}}
    seen = observed(
        instance(number=1),
        instance(number=2, checks=("passing", "critical")),
        instance(number=3, checks=("warning",)),
        instance(number=4, **weights),
        instance(number=5, checks=("maintenance",)),
    )
    assert outs(listed(seen)) == [
        "",
        "critical: a check",
        "",
        "weight 0 while passing",
        "critical: a check",
    ]
    strict = observed(instance(number=1, checks=("warning",)), OnlyPassing=True)
    assert outs(listed(strict)) == ["not passing (warning: a check), and OnlyPassing is set"]


def test_what_workers_leave_out_is_told() -> None:
    seen = observed(instance(number=1), instance(number=2))
    gone = Ejected("api", "node2/api-sidecar-proxy", "5xx", 2)
    elsewhere = Ejected("other", "node1/api-sidecar-proxy", "5xx", 1)
    found = listed(seen, ejected=(gone, elsewhere))
    assert outs(found) == ["", "ejected by 2 of the workers: 5xx"]


def test_what_is_out_is_what_the_snapshot_leaves_out() -> None:
    seen = observed(*(instance(number=n, checks=("critical",) * (n % 2)) for n in (1, 2, 3)))
    (found,) = listed(seen).targets
    why = {one for (_, one), reason in reasons(seen, "api", ()).why.items() if reason}
    assert (
        why
        == {one.id for one in found.endpoints if one.out}
        == {
            "node1/api-sidecar-proxy",
            "node3/api-sidecar-proxy",
        }
    )


def test_a_subsets_filter_is_told() -> None:
    assert listed(observed(instance())).targets[0].filter == FILTER
    strict = observed(instance(), OnlyPassing=True)
    assert listed(strict).targets[0].filter == f"{FILTER} and OnlyPassing"


def test_the_only_node_that_is_silent_serves_and_is_not_called_out() -> None:
    silent = msgspec.convert(
        msgspec.to_builtins(instance())
        | {"Checks": [{"CheckID": "serfHealth", "Status": "critical"}]},
        Instance,
    )
    (one,) = listed(observed(silent)).targets[0].endpoints
    assert (one.health, one.out) == ("warning", "")


def test_instances_that_are_filtered_out_or_have_no_sidecar() -> None:
    plain = [
        msgspec.convert(
            {
                "Node": {"Node": f"node{number}", "Address": f"10.0.0.{number}"},
                "Service": {"ID": "api", "Service": "api", "Port": 8000},
                "Checks": [{"Status": "warning"}],
            },
            Instance,
        )
        for number in (1, 7)
    ]
    proxy = {
        "Proxy": {
            "DestinationServiceName": "api",
            "DestinationServiceID": "api",
            "LocalServicePort": 8000,
        }
    }
    seen = observed(instance(number=1, **proxy), outside=(instance(number=2, **proxy),))
    found = listed(seen, *plain)
    assert [(one.id, one.out, one.health) for one in found.others] == [
        ("node2/api-sidecar-proxy", "filtered: in no subset that is led to", "passing"),
        ("node7/api", "no sidecar", "warning"),
    ]
    assert endpoint_id(plain[1]) == "node7/api"


def test_routes_in_order_with_the_rest_last() -> None:
    one, two = target("v1", endpoint("one")), target("v2")
    route = Route(
        "api/0",
        Match(path_prefix="/a", methods=("GET",)),
        prefix_rewrite="/b",
        splits=(Split(9000, one, FieldChanges(add=(("x", "1"),))), Split(1000, two)),
        timeout=0.0,
        idle_timeout=4.0,
        retries=Retries(2, ("reset",)),
        response_fields=FieldChanges(remove=("y",)),
    )
    state = snapshot(api(routes=(route, Route("api/1", target=two)), timeout=9.0))
    found = listing.routes(state, "api")
    assert isinstance(found, Routes)
    first, second, rest = found.routes
    assert (first.entry, first.criteria) == (
        "service-router/api: Routes[0]",
        ("path begins with /a", "method GET"),
    )
    assert first.legs == ((9000, "v1"), (1000, "v2"))
    assert first.does == (
        "rewrite to /b",
        "no timeout",
        "idle timeout 4 s",
        "2 retries after a reset before the answer",
        "response header: remove y",
        "request header: add x: 1 (to v1)",
    )
    assert second.legs == ((10000, "v2"),)
    assert (rest.name, rest.legs, rest.does) == ("", ((10000, "api"),), ("timeout 9 s",))


def test_an_unknown_upstream_is_a_problem() -> None:
    state = snapshot(api())
    told = "nope: is no upstream in force. Known are api"
    for found in (
        listing.routes(state, "nope"),
        listing.endpoints(state, "nope", Knowledge(now=0.0)),
    ):
        assert isinstance(found, list)
        assert str(found[0]) == told


def test_an_upstream_without_observations_is_listed_too() -> None:
    """After a start without Consul only the snapshot is there."""
    state = snapshot(api())
    found = listing.endpoints(state, "api", Knowledge(now=0.0))
    assert isinstance(found, Endpoints)
    assert [one.id for one in found.targets[0].endpoints] == ["node/one"]
    assert found.others == ()
