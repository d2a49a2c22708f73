"""What is explained is what the data plane does: sites of the proxy are asked the same."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import event, given
from hypothesis import strategies as st
from msgspec.structs import replace

from fleetmesh.core.table import Table, link
from fleetmesh.model.explanation import Explanation, How, Outcome, Question
from fleetmesh.model.identity import Action, SpiffeId
from fleetmesh.model.intention import Intention, Permission
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.snapshot import Leaf, LocalService, Mode, Snapshot
from fleetmesh.model.traffic import (
    Balancing,
    Endpoint,
    FieldChanges,
    FieldMatch,
    HashPolicy,
    Health,
    Limits,
    Match,
    Protocol,
    QueryMatch,
    RateLimit,
    Retries,
    Route,
    Split,
    Target,
    Upstream,
)
from fleetmesh.plan.answers import IntentionEntry
from fleetmesh.plan.callee import ASKED, HERE, LACKING, LISTED, NOWHERE
from fleetmesh.plan.criteria import parts
from fleetmesh.plan.defaults import ServiceDefaults
from fleetmesh.plan.destination import key_of
from fleetmesh.plan.explain import Knowledge, explain, request_head
from fleetmesh.plan.leg import changed
from fleetmesh.plan.observed import Observed
from fleetmesh.proxy.site import InboundSite, OutboundSite
from fleetmesh.settings import UpstreamSettings

TRUST = "11111111-2222-3333-4444-555555555555.consul"
LEAF = Leaf("0a", 0.0, 1000.0, "CHAIN", None)
NOW = Knowledge(now=400.0, generation=7)


def local(name: str, **more: Any) -> LocalService:
    identity = SpiffeId(TRUST, "dc1", name)
    body: dict[str, Any] = {"leaf": LEAF} | more
    return LocalService(name, name, "127.0.0.1", 8080, Protocol.HTTP, Mode.STRICT, identity, **body)


def target(name: str, *endpoints: Endpoint, service: str = "api", **more: Any) -> Target:
    return Target(
        name, service, "dc1", f"{name}.sni", SpiffeId(TRUST, "dc1", service), endpoints, **more
    )


def endpoint(name: str, **more: Any) -> Endpoint:
    return Endpoint(f"node/{name}", "10.0.0.1", 21000, **more)


def snapshot(*upstreams: Upstream, **more: Any) -> Snapshot:
    services = more.pop("services", (local("web"),))
    return Snapshot(TRUST, "dc1", "n", ("ROOT",), services, upstreams, default_allow=True, **more)


def api(protocol: Protocol = Protocol.HTTP, **more: Any) -> Upstream:
    own = more.pop("target", target("api", endpoint("one")))
    return Upstream("api", protocol, own, (("10.0.0.1", 8000),), **more)


def get(path: str = "/", host: str = "api", port: int = 80, **headers: str) -> Question:
    fields = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Question("web", host, port, "GET", path, fields)


def explained(
    state: Snapshot, question: Question | None = None, knowledge: Knowledge = NOW
) -> Explanation:
    found = explain(state, question or get(), knowledge)
    assert isinstance(found, Explanation), found
    return found


# The property.


class Plane:
    """What sites ask of a worker."""

    now = 0.0

    def __init__(self, table: Table, draw: Callable[[], int]) -> None:
        self.table = table
        self.draw = draw
        self.now = 0.0


PATHS = ("/", "/a", "/a/b", "/b", "/b/12", "/a%2Fb")
_texts = st.sampled_from(("", "1", "12", "on"))
_field = st.one_of(
    st.builds(
        FieldMatch, st.sampled_from(("x-a", "X-B")), present=st.just(True), invert=st.booleans()
    ),
    st.builds(FieldMatch, st.just("x-a"), exact=st.sampled_from(("1", "on")), invert=st.booleans()),
    st.builds(FieldMatch, st.just("x-b"), prefix=st.just("1"), invert=st.booleans()),
    st.builds(FieldMatch, st.just("x-b"), regex=st.just("[0-9]+"), invert=st.booleans()),
)
_parameter = st.one_of(
    st.builds(QueryMatch, st.sampled_from("pq"), present=st.just(True)),
    st.builds(QueryMatch, st.sampled_from("pq"), exact=st.just("1")),
)
_path = st.one_of(
    st.just({}),
    st.sampled_from(PATHS).map(lambda path: {"path_exact": path}),
    st.sampled_from(PATHS[1:]).map(lambda path: {"path_prefix": path}),
    st.sampled_from(("/b/[0-9]+", "/(a|b)")).map(lambda regex: {"path_regex": regex}),
)
_match = st.builds(
    lambda path, headers, query, methods, case: Match(
        **path, headers=tuple(headers), query=tuple(query), methods=methods, ignore_case=case
    ),
    _path,
    st.lists(_field, max_size=2),
    st.lists(_parameter, max_size=1),
    st.sampled_from(((), (), ("GET",), ("PUT", "GET"))),
    st.booleans(),
)
_endpoints = st.lists(
    st.builds(
        lambda weight, health: (weight, health), st.integers(0, 3), st.sampled_from(list(Health))
    ),
    max_size=3,
)
_changes = st.sampled_from(
    (FieldChanges(), FieldChanges(remove=("x-a",)), FieldChanges(set=(("x-b", "9"),)))
)
_timeouts = st.sampled_from((None, None, 0.0, 2.5))
_balancing = st.sampled_from(
    (
        Balancing(),
        Balancing("least_request"),
        Balancing("maglev", hash_policies=(HashPolicy(header="x-a"),)),
    )
)


@st.composite
def _targets(draw: st.DrawFn) -> list[Target]:
    found = []
    names = ("t0", "t1", "t2")
    for name in names:
        endpoints = tuple(
            endpoint(f"{name}-{number}", weight=weight, health=health)
            for number, (weight, health) in enumerate(draw(_endpoints))
        )
        others = tuple(other for other in names if other != name)
        failover = draw(st.sampled_from(((), others, others[:1])))
        service = draw(st.sampled_from(("api", "cart")))
        found.append(
            target(name, *endpoints, service=service, failover=failover, balancing=draw(_balancing))
        )
    return found


@st.composite
def _splits(draw: st.DrawFn, targets: list[Target]) -> tuple[Split, ...]:
    if draw(st.booleans()):
        return ()
    first = draw(st.integers(0, 10000))
    second = draw(st.integers(0, 10000 - first))
    weights = (first, second, 10000 - first - second)
    return tuple(
        Split(weight, one, draw(_changes)) for weight, one in zip(weights, targets, strict=True)
    )


@st.composite
def _snapshots(draw: st.DrawFn) -> Snapshot:
    targets = draw(_targets())
    routes = []
    for number, match in enumerate(draw(st.lists(_match, max_size=4))):
        rewritable = match.path_exact or match.path_prefix
        routes.append(
            Route(
                f"api/{number}",
                match,
                draw(st.sampled_from((None, *targets))),
                draw(st.sampled_from(("", "/new"))) if rewritable else "",
                draw(_splits(targets)),
                draw(_timeouts),
                request_fields=draw(_changes),
                retries=draw(st.sampled_from((Retries(), Retries(2, ("reset",))))),
            )
        )
    upstream = api(
        target=targets[0],
        routes=tuple(routes),
        splits=draw(_splits(targets)),
        spares=tuple(targets),
        timeout=draw(_timeouts),
    )
    permissions = draw(
        st.sampled_from(
            (
                (),
                (Permission(Action.DENY, path_prefix="/a"), Permission(Action.ALLOW)),
                (Permission(Action.ALLOW, path_exact="/new"),),
            )
        )
    )
    action = Action.DENY if permissions else draw(st.sampled_from(list(Action)))
    intention = Intention("web", "api", action, 9, "", permissions)
    services = (local("web"), local("api", intentions=(intention,)), local("cart"))
    return snapshot(upstream, services=services)


_question = st.builds(
    lambda method, path, p, a, b: Question(
        "web",
        "api",
        80,
        method,
        f"{path}?p={p}" if p else path,
        tuple((name, value) for name, value in (("x-a", a), ("X-B", b)) if value),
    ),
    st.sampled_from(("GET", "PUT", "POST")),
    st.sampled_from(PATHS),
    _texts,
    _texts,
    _texts,
)


@given(_snapshots(), _question, st.integers(0, 1 << 32))
def test_what_is_explained_is_what_sites_do(state: Snapshot, question: Question, seed: int) -> None:
    found = explained(state, question)
    random_bits = random.Random(seed)
    plane = Plane(link(state, 1, None, 0), lambda: random_bits.getrandbits(64))
    assert sum(leg.share for leg in found.legs) == 10000
    taken = [rule for rule in found.rules if rule.taken]
    assert [rule.name for rule in taken] == [found.route] * bool(found.route)
    for rule in found.rules:
        assert all(one.holds for one in rule.criteria) == rule.taken
    for _ in range(12):
        site = OutboundSite(plane, "web", "api", "http", b"api", False)
        head, refusal = request_head(question, 100)
        assert refusal is None
        lane = site.lane((), head)
        assert site.route_name == found.route
        way = site._way.target.id if site._way is not None else "t0"
        same = [
            leg
            for leg in found.legs
            if leg.target.id == way and leg.forwarded == head.target.decode()
        ]
        assert same, "a way that was not explained"
        leg = same[0]
        if isinstance(lane, Refusal):
            event("no endpoint")
            assert leg.refusal == lane.code
            assert found.outcome in (Outcome.REFUSED, Outcome.PARTLY)
            continue
        serving = {one.id: one.endpoints for one in leg.target.failover}
        serving[leg.target.id] = leg.target.endpoints
        event("failover" if leg.target.serving != leg.target.id else "own endpoints")
        live = {one.id for one in serving[leg.target.serving] if not one.out}
        assert lane.endpoint_id in live
        assert leg.target.picks in ("", lane.endpoint_id)
        told = leg.target
        assert (lane.expected, lane.sni) == (told.spiffe_id, told.sni)
        said = site.leg
        own_timeout = said is not None and said.timeout is not None
        assert leg.timeout == (said.timeout if said and own_timeout else 15.0)
        assert leg.timeout_by.startswith("settings") is not own_timeout
        policy = site.retries()
        if policy is not None and policy.by_default and lane.standing is None:
            policy = None
        assert leg.retries == (policy.count if policy is not None else 0)
        before = list(head.lines)
        if said is not None and said.request is not None:
            head.lines = said.request.changed(head.lines, head, "192.0.2.1:1")
        assert bool(leg.request_changes) == (sorted(before) != sorted(head.lines)) or len(same) > 1
        # The callee.
        callee = SpiffeId.parse(lane.expected)
        assert callee is not None
        assert leg.decision is not None
        assert leg.decision.destination == callee.service
        inbound = InboundSite(plane, "web", callee.service, "http", TRUST)
        refused = inbound.refusal or inbound.lane((), head)
        assert leg.decision.allowed is not isinstance(refused, Refusal)
        event("served" if leg.decision.allowed else "denied")


# One case each.


def test_a_destination_is_found_as_workers_find_it() -> None:
    state = snapshot(api(virtual_addresses=("240.0.0.7",)))

    def how(host: str, port: int = 80) -> tuple[How, str]:
        found = explained(state, get(host=host, port=port)).found
        return found.how, found.service

    assert how("10.0.0.1", 8000) == (How.ADDRESS, "api")
    assert how("10.0.0.1", 8001) == (How.NOTHING, "")
    assert how("240.0.0.7", 9) == (How.VIRTUAL_ADDRESS, "api")
    assert how("api.mesh.") == (How.NAME, "api")
    assert how("API.virtual.consul") == (How.NAME, "api")
    assert how("api.service.consul", 8000) == (How.ADDRESS, "api")
    assert how("api.service.consul", 1) == (How.NOTHING, "")
    assert how("api") == (How.SERVICE, "api")
    assert how("example.org") == (How.NOTHING, "")
    asked = replace(get(host="10.9.9.9"), service="api")
    assert explained(state, asked).upstream == "api"
    assert key_of("v1.api.mesh.", state) == f"v1.api.default.{state.datacenter}"
    assert key_of("API.dc9.dc.mesh", state) == "api.default.dc9"
    other = explained(state, get(host="10.0.0.1", port=8001))
    assert "the mesh has port 8000" in other.found.note


def test_what_is_not_the_meshs_passes_or_is_refused() -> None:
    away = get(host="192.0.2.9")
    assert explained(snapshot(api()), away).outcome is Outcome.PASSES
    strict = explained(snapshot(api(), mesh_destinations_only=True), away)
    assert strict.outcome is Outcome.REFUSED
    assert strict.reason.startswith("unknown_destination: ")


def test_a_source_of_another_host_is_a_problem() -> None:
    found = explain(snapshot(api()), replace(get(), source="cart"), NOW)
    assert isinstance(found, list)
    assert str(found[0]).startswith("--from: cart is no service of this host")


def test_a_caller_without_a_certificate_is_refused() -> None:
    found = explained(snapshot(api(), services=(local("web", leaf=None),)))
    assert (found.outcome, found.identity.serial) == (Outcome.REFUSED, "")
    assert found.reason.startswith("no_identity")
    assert explained(snapshot(api())).identity.seconds_left == 600.0


def test_a_malformed_request_is_refused_as_workers_do() -> None:
    found = explained(snapshot(api()), replace(get(), target="no path"))
    assert found.reason.startswith("malformed")
    connect = replace(get(), method="CONNECT")
    assert explained(snapshot(api()), connect).reason.startswith("connect_method")


def test_rules_before_the_one_taken_say_why_not() -> None:
    routes = (
        Route("api/0", Match(path_prefix="/cart", headers=(FieldMatch("x-user", exact="8"),))),
        Route("api/1", Match(path_prefix="/cart", query=(QueryMatch("x", present=True),))),
        Route("api/2"),
    )
    found = explained(snapshot(api(routes=routes)), get("/cart?x=1", x_user="7"))
    first, second = found.rules
    assert [(one.text, one.holds) for one in first.criteria] == [
        ("path begins with /cart", True),
        ("header x-user is 8", False),
    ]
    assert (second.taken, found.decided_by) == (True, "service-router/api: Routes[1]")
    nothing = explained(snapshot(api(routes=routes[:2])), get("/"))
    assert nothing.decided_by.startswith("no rule of service-router/api matches")
    assert not any(rule.taken for rule in nothing.rules)


@pytest.mark.parametrize(
    ("match", "text"),
    [
        (Match(path_exact="/A", ignore_case=True), "path is /A, in either case"),
        (Match(path_regex="/[0-9]"), "path matches /[0-9]"),
        (Match(methods=("GET", "PUT")), "method GET or PUT"),
        (Match(headers=(FieldMatch("x", present=True, invert=True),)), "header x is absent"),
        (
            Match(headers=(FieldMatch("x", suffix="1", invert=True),)),
            "header x does not end with 1",
        ),
        (Match(headers=(FieldMatch("x", regex="1+"),)), "header x matches 1+"),
        (Match(query=(QueryMatch("q", exact="1"),)), "query q is 1"),
    ],
)
def test_a_criterion_in_words(match: Match, text: str) -> None:
    assert list(parts(match)) == [(text, match)]


def test_a_match_without_criteria_has_no_parts() -> None:
    assert list(parts(Match())) == []


def test_a_redirect_is_told() -> None:
    elsewhere = target("cart", endpoint("one"), service="cart")
    found = explained(snapshot(api(target=elsewhere)))
    assert found.notes == ("service-resolver/api redirects to cart what no route takes elsewhere",)


def test_each_share_has_its_own_leg() -> None:
    dead = endpoint("dead", health=Health.CRITICAL)
    splits = (
        Split(9500, target("v1", endpoint("one")), FieldChanges(set=(("x-v", "1"),))),
        Split(500, target("v2", dead)),
        Split(0, target("v3")),
    )
    found = explained(snapshot(api(splits=splits)), None, seen(allow=True))
    assert [(leg.share, leg.target.id, leg.refusal) for leg in found.legs] == [
        (9500, "v1", ""),
        (500, "v2", "no_endpoint"),
    ]
    assert found.outcome is Outcome.PARTLY
    assert found.reason.startswith("95 % are served")
    assert found.legs[0].request_changes == ("+ x-v: 1",)
    assert found.legs[1].target.endpoints[0].out == "critical"


def test_what_a_route_says_and_what_settings_say() -> None:
    route = Route(
        "api/0",
        Match(path_prefix="/old"),
        prefix_rewrite="/new",
        timeout=2.0,
        idle_timeout=9.0,
        retries=Retries(3, ("5xx",), (429,)),
        request_fields=FieldChanges(remove=("x-user",), add=(("x-q", "%REQ(x-user)%"),)),
        response_fields=FieldChanges(set=(("x-r", "2"),)),
    )
    state = snapshot(api(routes=(route,), timeout=30.0))
    (leg,) = explained(state, get("/old/1?q=2", x_user="7")).legs
    assert leg.forwarded == "/new/1?q=2"
    assert (leg.timeout, leg.timeout_by) == (2.0, "route")
    assert (leg.idle_timeout, leg.idle_timeout_by) == (9.0, "route")
    assert (leg.retries, leg.retried) == (
        3,
        ("a connect that failed", "a reset before the answer", "status 429, 500-599"),
    )
    assert leg.request_changes == ("- x-user: 7", "+ x-q: 7")
    assert leg.response_changes == ("set x-r: 2",)
    (rest,) = explained(state).legs
    assert (rest.timeout, rest.timeout_by) == (30.0, "service-resolver")
    assert list(changed(FieldChanges(remove=("a",)))) == ["remove a"]


def test_limits_are_those_of_lanes() -> None:
    limited = target("api", endpoint("one"), limits=Limits(max_connections=5))
    keeping = UpstreamSettings(max_connections=9, max_requests=3)
    (leg,) = explained(snapshot(api(target=limited)), None, replace(NOW, upstream=keeping)).legs
    assert (leg.target.max_connections, leg.target.max_requests) == (5, 3)


def test_a_connection_goes_to_the_upstreams_own_target() -> None:
    splits = (Split(10000, target("v1", endpoint("one"))),)
    asked = Question("web", "10.0.0.1", 8000)
    tcp = explained(snapshot(api(Protocol.TCP, splits=splits)), asked)
    assert (tcp.kind, [leg.target.id for leg in tcp.legs]) == ("tcp", ["api"])
    assert tcp.outcome is Outcome.UNKNOWN
    assert "what is no HTTP is refused" in str(explained(snapshot(api()), asked).notes)
    over_tcp = explained(snapshot(api(Protocol.TCP)))
    assert (over_tcp.kind, over_tcp.notes[0][:10]) == ("tcp", "api is tcp")
    found_out = snapshot(api(Protocol.AUTO))
    assert explained(found_out).kind == "http"
    assert explained(found_out, get(port=3306)).kind == "tcp"


def entry(source: str, action: str, precedence: int, **more: Any) -> IntentionEntry:
    return IntentionEntry(source, "api", action, precedence, **more)


def seen(*intentions: IntentionEntry, allow: bool = False) -> Knowledge:
    observed = Observed(intentions=intentions, default_allow=allow)
    return replace(NOW, observed=observed)


def test_a_callee_elsewhere_is_judged_by_the_intentions_that_consul_lists() -> None:
    state = snapshot(api())

    def decided(knowledge: Knowledge, path: str = "/") -> tuple[bool | None, str, int, str]:
        (leg,) = explained(state, get(path), knowledge).legs
        decision = leg.decision
        assert decision is not None
        return decision.allowed, decision.because, decision.precedence, decision.basis

    assert decided(NOW)[::3] == (None, NOWHERE)
    assert decided(replace(NOW, consul={"api": True}))[::3] == (True, ASKED)
    both = seen(entry("*", "deny", 8), entry("web", "allow", 9))
    assert decided(both) == (True, "allow web => api", 9, LISTED)
    assert decided(seen(allow=False))[:2] == (False, "default policy: deny")
    listed = [{"Action": "deny", "HTTP": {"PathPrefix": "/admin"}}, {"Action": "allow"}]
    by_request = seen(entry("web", "", 9, permissions=listed))
    # Consul says of permissions only that they allow no connection.
    by_request = replace(by_request, consul={"api": False})
    assert decided(by_request, "/a")[0] is True
    denied = decided(by_request, "/admin/x")
    assert denied[1] == "2 permissions web => api (permission 1: deny)"
    assert denied[0] is False
    assert decided(by_request, "/a%2fb")[:2] == (
        False,
        "2 permissions web => api (the request's path can be read in more than one way)",
    )


def test_what_is_hidden_from_the_token_shows_in_consuls_own_answer() -> None:
    knowledge = replace(seen(allow=True), consul={"api": False})
    found = explained(snapshot(api()), None, knowledge)
    decision = found.legs[0].decision
    assert decision is not None
    assert (decision.allowed, decision.note) == (False, LACKING)
    assert found.outcome is Outcome.DENIED


def test_a_callee_of_this_host_is_judged_by_what_is_in_force() -> None:
    denied = Intention("web", "api", Action.DENY, 9)
    services = (local("web"), local("api", intentions=(denied,)))
    stale = replace(seen(entry("web", "allow", 9)), consul={"api": True})
    found = explained(snapshot(api(), services=services), None, stale)
    decision = found.legs[0].decision
    assert decision is not None
    assert (decision.allowed, decision.basis, decision.consul) == (False, HERE, True)
    assert (found.outcome, found.reason) == (Outcome.DENIED, "deny web => api")


def test_rates_are_those_that_the_callee_has_for_such_a_request() -> None:
    meta = {"fleetmesh-rate-limit-paths": "/search*=10:3", "fleetmesh-caller-rate-limit": "0.5"}
    entries = (ServiceDefaults("api", meta=meta),)
    elsewhere = replace(seen(allow=True), observed=Observed(service_defaults=entries))

    def rates(state: Snapshot, path: str) -> tuple[str, ...]:
        (leg,) = explained(state, get(path), elsewhere).legs
        return leg.rates

    each = "0.5/s of each caller, 1 at once: caller"
    assert rates(snapshot(api()), "/search?q=1") == (
        "10/s of all callers, 3 at once: /search*",
        each,
    )
    assert rates(snapshot(api()), "/") == (each,)
    here = (local("web"), local("api", rate_limits=(RateLimit("instance", 7.0),)))
    in_force = snapshot(api(), services=here)
    assert rates(in_force, "/") == ("7/s of all callers, 7 at once: instance",)


def test_the_callee_of_a_failover_is_the_one_that_serves() -> None:
    spare = target("cart", endpoint("two"), service="cart")
    dead = target("api", endpoint("one", health=Health.CRITICAL), failover=("cart",))
    found = explained(snapshot(api(target=dead, spares=(spare,))), None, seen(allow=True))
    (leg,) = found.legs
    assert (leg.target.serving, leg.target.failover[0].id) == ("cart", "cart")
    assert leg.target.spiffe_id.endswith("/svc/cart")
    assert leg.decision is not None
    assert leg.decision.destination == "cart"
    assert found.outcome is Outcome.ALLOWED
