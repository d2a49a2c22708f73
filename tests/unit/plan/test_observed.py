from __future__ import annotations

from msgspec.structs import replace
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
from fleetmesh.settings import ServiceSettings, Settings, WithoutSidecar

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
    assert wanted_watches(SETTINGS, Observed()) == BASE


def test_catalog_adds_instances_but_not_of_sidecars_or_consul() -> None:
    seen = Observed(catalog=frozenset({"consul", "api", "api-sidecar-proxy"}))
    assert wanted_watches(SETTINGS, seen) == BASE | {WatchInstances(API)}


def test_chain_only_of_services_with_sidecars() -> None:
    seen = Observed(catalog=frozenset({"api"}), instances={API: ()})
    assert WatchChain("api") not in wanted_watches(SETTINGS, seen)
    seen = Observed(catalog=frozenset({"api"}), instances={API: (instance(),)})
    assert WatchChain("api") in wanted_watches(SETTINGS, seen)


def test_instances_without_a_sidecar_only_where_a_setting_is_about_them() -> None:
    """Not of services that have one, under whatever name."""
    odd = InstanceQuery("odd")
    seen = Observed(
        catalog=frozenset({"consul", "db", "api", "api-sidecar-proxy", "odd"}),
        instances={odd: (instance("odd"),)},
    )
    own = WatchInstances(InstanceQuery("db", own=True))
    assert own not in wanted_watches(SETTINGS, seen)
    for setting in WithoutSidecar:
        watches = wanted_watches(replace(SETTINGS, without_sidecar=setting), seen)
        assert watches - wanted_watches(SETTINGS, seen) == {own}


def test_redirected_chain_adds_the_targets_instances() -> None:
    seen = Observed(
        datacenter="dc1",
        catalog=frozenset({"api"}),
        instances={API: (instance(),)},
        chains={"api": chain("api", Service="next", Datacenter="dc2")},
    )
    extra = WatchInstances(InstanceQuery("next", "dc2"))
    assert wanted_watches(SETTINGS, seen) == BASE | {WatchInstances(API), WatchChain("api"), extra}


def test_vanished_service_leaves_nothing_behind() -> None:
    seen = Observed(
        leaves={"web": leaf("web")},
        chains={"api": chain("api")},
        instances={API: (instance(),)},
    )
    for watch in (WatchLeaf("web"), WatchChain("api"), WatchInstances(API)):
        seen = forget(seen, watch)
    assert seen == Observed()
