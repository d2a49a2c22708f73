from __future__ import annotations

from msgspec.structs import replace
from tests.support.answers import chain, instance, leaf

from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.chain_answer import Subset
from fleetmesh.plan.observed import (
    Observed,
    Watch,
    WatchCatalog,
    WatchChain,
    WatchInstances,
    WatchIntentions,
    WatchLeaf,
    WatchProxyDefaults,
    WatchResolvers,
    WatchRoots,
    WatchServiceDefaults,
    absent,
    called,
    chain_of,
    forget,
    wanted_watches,
)
from fleetmesh.plan.subsets import ServiceResolver
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


def test_instances_without_a_sidecar_only_where_a_setting_is_about_them() -> None:
    """Not of services that have one, under whatever name."""
    odd = InstanceQuery("odd")
    seen = Observed(
        catalog=frozenset({"consul", "db", "api", "api-sidecar-proxy", "odd"}),
        instances={odd: (instance("odd"),)},
    )
    own = WatchInstances(InstanceQuery("db", own=True))
    assert own not in wanted_watches(SETTINGS, seen, ())
    for setting in WithoutSidecar:
        watches = wanted_watches(replace(SETTINGS, without_sidecar=setting), seen, ())
        assert watches - wanted_watches(SETTINGS, seen, ()) == {own}


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


SUBSET, AWAY = "v2.api.default.dc1", "api.default.dc2"
RESOLVERS = (ServiceResolver(name="api", subsets={"v2": Subset(filter="Service.Meta.v == 2")}),)


def test_a_subset_takes_its_resolver_and_its_own_instances() -> None:
    seen = Observed(datacenter="dc1", catalog=frozenset({"api"}))
    expected: set[Watch] = {WatchInstances(API), WatchResolvers()}
    assert wanted_watches(SETTINGS, seen, {SUBSET}) == BASE | expected
    seen = replace(seen, instances={API: (instance(),)}, chains={"api": chain("api")})
    expected |= {WatchChain("api")}
    assert wanted_watches(SETTINGS, seen, {SUBSET}) == BASE | expected
    seen = replace(seen, resolvers=RESOLVERS)
    expected |= {WatchInstances(InstanceQuery("api", "", "Service.Meta.v == 2"))}
    assert wanted_watches(SETTINGS, seen, {SUBSET}) == BASE | expected


def test_another_datacenters_service_need_not_be_in_this_ones_catalog() -> None:
    query = InstanceQuery("api", "dc2")
    seen = Observed(datacenter="dc1", catalog=frozenset())
    assert wanted_watches(SETTINGS, seen, {AWAY}) == BASE | {WatchInstances(query)}
    assert not absent(AWAY, seen)
    seen = replace(seen, instances={query: (instance(),)})
    expected = BASE | {WatchInstances(query), WatchChain("api", "dc2")}
    assert wanted_watches(SETTINGS, seen, {AWAY}) == expected
    there = replace(chain("api", Datacenter="dc2"), datacenter="dc2")
    seen = replace(seen, chains={WatchChain("api", "dc2").key: there})
    assert chain_of(AWAY, seen) is there
    assert wanted_watches(SETTINGS, seen, {AWAY}) == expected
    assert absent(AWAY, replace(seen, instances={query: ()}))


def test_what_is_wanted_by_name_is_there_when_consul_has_it() -> None:
    seen = Observed(
        datacenter="dc1",
        catalog=frozenset({"api"}),
        wanted=frozenset({"api", SUBSET, "v3.api.default.dc1", AWAY}),
    )
    assert called(seen) == ()
    seen = replace(seen, instances={API: (instance(),)}, chains={"api": chain("api")})
    assert called(seen) == ()
    assert not absent(SUBSET, seen)
    seen = replace(seen, resolvers=RESOLVERS)
    assert called(seen) == (SUBSET,)
    assert not absent(SUBSET, seen)
    assert absent("v3.api.default.dc1", seen)
    assert absent("v2.nobody.default.dc1", seen)
    assert absent("web-sidecar-proxy", seen)
    assert forget(seen, WatchResolvers()).resolvers is None
    assert forget(seen, WatchChain("api")).chains == {}
    assert forget(seen, WatchChain("api", "dc2")).chains == seen.chains
