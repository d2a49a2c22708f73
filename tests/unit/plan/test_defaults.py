from __future__ import annotations

from typing import Any

import msgspec
import pytest

from fleetmesh.model.traffic import Limits, PassiveHealth
from fleetmesh.plan.defaults import Calls, Defaults, Local, ProxyDefaults, ServiceDefaults
from fleetmesh.plan.exposed import ExposePath


def defaults(*services: dict[str, Any], local: str = "web", **everywhere: Any) -> Defaults:
    return Defaults(
        msgspec.convert(services, tuple[ServiceDefaults, ...]),
        (msgspec.convert({"Name": "global"} | everywhere, ProxyDefaults),),
        local.split(),
    )


OWN = {
    "Name": "web",
    "LocalConnectTimeoutMs": 2000,
    "LocalRequestTimeoutMs": 10000,
    "MaxInboundConnections": 500,
}
EVERYWHERE = {
    "local_connect_timeout_ms": 100,
    "local_request_timeout_ms": "200",
    "max_inbound_connections": 7.0,
}


@pytest.mark.parametrize(
    ("services", "config", "served"),
    [
        ([], {}, Local()),
        ([], EVERYWHERE, Local(0.1, 0.2, 7)),
        ([OWN], EVERYWHERE, Local(2.0, 10.0, 500)),
        ([], {"local_connect_timeout_ms": "soon"}, Local()),
        ([], {"local_connect_timeout_ms": True}, Local()),
        ([], {"local_connect_timeout_ms": -5}, Local()),
    ],
)
def test_a_services_own_entry_goes_before_the_proxies(
    services: list[dict[str, Any]], config: dict[str, Any], served: Local
) -> None:
    assert defaults(*services, Config=config).local("web") == served


CALLS = {
    "Name": "web",
    "UpstreamConfig": {
        "Defaults": {"ConnectTimeoutMs": 3000, "Limits": {"MaxConnections": 100}},
        "Overrides": [{"Name": "cart", "ConnectTimeoutMs": 1000}],
    },
}


def test_override_then_the_callers_defaults_then_the_proxies() -> None:
    found = defaults(CALLS)
    assert found.calls("cart") == (Calls(1.0, Limits(100)), ())
    assert found.calls("api") == (Calls(3.0, Limits(100)), ())
    config = {"connect_timeout_ms": 1500, "limits": {"max_pending_requests": 3}}
    assert defaults(Config=config).calls("api") == (Calls(1.5, Limits(None, 3)), ())
    assert defaults().calls("api") == (Calls(), ())


def test_callers_of_one_host_that_differ_get_the_least_and_are_told() -> None:
    """A service of another host is not asked."""
    other = {"Name": "shop", "UpstreamConfig": {"Defaults": {"Limits": {"MaxConnections": 9}}}}
    calls, problems = defaults(CALLS, other, local="web shop").calls("api")
    assert calls == Calls(3.0, Limits(9))
    assert "shop, web" in problems[0].rule
    assert defaults(CALLS, other).calls("api") == (Calls(3.0, Limits(100)), ())


def test_what_is_not_honoured_is_told_by_name() -> None:
    found = defaults(
        {
            "Name": "web",
            "EnvoyExtensions": [{"Name": "builtin/lua"}],
            "RateLimits": {"InstanceLevel": {"Routes": [{"PathExact": "/"}]}},
            "UpstreamConfig": {
                "Overrides": [{"Name": "cart", "EnvoyClusterJSON": "{}"}],
            },
        },
        {"Name": "elsewhere", "RateLimits": {"InstanceLevel": {}}},
        Config={"envoy_tracing_json": "{}"},
    )
    assert [problem.path for problem in found.problems()] == [
        "proxy-defaults/global: Config.envoy_tracing_json",
        "service-defaults/web: EnvoyExtensions[builtin/lua]",
        "service-defaults/web: UpstreamConfig.Overrides[cart].EnvoyClusterJSON",
        "service-defaults/web: RateLimits.InstanceLevel.Routes[0].per_second",
    ]
    assert defaults(Config={"protocol": "http"}, Expose={}).problems() == ()


def test_what_is_exposed_comes_with_the_entry_that_says_so() -> None:
    everywhere = {"Checks": True, "Paths": [{"ListenerPort": 1, "Path": "/all"}]}
    own = {"Name": "web", "Expose": {"Paths": [{"ListenerPort": 2, "Path": "/own"}]}}
    found = defaults(own, Expose=everywhere)
    expose, place = found.exposed("web")
    assert (expose.paths, place) == ([ExposePath(2, "/own")], "service-defaults/web")
    expose, place = found.exposed("api")
    assert (expose.paths, place) == ([ExposePath(1, "/all")], "proxy-defaults/global")


CHECK = {
    "Interval": 10_000_000_000,
    "MaxFailures": 5,
    "EnforcingConsecutive5xx": 0,
    "MaxEjectionPercent": 50,
    "BaseEjectionTime": 30_000_000_000,
}
SPELLED = {
    "interval": "10s",
    "max_failures": "5",
    "enforcing_consecutive_5xx": 0,
    "max_ejection_percent": 50.0,
    "base_ejection_time": "30s",
}


def checked(name: str, **layers: Any) -> dict[str, Any]:
    return {"Name": name, "UpstreamConfig": layers}


def test_a_passive_health_check_is_read_as_consul_and_as_people_write_it() -> None:
    """An override's goes whole before the defaults', and that before the proxies'."""
    whole = PassiveHealth(10.0, 5, 0, 50, 30.0)
    one = checked(
        "web",
        Defaults={"PassiveHealthCheck": CHECK},
        Overrides=[{"Name": "cart", "PassiveHealthCheck": {"MaxFailures": 2}}],
    )
    found = defaults(one, Config={"passive_health_check": {"interval": "3s"}})
    assert found.calls("api")[0].passive_health == whole
    assert found.calls("cart")[0].passive_health == PassiveHealth(max_failures=2)
    assert found.problems() == ()
    everywhere = defaults(Config={"passive_health_check": SPELLED})
    assert everywhere.calls("api")[0].passive_health == whole


@pytest.mark.parametrize(
    "said",
    [
        7,
        {"interval": 0, "max_failures": 0},
        {"interval": "soon", "max_failures": "many", "base_ejection_time": -1},
        {"interval": True, "max_failures": True, "max_ejection_percent": None},
        {"max_failures": "inf"},
    ],
)
def test_what_is_no_passive_health_check_says_nothing(said: Any) -> None:
    found = defaults(Config={"passive_health_check": said}).calls("api")[0]
    assert found.passive_health == PassiveHealth()


def test_of_checks_that_differ_the_least_holds() -> None:
    one = checked("web", Defaults={"PassiveHealthCheck": CHECK})
    other = checked("shop", Defaults={"PassiveHealthCheck": {"MaxFailures": 9, "Interval": "4s"}})
    calls, problems = defaults(one, other, local="web shop").calls("api")
    assert calls.passive_health == PassiveHealth(4.0, 5, 0, 50, 30.0)
    assert len(problems) == 1
