from __future__ import annotations

from tests.support.answers import chain, instance, leaf

from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.observed import (
    Observed,
    WatchCatalog,
    WatchChain,
    WatchInstances,
    WatchIntentions,
    WatchLeaf,
    WatchProxyDefaults,
    WatchRoots,
    WatchServiceDefaults,
    forget,
    wanted_watches,
)
from fleetmesh.settings import ServiceSettings, Settings

SETTINGS = Settings(address="10.0.0.1", services=(ServiceSettings(name="web", port=8080),))
BASE = {
    WatchRoots(),
    WatchIntentions(),
    WatchCatalog(),
    WatchServiceDefaults(),
    WatchProxyDefaults(),
    WatchLeaf("web"),
    WatchChain("web"),
}
API = InstanceQuery("api")


def test_before_any_answer() -> None:
    assert wanted_watches(SETTINGS, Observed(), {"api"}) == BASE


def test_instances_only_of_what_is_wanted_and_in_the_catalog() -> None:
    seen = Observed(catalog=frozenset({"consul", "api", "cart", "api-sidecar-proxy"}))
    assert wanted_watches(SETTINGS, seen, ()) == BASE
    wanted = {"api", "gone", "consul", "api-sidecar-proxy"}
    assert wanted_watches(SETTINGS, seen, wanted) == BASE | {WatchInstances(API)}


def test_chain_only_of_services_with_sidecars() -> None:
    seen = Observed(catalog=frozenset({"api"}), instances={API: ()})
    assert WatchChain("api") not in wanted_watches(SETTINGS, seen, {"api"})
    seen = Observed(catalog=frozenset({"api"}), instances={API: (instance(),)})
    assert WatchChain("api") in wanted_watches(SETTINGS, seen, {"api"})


def test_redirected_chain_adds_the_targets_instances() -> None:
    seen = Observed(
        datacenter="dc1",
        catalog=frozenset({"api"}),
        instances={API: (instance(),)},
        chains={"api": chain("api", Service="next", Datacenter="dc2")},
    )
    extra = WatchInstances(InstanceQuery("next", "dc2"))
    assert wanted_watches(SETTINGS, seen, {"api"}) == BASE | {
        WatchInstances(API),
        WatchChain("api"),
        extra,
    }


def test_two_upstreams_share_the_watch_of_one_target() -> None:
    target = InstanceQuery("next", "dc2")
    seen = Observed(
        datacenter="dc1",
        catalog=frozenset({"api", "cart"}),
        instances={API: (instance(),), InstanceQuery("cart"): (instance(),)},
        chains={
            name: chain(name, Service="next", Datacenter="dc2", ID="next")
            for name in ("api", "cart")
        },
    )
    watches = wanted_watches(SETTINGS, seen, {"api", "cart"}) - BASE
    assert len(watches) == 5
    assert WatchInstances(target) in watches


def test_vanished_service_leaves_nothing_behind() -> None:
    seen = Observed(
        leaves={"web": leaf("web")},
        chains={"api": chain("api")},
        instances={API: (instance(),)},
    )
    for watch in (WatchLeaf("web"), WatchChain("api"), WatchInstances(API)):
        seen = forget(seen, watch)
    assert seen == Observed()
