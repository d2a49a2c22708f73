from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from fleetmesh.model.traffic import Protocol
from fleetmesh.plan.answers import AgentChecks, AgentServices, Check, ServiceInstance
from fleetmesh.plan.ports import Allocation
from fleetmesh.plan.reconcile import Deregister, Register, actions
from fleetmesh.plan.registration import Registration, desired
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


def wanted(settings: Settings = SETTINGS) -> tuple[Registration, ...]:
    return desired(settings, PORTS, {"web": Protocol.HTTP})


def consul_with(*registrations: Registration) -> tuple[AgentServices, AgentChecks]:
    """What an agent lists after it was given these."""
    services: AgentServices = {}
    checks: AgentChecks = {}
    for registration in registrations:
        body: dict[str, Any] = {**registration.body, "Service": registration.body["Name"]}
        services[registration.id] = msgspec.convert(body, ServiceInstance)
        for number in range(len(body["Checks"])):
            checks[f"{registration.id}{number}"] = Check("passing", "", registration.id)
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
    assert application["Checks"] == list(WEB.checks)
    assert sidecar["Kind"] == "connect-proxy"
    assert (sidecar["ID"], sidecar["Name"]) == ("web-1-sidecar-proxy", "web-sidecar-proxy")
    assert sidecar["Proxy"] == {
        "DestinationServiceName": "web",
        "DestinationServiceID": "web-1",
        "LocalServiceAddress": "127.0.0.1",
        "LocalServicePort": 8080,
        "Config": {"protocol": "http"},
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
    checks.pop("web-1-sidecar-proxy1")
    (action,) = actions(wanted(), services, checks, READY)
    assert isinstance(action, Register)
    assert action.registration.id == "web-1-sidecar-proxy"


def test_what_is_ours_and_undeclared_goes_sidecar_first() -> None:
    old = replace(SETTINGS, services=(replace(WEB, name="old", id=""),))
    registered = desired(old, Allocation({}, {"old": 21001}), {})
    assert todo(*wanted(), *registered) == ["-old-sidecar-proxy", "-old"]


def test_what_others_registered_stays() -> None:
    services, checks = consul_with(*wanted())
    services["db"] = ServiceInstance("db", "db", meta={"managed-by": "hand"})
    assert actions(wanted(), services, checks, READY) == ()
    assert actions((), services, checks, READY) == (
        Deregister("web-1-sidecar-proxy"),
        Deregister("web-1"),
    )
