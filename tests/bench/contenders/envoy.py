"""Envoy, doing the same: both sides verified by SPIFFE URI, RBAC over twenty sources, X-Forwarded-
Client-Cert set, fifty routes, request ids kept or made, traces continued or begun, statistics on,
no access log, one worker thread a side.

Traces are passed on, but no span is recorded: with `random_sampling` 0 Envoy clears the flag of a
caller who sampled.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from tests.bench.contenders.envoy_routes import translated
from tests.bench.install import path
from tests.bench.running import answers, free_ports, running, wait_for
from tests.bench.site import CALLER, SERVICES, SOURCES, Site

_TYPE = "type.googleapis.com/envoy.extensions"
_HTTP = f"{_TYPE}.filters.http"
_NETWORK = f"{_TYPE}.filters.network"
_TLS = f"{_TYPE}.transport_sockets.tls.v3"

_COLLECTOR = {
    "name": "collector",
    "type": "STATIC",
    "connect_timeout": "5s",
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    },
    "load_assignment": {"cluster_name": "collector"},
}
"""Where spans would go: nowhere."""

_TRACING = {
    "provider": {
        "name": "envoy.tracers.opentelemetry",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
            "grpc_service": {"envoy_grpc": {"cluster_name": "collector"}},
            "service_name": "bench",
        },
    },
    "random_sampling": {"value": 0},
}


@contextmanager
def start(site: Site) -> Iterator[tuple[dict[str, int], list[int]]]:
    ports = free_ports(2 * len(SERVICES) + 2)
    entry = dict(zip(SERVICES, ports, strict=False))
    sidecar = dict(zip(SERVICES, ports[len(SERVICES) :], strict=False))
    known = [_cluster(name, ports, _upstream_tls(site, name)) for name, ports in site.others()]
    outbound = _bootstrap(
        ports[-1],
        [_listener(name, port, _chain(name, ())) for name, port in entry.items()],
        [_cluster(n, [p], _upstream_tls(site, n)) for n, p in sidecar.items()] + known,
    )
    allowed = tuple(site.spiffe(source) for source in (*SOURCES, CALLER))
    inbound = _bootstrap(
        ports[-2],
        [
            _listener(name, port, _chain(name, allowed) | _downstream_tls(site, name))
            for name, port in sidecar.items()
        ],
        [_cluster(name, [site.application[name]], {}) for name in SERVICES] + known,
    )
    with ExitStack() as stack:
        pids: list[int] = []
        for side, bootstrap in (("inbound", inbound), ("outbound", outbound)):
            file = site.directory / f"envoy-{side}.json"
            file.write_text(json.dumps(bootstrap, indent=1))
            command = [path("envoy"), "--config-path", str(file), "--concurrency", "1"]
            command += ["--log-level", "error", "--disable-hot-restart"]
            pids.insert(0, stack.enter_context(running(f"envoy-{side}", command, site.directory)))
        wait_for("envoy", lambda: answers(entry["api"]))
        yield entry, pids


def _bootstrap(admin: int, listeners: list[Any], clusters: list[Any]) -> dict[str, Any]:
    return {
        "admin": {"address": _address(admin)},
        "static_resources": {"listeners": listeners, "clusters": [*clusters, _COLLECTOR]},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def _listener(name: str, port: int, chain: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": name,
        "address": _address(port),
        "tcp_backlog_size": 4096,
        "filter_chains": [chain],
    }


def _chain(name: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    """`allowed` are the callers' SPIFFE IDs on the inbound side."""
    return {"filters": _http(name, allowed) if name == "api" else _tcp(name, allowed)}


def _rules(allowed: tuple[str, ...]) -> dict[str, Any]:
    return {
        "action": "ALLOW",
        "policies": {
            uri.rpartition("/")[2]: {
                "permissions": [{"any": True}],
                "principals": [{"authenticated": {"principal_name": {"exact": uri}}}],
            }
            for uri in allowed
        },
    }


def _http(name: str, allowed: tuple[str, ...]) -> list[Any]:
    router = {"name": "router", "typed_config": {"@type": f"{_HTTP}.router.v3.Router"}}
    rbac = {
        "name": "rbac",
        "typed_config": {"@type": f"{_HTTP}.rbac.v3.RBAC", "rules": _rules(allowed)},
    }
    own = {"match": {"prefix": "/"}, "route": {"cluster": name}}
    manager: dict[str, Any] = {
        "@type": f"{_NETWORK}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "generate_request_id": True,
        "tracing": _TRACING,
        "route_config": {
            "virtual_hosts": [
                {
                    "name": name,
                    "domains": ["*"],
                    "routes": [*([] if allowed else translated()), own],
                }
            ]
        },
        "http_filters": [rbac, router] if allowed else [router],
    }
    if allowed:
        manager["forward_client_cert_details"] = "SANITIZE_SET"
        manager["set_current_client_cert_details"] = {"subject": True, "uri": True}
    return [{"name": "http", "typed_config": manager}]


def _tcp(name: str, allowed: tuple[str, ...]) -> list[Any]:
    rbac = {
        "name": "rbac",
        "typed_config": {
            "@type": f"{_NETWORK}.rbac.v3.RBAC",
            "stat_prefix": name,
            "rules": _rules(allowed),
        },
    }
    proxy = {
        "name": "tcp",
        "typed_config": {
            "@type": f"{_NETWORK}.tcp_proxy.v3.TcpProxy",
            "stat_prefix": name,
            "cluster": name,
        },
    }
    return [rbac, proxy] if allowed else [proxy]


def _cluster(name: str, ports: list[int], transport: dict[str, Any]) -> dict[str, Any]:
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    return {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        **transport,
    }


def _common_tls(site: Site, own: str, peer: str = "") -> dict[str, Any]:
    pki = site.pki
    validation: dict[str, Any] = {"trusted_ca": {"filename": str(pki / "root.pem")}}
    if peer:
        validation["match_typed_subject_alt_names"] = [
            {"san_type": "URI", "matcher": {"exact": site.spiffe(peer)}}
        ]
    return {
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_2",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [
            {
                "certificate_chain": {"filename": str(pki / f"{own}.pem")},
                "private_key": {"filename": str(pki / f"{own}.key")},
            }
        ],
        "validation_context": validation,
    }


def _upstream_tls(site: Site, name: str) -> dict[str, Any]:
    context = {
        "@type": f"{_TLS}.UpstreamTlsContext",
        "common_tls_context": _common_tls(site, CALLER, name),
        "sni": f"{name}.default.dc1.internal",
    }
    return {"transport_socket": {"name": "tls", "typed_config": context}}


def _downstream_tls(site: Site, name: str) -> dict[str, Any]:
    context = {
        "@type": f"{_TLS}.DownstreamTlsContext",
        "require_client_certificate": True,
        "common_tls_context": _common_tls(site, name),
    }
    return {"transport_socket": {"name": "tls", "typed_config": context}}
