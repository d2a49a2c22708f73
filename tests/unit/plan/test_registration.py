from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from fleetmesh.model.traffic import Protocol
from fleetmesh.plan.adoption import NOTHING, Adopted
from fleetmesh.plan.answers import AgentChecks, AgentServices, Check, ServiceInstance, Weights
from fleetmesh.plan.holds import Held, Phase
from fleetmesh.plan.ports import Allocation
from fleetmesh.plan.reconcile import Deregister, Register, actions, stands_in_the_way
from fleetmesh.plan.registration import Registration, Wanted, declared_meta, desired
from fleetmesh.settings import ServiceSettings, Settings

WEB = ServiceSettings(
    name="web",
    port=8080,
    id="web-1",
    tags=("blue",),
    meta={"version": "v1"},
    weight=3,
    checks=({"HTTP": "http://127.0.0.1:8080/health", "Interval": "5s"},),
)
SETTINGS = Settings(address="10.0.0.1", address6="2001:db8::1", services=(WEB,))
PORTS = Allocation({}, {"web": 21000})
READY = frozenset({"web"})


def wanted(
    settings: Settings = SETTINGS,
    adopted: Adopted = NOTHING,
    *,
    held: Held | None = None,
    outbound: int | None = None,
    modes: bool = True,
) -> tuple[Registration, ...]:
    ports = replace(PORTS, outbound={"web": outbound} if outbound else {})
    held_back = {"web": held} if held else {}
    return desired(
        Wanted(settings, ports, {"web": Protocol.HTTP}, READY, held_back), adopted, modes=modes
    )


def consul_with(*registrations: Registration) -> tuple[AgentServices, AgentChecks]:
    """What an agent lists after it was given these."""
    services: AgentServices = {}
    checks: AgentChecks = {}
    for registration in registrations:
        body: dict[str, Any] = {**registration.body, "Service": registration.body["Name"]}
        services[registration.id] = msgspec.convert(body, ServiceInstance)
        for check_id in registration.checks:
            checks[check_id] = Check("passing", check_id, registration.id)
    return services, checks


def todo(*there: Registration, ready: frozenset[str] = READY) -> list[str]:
    """Actions as `+id` and `-id`."""
    services, checks = consul_with(*there)
    return [
        f"+{a.registration.id}" if isinstance(a, Register) else f"-{a.id}"
        for a in actions(wanted(), services, checks, ready)
    ]


def test_service_and_sidecar() -> None:
    application, sidecar = (registration.body for registration in wanted())
    assert (application["ID"], application["Port"]) == ("web-1", 8080)
    assert application["Checks"] == [{"CheckID": "service:web-1", **WEB.checks[0]}]
    assert sidecar["Kind"] == "connect-proxy"
    assert (sidecar["ID"], sidecar["Name"]) == ("web-1-sidecar-proxy", "web-sidecar-proxy")
    assert sidecar["Proxy"] == {
        "DestinationServiceName": "web",
        "DestinationServiceID": "web-1",
        "LocalServiceAddress": "127.0.0.1",
        "LocalServicePort": 8080,
        "Config": {"protocol": "http"},
        "Mode": "direct",
    }
    assert sidecar["TaggedAddresses"]["lan_ipv6"] == {"Address": "2001:db8::1", "Port": 21000}
    for body in (application, sidecar):
        assert body["Weights"] == {"Passing": 3, "Warning": 1}
        assert body["Tags"] == ["blue"]
        assert body["Meta"]["version"] == "v1"
        assert body["Meta"]["managed-by"] == "fleetmesh"


def test_an_auto_service_tells_its_callers_so() -> None:
    """In meta, for Consul knows no such protocol: its own proxies carry it as tcp."""
    auto = replace(SETTINGS, services=(replace(WEB, protocol=Protocol.AUTO),))
    application, sidecar = (registration.body for registration in wanted(auto))
    assert sidecar["Meta"]["fleetmesh-protocol"] == "auto"
    assert sidecar["Proxy"]["Config"] == {"protocol": "tcp"}
    assert "fleetmesh-protocol" not in application["Meta"]
    assert "fleetmesh-protocol" not in wanted()[1].body["Meta"]


def test_sidecar_checks_listen_alias_and_heartbeat() -> None:
    listening, alias, heartbeat = wanted()[1].body["Checks"]
    assert listening["TCP"] == "127.0.0.1:21000"
    assert alias["AliasService"] == "web-1"
    assert (heartbeat["CheckID"], heartbeat["TTL"]) == (wanted()[1].heartbeat, "30s")


@pytest.mark.parametrize(
    "changed",
    [
        replace(WEB, port=8081),
        replace(WEB, tags=()),
        replace(WEB, meta={"version": "v2"}),
        replace(WEB, weight=4),
        replace(WEB, warning_weight=4),
        replace(WEB, checks=()),
    ],
)
def test_digest_covers_what_consul_does_not_list(changed: ServiceSettings) -> None:
    before = wanted()[0]
    after = wanted(replace(SETTINGS, services=(changed,)))[0]
    assert before.digest != after.digest


def test_nothing_to_do_when_all_is_there() -> None:
    assert todo(*wanted()) == []


def test_fresh_host_registers_the_service_before_its_sidecar() -> None:
    assert todo() == ["+web-1", "+web-1-sidecar-proxy"]


def test_sidecar_waits_for_its_certificate_but_stays_registered() -> None:
    assert todo(ready=frozenset()) == ["+web-1"]
    assert todo(*wanted(), ready=frozenset()) == []


def test_altered_registration_is_put_right() -> None:
    application, sidecar = wanted()
    altered = replace(sidecar, body={**sidecar.body, "Port": 1})
    assert todo(application, altered) == ["+web-1-sidecar-proxy"]


def test_lost_check_is_put_back() -> None:
    services, checks = consul_with(*wanted())
    checks.pop("web-1-sidecar-proxy:alias")
    (action,) = actions(wanted(), services, checks, READY)
    assert isinstance(action, Register)
    assert action.registration.id == "web-1-sidecar-proxy"


def test_what_is_ours_and_undeclared_goes_sidecar_first() -> None:
    old = replace(SETTINGS, services=(replace(WEB, name="old", id=""),))
    registered = desired(Wanted(old, Allocation({}, {"old": 21001})))
    assert todo(*wanted(), *registered) == ["-old-sidecar-proxy", "-old"]


def test_what_others_registered_stays() -> None:
    services, checks = consul_with(*wanted())
    services["db"] = ServiceInstance("db", "db", meta={"managed-by": "hand"})
    assert actions(wanted(), services, checks, READY) == ()
    assert actions((), services, checks, READY) == (
        Deregister("web-1-sidecar-proxy"),
        Deregister("web-1"),
    )


def test_several_checks_are_named_as_consul_names_them_and_keep_names_of_their_own() -> None:
    checks = ({"TCP": "127.0.0.1:1", "Interval": "5s"}, {"TTL": "5s", "CheckID": "mine"})
    (application, _) = wanted(replace(SETTINGS, services=(replace(WEB, checks=checks),)))
    assert application.checks == {"service:web-1:1", "mine"}


def test_upstreams_and_mode_are_those_of_a_captured_service() -> None:
    """Names must differ by address and port: Consul demands it."""
    calling = replace(SETTINGS, services=(replace(WEB, upstreams=("api", "db")),))
    proxy = wanted(calling, outbound=15100)[1].body["Proxy"]
    assert [(u["DestinationName"], u["LocalBindAddress"]) for u in proxy["Upstreams"]] == [
        ("api", "api.mesh"),
        ("db", "db.mesh"),
    ]
    assert {u["LocalBindPort"] for u in proxy["Upstreams"]} == {15100}
    assert proxy["Mode"] == "transparent"
    uncaptured = replace(calling, capture=replace(calling.capture, enabled=False))
    assert wanted(uncaptured, outbound=15100)[1].body["Proxy"]["Mode"] == "direct"


def test_a_consul_that_knows_no_modes_is_told_none() -> None:
    assert "Mode" not in wanted(modes=False)[1].body["Proxy"]
    assert wanted(modes=False)[1].digest != wanted()[1].digest


def test_checks_that_others_added_are_no_reason_to_write() -> None:
    services, checks = consul_with(*wanted())
    checks["theirs"] = Check("critical", "theirs", "web-1")
    assert actions(wanted(), services, checks, READY) == ()


def test_a_check_of_ours_at_another_service_is_put_back() -> None:
    services, checks = consul_with(*wanted())
    checks["service:web-1"] = Check("passing", "service:web-1", "other")
    (action,) = actions(wanted(), services, checks, READY)
    assert isinstance(action, Register)


@pytest.mark.parametrize(
    ("phase", "check_id", "status"),
    [
        (Phase.ANNOUNCED, "{}:leaving", "warning"),
        (Phase.DRAINING, "{}:draining", "critical"),
        (Phase.MAINTENANCE, "_service_maintenance:{}", "critical"),
    ],
)
def test_a_held_service_says_so_itself_and_by_its_sidecar(
    phase: Phase, check_id: str, status: str
) -> None:
    for registration in wanted(held=Held(phase, "new disk")):
        check = registration.body["Checks"][-1]
        assert check["CheckID"] == check_id.format(registration.id)
        assert (check["Status"], check["Notes"]) == (status, "fleetmesh: new disk")
    assert todo(*wanted(held=Held(phase, "new disk"))) == ["+web-1", "+web-1-sidecar-proxy"]


def test_a_registration_keeps_the_maintenance_of_others_but_not_ours() -> None:
    services, checks = consul_with(*wanted())
    maintenance = "_service_maintenance:web-1"
    services.pop("web-1")
    checks[maintenance] = Check("critical", maintenance, "web-1", notes="theirs")
    (action,) = actions(wanted(), services, checks, READY)
    assert isinstance(action, Register)
    kept = action.registration.body["Checks"][-1]
    assert (kept["CheckID"], kept["Notes"], kept["Status"]) == (maintenance, "theirs", "critical")
    assert action.registration.digest == wanted()[0].digest

    checks[maintenance] = Check("critical", maintenance, "web-1", notes="fleetmesh: ours")
    (action,) = actions(wanted(), services, checks, READY)
    assert isinstance(action, Register)
    assert maintenance not in action.registration.checks


THEIRS = ServiceInstance(
    "web-tf",
    "web",
    port=8080,
    tags=["theirs", "blue"],
    meta={"version": "v7", "team": "x", "managed-by": "terraform", "consul-x": "y"},
    weights=Weights(9, 2),
)


def test_of_an_adopted_service_only_the_sidecar_is_ours_and_follows_it() -> None:
    (sidecar,) = wanted(adopted=Adopted({"web": THEIRS}))
    body = sidecar.body
    assert sidecar.id == "web-1-sidecar-proxy"
    assert body["Proxy"]["DestinationServiceID"] == "web-tf"
    assert body["Tags"] == ["theirs", "blue"]
    assert declared_meta(body["Meta"]) == {"team": "x", "version": "v7"}
    assert body["Meta"]["managed-by"] == "fleetmesh"
    assert body["Weights"] == {"Passing": 9, "Warning": 2}
    alias = next(check for check in body["Checks"] if "AliasService" in check)
    assert alias["AliasService"] == "web-tf"


def test_checks_declared_for_an_adopted_service_stand_on_its_sidecar() -> None:
    """By ids of their own, that take none of the other tool's."""
    (sidecar,) = wanted(adopted=Adopted({"web": THEIRS}), held=Held(Phase.MAINTENANCE, "x"))
    assert {"web-1-sidecar-proxy:check:1", "_service_maintenance:web-1-sidecar-proxy"} < (
        sidecar.checks
    )


def test_where_the_other_tool_says_no_weight_the_declared_one_counts() -> None:
    (sidecar,) = wanted(adopted=Adopted({"web": replace(THEIRS, weights=Weights())}))
    assert sidecar.body["Weights"] == {"Passing": 3, "Warning": 1}


def test_ids_that_are_taken_are_not_wanted() -> None:
    (application,) = wanted(adopted=Adopted(taken=frozenset({"web-1-sidecar-proxy"})))
    assert application.id == "web-1"


def test_ours_goes_after_the_sidecar_points_to_the_adopted_one() -> None:
    services, checks = consul_with(*wanted())
    services["web-tf"] = THEIRS
    adopted = wanted(adopted=Adopted({"web": THEIRS}))
    first, second = actions(adopted, services, checks, READY)
    assert isinstance(first, Register)
    assert first.registration.id == "web-1-sidecar-proxy"
    assert second == Deregister("web-1")


def test_meta_is_capped_at_what_consul_takes() -> None:
    many = replace(THEIRS, meta={f"k{n:02}": "v" for n in range(64)})
    (sidecar,) = wanted(adopted=Adopted({"web": many}))
    assert len(sidecar.body["Meta"]) <= 64


@pytest.mark.parametrize(
    ("owner", "reason"),
    [
        ("web-1", ""),
        ("web-1-sidecar-proxy", ""),  # ours to move
        ("db", 'check ID "service:web-1" is that of another tool, for service db'),
        ("", 'check ID "service:web-1" is that of another tool, for the node'),
    ],
)
def test_the_check_of_another_tool_is_not_taken(owner: str, reason: str) -> None:
    services, checks = consul_with(*wanted())
    services["db"] = ServiceInstance("db", "db")
    checks["service:web-1"] = Check("passing", "service:web-1", owner)
    assert stands_in_the_way(Register(wanted()[0]), services, checks) == reason
    assert stands_in_the_way(Deregister("web-1"), services, checks) == ""
