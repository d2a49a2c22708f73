from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from tests.support.answers import NOON, TRUST, chain, instance, leaf

from fleetmesh.model.snapshot import ExposedPath, Snapshot
from fleetmesh.model.traffic import (
    Endpoint,
    Health,
    Limits,
    PassiveHealth,
    Protocol,
    RateLimit,
    Tries,
    Upstream,
)
from fleetmesh.plan.addresses import owner
from fleetmesh.plan.answers import (
    Check,
    Instance,
    IntentionEntry,
    Root,
    Roots,
)
from fleetmesh.plan.chain import InstanceQuery
from fleetmesh.plan.chain_answer import LoadBalancer, Subset
from fleetmesh.plan.compile import Compiled, compile_snapshot
from fleetmesh.plan.defaults import (
    ServiceDefaults,
    UpstreamConfig,
    UpstreamDefaults,
    UpstreamLimits,
)
from fleetmesh.plan.exposed import Rerouted
from fleetmesh.plan.observed import Observed
from fleetmesh.plan.subsets import ServiceResolver
from fleetmesh.settings import ServiceSettings, Settings, UpstreamSettings

SETTINGS = Settings(address="10.0.0.1", services=(ServiceSettings(name="web", port=8080),))


def observed(*instances: Instance, **more: Any) -> Observed:
    fields: dict[str, Any] = {
        "datacenter": "dc1",
        "node": "n",
        "roots": Roots(TRUST.upper(), [Root("ROOT", active=True), Root("OLD")]),
        "intentions": (),
        "default_allow": False,
        "catalog": frozenset({"consul", "api", "api-sidecar-proxy"}),
        "chains": {"api": chain("api"), "web": chain("web")},
        "instances": {InstanceQuery("api"): instances},
        "leaves": {"web": leaf("web")},
    }
    return Observed(**(fields | more))


def compiled(
    seen: Observed, settings: Settings = SETTINGS, previous: Snapshot | None = None
) -> Compiled:
    result = compile_snapshot(settings, seen, previous)
    assert isinstance(result, Compiled), result
    return result


def api(seen: Observed) -> Upstream:
    (upstream,) = compiled(seen).snapshot.upstreams
    return upstream


def endpoint(one: Instance) -> Endpoint:
    return api(observed(one)).target.endpoints[0]


@pytest.mark.parametrize("missing", ["roots", "intentions", "default_allow", "catalog"])
def test_no_snapshot_without(missing: str) -> None:
    """Nothing is served on a guess: no roots, no policy, no catalog, no snapshot."""
    problems = compile_snapshot(SETTINGS, replace(observed(), **{missing: None}))
    assert isinstance(problems, list)
    assert len(problems) == 1


def test_local_service_has_identity_leaf_and_all_roots() -> None:
    snapshot = compiled(observed()).snapshot
    (web,) = snapshot.services
    assert str(web.spiffe_id) == f"spiffe://{TRUST}/ns/default/dc/dc1/svc/web"
    assert web.leaf is not None
    assert (web.leaf.not_before, web.leaf.key) == (NOON.timestamp(), "KEY")
    assert snapshot.roots == ("ROOT", "OLD")
    assert snapshot.trust_domain == TRUST


def test_leaf_not_yet_fetched_is_the_previous_one_of_the_same_identity() -> None:
    before = compiled(observed()).snapshot
    without = observed(leaves={})
    assert compiled(without).snapshot.services[0].leaf is None
    assert compiled(without, previous=before).snapshot.services[0].leaf is not None
    other = replace(without, roots=Roots("other.consul", [Root("ROOT")]))
    assert compiled(other, previous=before).snapshot.services[0].leaf is None


def test_declared_protocol_wins_over_service_defaults() -> None:
    declared = replace(SETTINGS.services[0], protocol=Protocol.TCP)
    snapshot = compiled(observed(), replace(SETTINGS, services=(declared,))).snapshot
    assert snapshot.services[0].protocol is Protocol.TCP
    assert compiled(observed()).snapshot.services[0].protocol is Protocol.HTTP


@pytest.mark.parametrize(
    ("protocol", "served"),
    [("http", "http"), ("tcp", "tcp"), ("http2", "tcp"), ("grpc", "tcp"), ("", "tcp")],
)
def test_protocols_newer_than_http_are_carried_as_tcp(protocol: str, served: str) -> None:
    chains = {"api": chain("api", protocol), "web": chain("web")}
    assert api(observed(instance(), chains=chains)).protocol == served


def test_only_sidecars_of_fleetmesh_are_offered_to_share_connections() -> None:
    """Others may take the protocol that TLS agrees on for the one that follows."""
    assert not endpoint(instance()).shares
    assert not endpoint(instance(Meta={"managed-by": "hand"})).shares
    assert endpoint(instance(Meta={"managed-by": "fleetmesh"})).shares


AUTO = {"Meta": {"fleetmesh-protocol": "auto"}}


def test_a_protocol_is_found_out_where_every_instance_does_so() -> None:
    """One that does not may have an application that would be taken for another."""
    as_tcp = {"chains": {"api": chain("api", "tcp"), "web": chain("web")}}
    both = (instance(number=1, **AUTO), instance(number=2, **AUTO))
    assert api(observed(*both, **as_tcp)).protocol is Protocol.AUTO
    mixed = (instance(number=1, **AUTO), instance(number=2))
    assert api(observed(*mixed, **as_tcp)).protocol is Protocol.TCP
    assert api(observed(**as_tcp, instances={InstanceQuery("api"): both[:1]})).protocol == "auto"


@pytest.mark.parametrize(("said", "served"), [("http", "http"), ("grpc", "tcp")])
def test_what_consul_says_wins_over_finding_out(said: str, served: str) -> None:
    """Its entries are the mesh's word to all callers; its tcp is also what silence means."""
    chains = {"api": chain("api", said), "web": chain("web")}
    assert api(observed(instance(**AUTO), chains=chains)).protocol == served


def test_the_meta_that_declares_it_is_not_the_operators() -> None:
    assert endpoint(instance(**AUTO)).meta == {}


@pytest.mark.parametrize(
    ("checks", "weights", "health", "weight"),
    [
        (("passing", "passing"), {}, Health.PASSING, 1),
        ((), {}, Health.PASSING, 1),
        (("passing", "critical"), {}, Health.CRITICAL, 1),
        (("passing", "warning"), {"Passing": 10, "Warning": 2}, Health.WARNING, 2),
        (("critical", "warning"), {"Passing": 10, "Warning": 2}, Health.CRITICAL, 10),
        (("passing",), {"Passing": 0, "Warning": 1}, Health.CRITICAL, 1),
        (("passing",), {"Passing": 1000, "Warning": 1}, Health.PASSING, 128),
    ],
)
def test_health_and_weight(
    checks: tuple[str, ...], weights: dict[str, int], health: Health, weight: int
) -> None:
    """Critical gets nothing, warning its own weight, a weight below one nothing, at most 128."""
    found = endpoint(instance(checks=checks, Weights=weights))
    assert (found.health, found.weight) == (health, weight)


def node_gone(number: int, *others: str) -> Instance:
    """An instance whose host's Consul agent is gone."""
    checks = [Check("critical", "serfHealth"), *(Check(status, "own") for status in others)]
    return replace(instance(number=number), checks=checks)


@pytest.mark.parametrize(
    ("instances", "healths"),
    [
        ((node_gone(1),), ["warning"]),
        ((node_gone(1, "passing"), node_gone(2, "critical")), ["warning", "critical"]),
        ((node_gone(1), instance(number=2)), ["critical", "passing"]),
        ((node_gone(1), instance(number=2, checks=("critical",))), ["warning", "critical"]),
    ],
)
def test_silent_consul_agent_takes_no_service_down(
    instances: tuple[Instance, ...], healths: list[str]
) -> None:
    """Its instances get nothing while others are left, and go on where none are."""
    endpoints = api(observed(*instances)).target.endpoints
    assert [e.health.value for e in endpoints] == healths


@pytest.mark.parametrize(
    ("check", "health"),
    [
        (Check("critical", "c", type="tcp"), "warning"),
        (Check("critical", "c", type="alias"), "warning"),
        (Check("critical", "c", type="tcp", output="connection refused"), "critical"),
        (Check("critical", "c", type="ttl"), "critical"),
        (Check("critical", "_service_maintenance:api", type="maintenance"), "critical"),
        (Check("maintenance", "c"), "critical"),
    ],
)
def test_checks_that_were_not_made_yet_take_no_service_down(check: Check, health: str) -> None:
    """A Consul agent that was restarted says critical until it has looked; what others report, and
    what a look has found, counts."""
    endpoints = api(observed(replace(instance(), checks=[check]))).target.endpoints
    assert [e.health.value for e in endpoints] == [health]


def test_address_of_the_service_wins_over_the_nodes() -> None:
    assert endpoint(instance()).address == "10.0.0.1"
    there = endpoint(
        instance(
            Address="192.0.2.7",
            TaggedAddresses={"lan_ipv6": {"Address": "2001:db8::7", "Port": 21000}},
        )
    )
    assert (there.address, there.address6) == ("192.0.2.7", "2001:db8::7")


def test_destinations_are_every_address_with_the_applications_port() -> None:
    """In the text form that sockets report, virtual address included; names are none."""
    upstream = api(
        observed(
            instance(
                Address="192.0.2.7",
                TaggedAddresses={
                    "lan_ipv6": {"Address": "2001:DB8:0::7", "Port": 21000},
                    "consul-virtual": {"Address": "240.0.0.1", "Port": 21000},
                    "wan": {"Address": "203.0.113.9", "Port": 21000},
                },
            ),
            instance(number=2, Address="host.example"),
        )
    )
    assert upstream.destinations == (
        ("192.0.2.7", 8000),
        ("2001:db8::7", 8000),
        ("240.0.0.1", 8000),
    )


def test_destination_of_two_services_belongs_to_one_and_is_told() -> None:
    both = observed(
        catalog=frozenset({"api", "db"}),
        chains={"api": chain("api"), "db": chain("db")},
        instances={
            InstanceQuery("api"): (instance("api"),),
            InstanceQuery("db"): (instance("db"),),
        },
    )
    result = compiled(both)
    owners = {u.service: u.destinations for u in result.snapshot.upstreams}
    assert owners == {"api": (("10.0.0.1", 8000),), "db": ()}
    assert [w.path for w in result.warnings] == ["catalog: db"]


def test_redirect_leads_to_the_other_services_instances_and_identity() -> None:
    """The destinations stay the called service's, the identity to be proven is the target's."""
    seen = observed(
        chains={"api": chain("api", Service="api-next")},
        instances={
            InstanceQuery("api"): (instance("api"),),
            InstanceQuery("api-next"): (instance("api-next", 5),),
        },
    )
    upstream = api(seen)
    assert upstream.destinations == (("10.0.0.1", 8000),)
    assert [e.address for e in upstream.target.endpoints] == ["10.0.0.5"]
    assert upstream.target.spiffe_id.service == "api-next"


def test_redirect_has_no_endpoint_before_its_instances_are_known() -> None:
    """Never those of another identity."""
    seen = observed(instance(), chains={"api": chain("api", Service="api-next")})
    assert api(seen).target.endpoints == ()


def test_default_subset_asks_with_its_filter_and_only_passing() -> None:
    subset = {"Filter": "Service.Meta.version == v2", "OnlyPassing": True}
    query = InstanceQuery("api", "", "Service.Meta.version == v2")
    seen = observed(
        chains={"api": chain("api", Subset=subset, ServiceSubset="v2")},
        instances={
            InstanceQuery("api"): (instance(), instance(number=2)),
            query: (instance(number=2, checks=("warning",)),),
        },
    )
    (only,) = api(seen).target.endpoints
    assert (only.id, only.health) == ("node2/api-sidecar-proxy", Health.CRITICAL)


def subset(name: str) -> dict[str, Any]:
    return {"Subset": {"Filter": name}, "ServiceSubset": name}


def test_changed_chain_waits_for_its_instances() -> None:
    """What served before serves until then; without that there is no endpoint. Nobody else's."""
    before = compiled(observed(instance())).snapshot
    seen = observed(instance(number=2), chains={"api": chain("api", **subset("v2"))})
    (kept,) = compiled(seen, previous=before).snapshot.upstreams
    assert kept == replace(before.upstreams[0], destinations=(("10.0.0.2", 8000),))
    assert api(seen).target.endpoints == ()
    told = replace(
        seen,
        instances={**seen.instances, InstanceQuery("api", "", "v2"): (instance(number=3),)},
    )
    (now,) = compiled(told, previous=before).snapshot.upstreams
    assert [endpoint.address for endpoint in now.target.endpoints] == ["10.0.0.3"]


def test_instances_that_consul_refuses_to_tell_are_a_problem_of_the_subset() -> None:
    query = InstanceQuery("api", "", "v2")
    seen = observed(instance(), chains={"api": chain("api", **subset("v2"))})
    seen = replace(
        seen, instances={**seen.instances, query: ()}, refusals={query: "500 is not valid"}
    )
    (warning,) = compiled(seen).warnings
    assert warning.path == "service-resolver/api: Subsets[v2]"
    assert "500 is not valid" in warning.rule
    assert api(seen).target.endpoints == ()


def test_another_datacenters_silence_holds_no_change_up() -> None:
    before = compiled(observed(instance())).snapshot
    seen = observed(instance(), chains={"api": chain("api", Datacenter="dc2")})
    (upstream,) = compiled(seen, previous=before).snapshot.upstreams
    assert (upstream.target.datacenter, upstream.target.endpoints) == ("dc2", ())


@pytest.mark.parametrize(
    ("there", "address", "port"),
    [
        ({}, "10.0.0.1", 21000),
        ({"Address": "192.0.2.1"}, "192.0.2.1", 21000),
        ({"TaggedAddresses": {"wan": {"Address": "203.0.113.9", "Port": 443}}}, "203.0.113.9", 443),
    ],
)
def test_instances_elsewhere_are_reached_by_their_wide_address(
    there: dict[str, Any], address: str, port: int
) -> None:
    seen = observed(
        chains={"api": chain("api", Datacenter="dc2")},
        instances={
            InstanceQuery("api"): (instance(),),
            InstanceQuery("api", "dc2"): (instance(**there),),
        },
    )
    upstream = api(seen)
    assert [(e.address, e.port) for e in upstream.target.endpoints] == [(address, port)]
    assert upstream.target.spiffe_id.datacenter == "dc2"


def test_gateways_are_dialled_in_the_targets_name() -> None:
    """Local ones by their address here; the identity to be proven is the target's."""
    seen = observed(
        chains={"api": chain("api", Datacenter="dc2", MeshGateway={"Mode": "local"})},
        instances={
            InstanceQuery("api"): (instance(),),
            InstanceQuery("mesh-gateway", gateway=True): (
                instance("mesh-gateway", 9, TaggedAddresses={"wan": {"Address": "203.0.113.9"}}),
            ),
        },
    )
    target = api(seen).target
    assert [e.address for e in target.endpoints] == ["10.0.0.9"]
    assert (target.sni, target.spiffe_id.service, target.spiffe_id.datacenter) == (
        "sni",
        "api",
        "dc2",
    )


def test_defaults_reach_local_services_and_calls() -> None:
    entry = ServiceDefaults(
        "web",
        UpstreamConfig(
            UpstreamDefaults(
                connect_timeout_ms=1500,
                limits=UpstreamLimits(7),
                passive_health_check={"MaxFailures": 4},
            )
        ),
        local_connect_timeout_ms=2000,
        local_request_timeout_ms=3000,
        max_inbound_connections=50,
        rate_limits={"InstanceLevel": {"RequestsPerSecond": 100}},
        meta={"fleetmesh-adaptive-concurrency": "true"},
    )
    result = compiled(observed(instance(), service_defaults=(entry,)))
    (web,) = result.snapshot.services
    assert (web.connect_timeout, web.request_timeout, web.max_connections) == (2.0, 3.0, 50)
    (upstream,) = result.snapshot.upstreams
    assert (upstream.target.connect_timeout, upstream.target.limits) == (1.5, Limits(7))
    assert upstream.target.passive_health == PassiveHealth(max_failures=4)
    assert web.adaptive_concurrency
    assert web.rate_limits == (RateLimit("instance", 100.0),)
    assert not result.warnings


def test_meta_of_a_service_says_how_it_is_tried() -> None:
    said = {"retries": "0", "per-try-timeout": "250ms", "stream-timeout": "1h", "hedge": "true"}
    meta = {f"fleetmesh-{key}": value for key, value in said.items()}
    seen = observed(instance(), service_defaults=(ServiceDefaults("api", meta=meta),))
    assert api(seen).target.tries == Tries(0, 0.25, True, 3600.0)
    assert compiled(seen).warnings == ()
    wrong = ServiceDefaults("api", meta={"fleetmesh-hedge": "yes", "fleetmesh-retries": "11"})
    seen = observed(instance(), service_defaults=(wrong,))
    assert api(seen).target.tries == Tries()
    assert len(compiled(seen).warnings) == 2


def test_meta_of_a_service_says_when_it_is_ejected_where_its_callers_do_not() -> None:
    said = {
        "max-failures": "7",
        "interval": "3s",
        "base-ejection-time": "500ms",
        "max-ejection-percent": "30",
    }
    called = ServiceDefaults("api", meta={f"fleetmesh-outlier-{k}": v for k, v in said.items()})
    seen = observed(instance(), service_defaults=(called,))
    assert api(seen).target.passive_health == PassiveHealth(3.0, 7, None, 30, 0.5)
    check = {"MaxFailures": 4, "MaxEjectionPercent": 0}
    caller = ServiceDefaults("web", UpstreamConfig(UpstreamDefaults(passive_health_check=check)))
    seen = observed(instance(), service_defaults=(called, caller))
    assert api(seen).target.passive_health == PassiveHealth(3.0, 4, None, 0, 0.5)
    assert compiled(seen).warnings == ()


def test_meta_of_a_service_chooses_its_balancing_where_no_resolver_does() -> None:
    entry = ServiceDefaults("api", meta={"fleetmesh-balancing": "maglev", "fleetmesh-zones": "x"})
    seen = observed(instance(), service_defaults=(entry,))
    assert api(seen).target.balancing.policy == "maglev"
    assert [w.path for w in compiled(seen).warnings] == [
        "service-defaults/api: Meta[fleetmesh-zones]"
    ]
    answered = chain("api")
    (resolver,) = answered.nodes.values()
    chosen = replace(resolver, load_balancer=LoadBalancer(policy="round_robin"))
    chains = {"api": replace(answered, nodes={"opaque": chosen}), "web": chain("web")}
    assert api(replace(seen, chains=chains)).target.balancing.policy == "round_robin"


@pytest.mark.parametrize(
    ("setting", "meta", "preferred"),
    [
        (False, None, ""),
        (True, None, "eu-1a"),
        (False, "true", "eu-1a"),
        (True, "false", ""),
    ],
)
def test_the_own_zone_is_preferred_where_somebody_says_so(
    setting: bool, meta: str | None, preferred: str
) -> None:
    entry = ServiceDefaults("api", meta={"fleetmesh-zone-aware": meta} if meta else None)
    there = instance()
    there = replace(there, node=replace(there.node, meta={"zone": "eu-1b"}))
    seen = observed(there, zone="eu-1a", service_defaults=(entry,))
    settings = replace(SETTINGS, upstream=UpstreamSettings(zone_aware=setting, zone_spill=3))
    (upstream,) = compiled(seen, settings).snapshot.upstreams
    assert upstream.target.balancing.local_zone == preferred
    assert upstream.target.balancing.spill == (3 if preferred else 8)
    assert upstream.target.endpoints[0].zone == "eu-1b"


def test_checks_of_before_are_exposed_until_consul_tells_them_again() -> None:
    path = ExposedPath(21500, "/up", 8080, "127.0.0.1")
    seen = observed(rerouted={"web": Rerouted((path,), ("g",))})
    result = compiled(seen)
    assert result.snapshot.services[0].exposed == (path,)
    assert [w.path for w in result.warnings] == ["service-defaults/web: Expose.Checks"]
    untold = replace(seen, rerouted=None)
    assert compiled(untold, previous=result.snapshot).snapshot.services[0].exposed == (path,)
    assert compiled(untold).snapshot.services[0].exposed == ()


def test_protocol_that_is_carried_as_tcp_is_told() -> None:
    seen = observed(instance(), chains={"api": chain("api", "grpc"), "web": chain("web")})
    (warning,) = compiled(seen).warnings
    assert warning.path == "service-defaults/api: Protocol"
    assert "grpc" in warning.rule


def test_service_without_sidecars_is_no_upstream() -> None:
    assert compiled(observed()).snapshot.upstreams == ()


def test_intentions_of_the_destination_highest_precedence_first() -> None:
    entries = (
        IntentionEntry("*", "*", "deny", 5),
        IntentionEntry("*", "web", "deny", 8),
        IntentionEntry("shop", "web", "allow", 9),
        IntentionEntry("shop", "other", "allow", 9),
        IntentionEntry("shop", "*", "allow", 6),
    )
    (web,) = compiled(observed(intentions=entries)).snapshot.services
    assert [str(i) for i in web.intentions] == [
        "allow shop => web",
        "deny * => web",
        "allow shop => *",
        "deny * => *",
    ]


@pytest.mark.parametrize(
    "entry",
    [
        IntentionEntry("web", "web", "allow", 9, source_peer="other-cluster"),
        IntentionEntry("web", "web", "allow", 9, source_namespace="team"),
    ],
)
def test_intention_of_a_foreign_source_does_not_speak_of_ours(entry: IntentionEntry) -> None:
    (web,) = compiled(observed(intentions=(entry,))).snapshot.services
    assert web.intentions == ()


@pytest.mark.parametrize("action", ["", "audit"])
def test_intention_without_a_known_action_denies(action: str) -> None:
    result = compiled(observed(intentions=(IntentionEntry("shop", "web", action, 9),)))
    assert [str(i) for i in result.snapshot.services[0].intentions] == ["deny shop => web"]
    assert len(result.warnings) == 1


@pytest.mark.parametrize(("protocol", "told"), [("tcp", 1), ("http", 0)])
def test_permissions_for_a_tcp_service_are_told(protocol: str, told: int) -> None:
    permission = {"Action": "allow", "HTTP": {"PathPrefix": "/"}}
    entries = (IntentionEntry("shop", "web", permissions=[permission]),)
    local = ServiceSettings(name="web", port=8080, protocol=Protocol(protocol))
    result = compiled(observed(intentions=entries), replace(SETTINGS, services=(local,)))
    (web,) = result.snapshot.services
    assert len(web.intentions[0].permissions) == 1
    assert [w.rule for w in result.warnings] == [
        "web is a tcp service: the whole source is denied"
    ] * told


def test_equal_observations_compile_to_equal_snapshots() -> None:
    """The order of Consul's answers is no change."""
    one, two = instance(number=1, Meta={"a": "1", "b": "2"}), instance(number=2)
    swapped = instance(number=1, Meta={"b": "2", "a": "1"})
    assert api(observed(one, two)) == api(observed(two, swapped))


def test_an_address_belongs_to_the_first_service_by_name() -> None:
    one = instance()
    assert one.service.proxy is not None
    here = (one.service.address or one.node.address, one.service.proxy.local_port)
    other = replace(
        one, service=replace(one.service, proxy=replace(one.service.proxy, destination="a"))
    )
    assert owner((one,), here) == one.service.proxy.destination
    assert owner((one, other), here) == "a"
    assert owner((one,), (here[0], here[1] + 1)) is None
    assert owner((), here) is None


def test_a_subset_is_an_upstream_of_its_own() -> None:
    key, query = "v2.api.default.dc1", InstanceQuery("api", "", "Service.Meta.v == 2")
    seen = observed(
        wanted=frozenset({"api", key, "v3.api.default.dc1"}),
        resolvers=(
            ServiceResolver(name="api", subsets={"v2": Subset(filter="Service.Meta.v == 2")}),
        ),
        instances={InstanceQuery("api"): (instance(), instance(number=2)), query: (instance(),)},
        virtual={key: ("248.0.0.9",)},
    )
    upstreams = {one.service: one for one in compiled(seen).snapshot.upstreams}
    assert upstreams.keys() == {"api", key}
    subset = upstreams[key]
    assert (subset.virtual_addresses, subset.destinations) == (("248.0.0.9",), ())
    assert (subset.target.service, subset.target.subset) == ("api", "v2")
    assert subset.target.sni.lower() == f"v2.api.default.dc1.internal.{TRUST}"
    assert subset.target.spiffe_id == upstreams["api"].target.spiffe_id
    assert len(subset.target.endpoints) == 1
    assert len(upstreams["api"].target.endpoints) == 2


def test_a_service_of_another_datacenter_is_an_upstream_of_its_own() -> None:
    key = "api.default.dc2"
    there = replace(chain("api", Datacenter="dc2", SNI=""), datacenter="dc2")
    seen = observed(
        catalog=frozenset(),
        wanted=frozenset({key}),
        chains={key: there},
        instances={InstanceQuery("api", "dc2"): (instance(),)},
    )
    (upstream,) = compiled(seen).snapshot.upstreams
    assert upstream.service == key
    assert str(upstream.target.spiffe_id) == f"spiffe://{TRUST}/ns/default/dc/dc2/svc/api"
    assert len(upstream.target.endpoints) == 1
