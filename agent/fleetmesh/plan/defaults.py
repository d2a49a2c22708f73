"""service-defaults and proxy-defaults: what they say of local services and of calls from them.

A service's protocol is not read here: its compiled chain has it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from msgspec import field
from msgspec.structs import replace

from fleetmesh.model.problem import Problem
from fleetmesh.model.traffic import Balancing, Limits, PassiveHealth, RateLimit
from fleetmesh.plan.chain import DEFAULT_CONNECT_TIMEOUT
from fleetmesh.plan.exposed import Expose, merged
from fleetmesh.plan.meta import Meta
from fleetmesh.plan.meta import read as read_meta
from fleetmesh.plan.rates import rate_limits
from fleetmesh.settings import UpstreamSettings
from fleetmesh.settings.kinds import seconds_of

KEEPING = UpstreamSettings()


class UpstreamLimits(msgspec.Struct, frozen=True, rename="pascal"):
    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_concurrent_requests: int | None = None


class UpstreamDefaults(msgspec.Struct, frozen=True, rename="pascal"):
    name: str = ""
    connect_timeout_ms: int = 0
    limits: UpstreamLimits | None = None
    passive_health_check: dict[str, Any] | None = None
    envoy_listener_json: str = field(name="EnvoyListenerJSON", default="")
    envoy_cluster_json: str = field(name="EnvoyClusterJSON", default="")


class UpstreamConfig(msgspec.Struct, frozen=True, rename="pascal"):
    defaults: UpstreamDefaults | None = None
    overrides: list[UpstreamDefaults] | None = None


class ServiceDefaults(msgspec.Struct, frozen=True, rename="pascal"):
    """An element of `/v1/config/service-defaults`; `upstream_config` is for calls from it."""

    name: str
    upstream_config: UpstreamConfig | None = None
    local_connect_timeout_ms: int = 0
    local_request_timeout_ms: int = 0
    max_inbound_connections: int = 0
    meta: dict[str, str] | None = None
    expose: Expose | None = None
    rate_limits: dict[str, Any] | None = None
    envoy_extensions: list[dict[str, Any]] | None = None


class ProxyDefaults(msgspec.Struct, frozen=True, rename="pascal"):
    """An element of `/v1/config/proxy-defaults`; the one named `global` counts."""

    name: str
    config: dict[str, Any] | None = None
    expose: Expose | None = None
    envoy_extensions: list[dict[str, Any]] | None = None


class Local(msgspec.Struct, frozen=True):
    """Seconds; how a local service's application is served. No timeout is None, no limit 0."""

    connect_timeout: float = DEFAULT_CONNECT_TIMEOUT
    request_timeout: float | None = None
    max_connections: int = 0
    adaptive_concurrency: bool = False
    rate_limits: tuple[RateLimit, ...] = ()


class Calls(msgspec.Struct, frozen=True):
    """What applies to calls of one upstream; `connect_timeout` None is what its resolver says."""

    connect_timeout: float | None = None
    limits: Limits = Limits()
    passive_health: PassiveHealth = PassiveHealth()


class Defaults:
    """Both kinds of entries, with the names of the services of this host, its zone and its settings
    of calls."""

    def __init__(
        self,
        services: Iterable[ServiceDefaults],
        proxies: Iterable[ProxyDefaults],
        local: Iterable[str],
        zone: str = "",
        keeping: UpstreamSettings = KEEPING,
    ) -> None:
        self._zone = zone
        self._keeping = keeping
        self._local = sorted(local)
        self._services = {entry.name: entry for entry in services}
        everywhere = next((entry for entry in proxies if entry.name == "global"), None)
        self._global = everywhere or ProxyDefaults("global")
        self._config = self._global.config or {}

    def local(self, service: str) -> Local:
        """The service's own entry goes before what proxy-defaults say."""
        entry = self._services.get(service, ServiceDefaults(service))
        connect = entry.local_connect_timeout_ms or _number(
            self._config, "local_connect_timeout_ms"
        )
        request = entry.local_request_timeout_ms or _number(
            self._config, "local_request_timeout_ms"
        )
        return Local(
            connect_timeout=connect / 1e3 if connect > 0 else DEFAULT_CONNECT_TIMEOUT,
            request_timeout=request / 1e3 if request > 0 else None,
            max_connections=max(
                entry.max_inbound_connections or _number(self._config, "max_inbound_connections"),
                0,
            ),
            adaptive_concurrency=bool(self.meta(service)[0].adaptive_concurrency),
            rate_limits=self._rates(entry)[0],
        )

    def _rates(self, entry: ServiceDefaults) -> tuple[tuple[RateLimit, ...], tuple[Problem, ...]]:
        meta, _ = self.meta(entry.name)
        return rate_limits(entry.rate_limits, meta, f"service-defaults/{entry.name}")

    def meta(self, service: str) -> tuple[Meta, tuple[Problem, ...]]:
        """What the entry of `service` says in its Meta, to its callers and to its own host."""
        entry = self._services.get(service)
        return read_meta(entry.meta if entry else None, f"service-defaults/{service}")

    def exposed(self, service: str) -> tuple[Expose, str]:
        """What of the local service is to be served in the clear, and the entry that says so."""
        own = self._services.get(service, ServiceDefaults(service)).expose
        place = f"service-defaults/{service}" if own and own.paths else "proxy-defaults/global"
        return merged(own, self._global.expose), place

    def balancing(self, meta: Meta, chosen: Balancing) -> Balancing:
        """What a service-resolver has `chosen` goes before the Meta of the service."""
        zone_aware = self._keeping.zone_aware if meta.zone_aware is None else meta.zone_aware
        if meta.balancing is not None and not chosen.policy:
            chosen = replace(chosen, policy=meta.balancing)
        if zone_aware and self._zone:
            chosen = replace(chosen, local_zone=self._zone, spill=self._keeping.zone_spill)
        return chosen

    def calls(self, upstream: str) -> tuple[Calls, tuple[Problem, ...]]:
        """The services of a host share their upstreams: where their entries differ, the least of
        each number serves them all, and a problem says so."""
        said = {caller: self._said(caller, upstream) for caller in self._local}
        distinct = set(said.values())
        if len(distinct) <= 1:
            return (distinct.pop() if distinct else Calls()), ()
        limits = [calls.limits for calls in said.values()]
        health = [calls.passive_health for calls in said.values()]
        least = Calls(
            _least(calls.connect_timeout for calls in said.values()),
            Limits(
                _least(one.max_connections for one in limits),
                _least(one.max_pending_requests for one in limits),
                _least(one.max_concurrent_requests for one in limits),
            ),
            PassiveHealth(
                _least(one.interval for one in health),
                _least(one.max_failures for one in health),
                _least(one.enforcing_consecutive_5xx for one in health),
                _least(one.max_ejection_percent for one in health),
                _least(one.base_ejection_time for one in health),
            ),
        )
        callers = ", ".join(said)
        return least, (
            Problem(
                f"service-defaults: UpstreamConfig for {upstream}",
                f"differs among this host's services ({callers}): the least of each serves all",
                "Give them the same",
            ),
        )

    def _said(self, caller: str, upstream: str) -> Calls:
        """An override goes before the caller's defaults, those before proxy-defaults."""
        entry = self._services.get(caller, ServiceDefaults(caller))
        config = entry.upstream_config or UpstreamConfig()
        layers = [one for one in config.overrides or () if one.name == upstream]
        if config.defaults is not None:
            layers.append(config.defaults)
        timeouts = [one.connect_timeout_ms for one in layers if one.connect_timeout_ms > 0]
        timeout = timeouts[0] if timeouts else _number(self._config, "connect_timeout_ms")
        checks = [one.passive_health_check for one in layers if one.passive_health_check]
        given = next((one.limits for one in layers if one.limits is not None), None)
        return Calls(
            timeout / 1e3 if timeout > 0 else None,
            _config_limits(self._config)
            if given is None
            else Limits(
                given.max_connections,
                given.max_pending_requests,
                given.max_concurrent_requests,
            ),
            _passive_health(checks[0] if checks else self._config.get("passive_health_check")),
        )

    def problems(self) -> tuple[Problem, ...]:
        """What of the entries that concern this host is not honoured, by name."""
        where = "proxy-defaults/global"
        found = [
            Problem(f"{where}: Config.{key}", "is not honoured: there is no Envoy here")
            for key in sorted(self._config)
            if key.startswith("envoy_")
        ]
        found += _extensions(where, self._global.envoy_extensions)
        for name in self._local:
            entry = self._services.get(name)
            if entry is not None:
                found += _of_service(entry, f"service-defaults/{name}")
                found += self.meta(name)[1]
                found += self._rates(entry)[1]
        return tuple(found)


def _of_service(entry: ServiceDefaults, where: str) -> list[Problem]:
    found = _extensions(where, entry.envoy_extensions)
    config = entry.upstream_config or UpstreamConfig()
    places = {f"Overrides[{one.name}]": one for one in config.overrides or ()}
    if config.defaults is not None:
        places["Defaults"] = config.defaults
    for place, one in sorted(places.items()):
        at = f"{where}: UpstreamConfig.{place}"
        if one.envoy_listener_json:
            found.append(_not_applied(f"{at}.EnvoyListenerJSON"))
        if one.envoy_cluster_json:
            found.append(_not_applied(f"{at}.EnvoyClusterJSON"))
    return found


def _extensions(where: str, extensions: list[dict[str, Any]] | None) -> list[Problem]:
    return [
        _not_applied(f"{where}: EnvoyExtensions[{extension.get('Name', '')}]")
        for extension in extensions or ()
    ]


def _not_applied(path: str) -> Problem:
    return Problem(path, "is not honoured")


def _least(values: Iterable[Any]) -> Any:
    return min((value for value in values if value is not None), default=None)


def _number(config: Mapping[str, Any], key: str) -> int:
    """Proxy-defaults are opaque to Consul: what is no number there counts as not given."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return 0
    try:
        return int(float(value))
    except (ValueError, OverflowError):
        return 0


def _config_limits(config: Mapping[str, Any]) -> Limits:
    limits = config.get("limits")
    if not isinstance(limits, dict):
        return Limits()
    keys = ("max_connections", "max_pending_requests", "max_concurrent_requests")
    return Limits(*(_number(limits, key) if key in limits else None for key in keys))


def _passive_health(check: Any) -> PassiveHealth:
    """Keys as service-defaults and as proxy-defaults spell them. Durations are nanoseconds or Go's
    text; a zero there and for the failures is Consul's for not given."""
    if not isinstance(check, dict):
        return PassiveHealth()
    said = {str(key).replace("_", "").lower(): value for key, value in check.items()}
    return PassiveHealth(
        _seconds(said.get("interval")),
        _count(said.get("maxfailures")) or None,
        _count(said.get("enforcingconsecutive5xx")),
        _count(said.get("maxejectionpercent")),
        _seconds(said.get("baseejectiontime")),
    )


def _count(value: Any) -> int | None:
    given = isinstance(value, int | float | str) and not isinstance(value, bool)
    try:
        return max(int(float(value)), 0) if given else None
    except (ValueError, OverflowError):
        return None


def _seconds(value: Any) -> float | None:
    seconds = seconds_of(value)
    if not isinstance(seconds, float):
        return None
    return (seconds if isinstance(value, str) else seconds / 1e9) or None
