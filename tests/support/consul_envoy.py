"""Envoy as a sidecar that Consul configures: certificates, listeners and clusters as Consul writes
them since it speaks xDS v3, as one static file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.running import accepts, running, wait_for
from tests.support.consul import ConsulServer
from tests.support.envoy import ENVOY

_TYPE = "type.googleapis.com/envoy.extensions"
_NETWORK = f"{_TYPE}.filters.network"
_TLS = f"{_TYPE}.transport_sockets.tls.v3"
_HTTP2 = {
    "typed_extension_protocol_options": {
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }
    }
}


class Sidecars:
    """Listeners and clusters of any number of services in one Envoy. `denied` are the names of
    the services whose calls the intentions forbid to all of them."""

    def __init__(self, consul: ConsulServer, address: str, denied: Sequence[str] = ()) -> None:
        self._consul = consul
        self._address = address
        self._denied = denied
        roots = consul.get("/v1/agent/connect/ca/roots")
        self.trust_domain = roots["TrustDomain"]
        self._roots = "".join(root["RootCert"] for root in roots["Roots"])
        self._listeners: list[dict[str, Any]] = []
        self._clusters: list[dict[str, Any]] = []
        self._ports: list[tuple[str, int]] = []

    def spiffe_id(self, service: str) -> str:
        return f"spiffe://{self.trust_domain}/ns/default/dc/dc1/svc/{service}"

    def sni(self, service: str) -> str:
        return f"{service}.default.dc1.internal.{self.trust_domain}"

    def callee(self, service: str, port: int, app_port: int, *alpn: str) -> None:
        """`alpn` is what Consul's Envoy names for http: `http/1.1`, for http2 and grpc `h2` before
        it, and nothing for tcp.

        The public listener of `service`. Of http it takes connections for its own SNI alone, as
        a mesh gateway does, or a service that is exported to a peer."""
        local = f"local_app_{service}"
        self._cluster(local, "127.0.0.1", app_port)
        http = bool(alpn)
        chain = {
            "filter_chain_match": {"server_names": [self.sni(service)] if http else []},
            "filters": _http(local, self._rules(), True) if http else _tcp(local, self._rules()),
            "transport_socket": {
                "name": "tls",
                "typed_config": {
                    "@type": f"{_TLS}.DownstreamTlsContext",
                    "common_tls_context": {
                        **self._certificates(service),
                        "alpn_protocols": alpn,
                    },
                    "require_client_certificate": True,
                },
            },
        }
        inspector = {"@type": f"{_TYPE}.filters.listener.tls_inspector.v3.TlsInspector"}
        self._listen(self._address, port, chain, inspector)

    def application(self, port: int, app_port: int) -> None:
        """No sidecar: an application of loopback that takes HTTP/2 as well, and says which
        version it was in `x-protocol`."""
        name = f"application_{port}"
        self._cluster(name, "127.0.0.1", app_port)
        header = {"header": {"key": "x-protocol", "value": "%PROTOCOL%"}}
        filters = _http(name, None, False)
        filters[0]["typed_config"]["route_config"]["response_headers_to_add"] = [header]
        self._listen("127.0.0.1", port, {"filters": filters})

    def caller(
        self, service: str, port: int, upstream: str, http: bool, http2: bool = False
    ) -> None:
        """A listener of loopback where the application of `service` finds `upstream`."""
        instance = self._consul.get(f"/v1/health/connect/{upstream}")[0]["Service"]
        context = {
            "@type": f"{_TLS}.UpstreamTlsContext",
            "common_tls_context": self._certificates(service, self.spiffe_id(upstream)),
            "sni": self.sni(upstream),
        }
        self._cluster(
            self.sni(upstream),
            instance["Address"],
            instance["Port"],
            transport_socket={"name": "tls", "typed_config": context},
            **(_HTTP2 if http2 else {}),
        )
        filters = _http(self.sni(upstream), None, False) if http else _tcp(self.sni(upstream), None)
        self._listen("127.0.0.1", port, {"filters": filters})

    @contextmanager
    def run(self, directory: Path) -> Iterator[None]:
        directory.mkdir()
        file = directory / "envoy.json"
        static = {"listeners": self._listeners, "clusters": self._clusters}
        file.write_text(json.dumps({"static_resources": static}))
        command = [str(ENVOY), "--config-path", str(file), "--concurrency", "1"]
        command += ["--log-level", "warning", "--disable-hot-restart"]
        with running("envoy", command, directory):
            _, port = self._ports[-1]  # on loopback
            wait_for("envoy", lambda: accepts(port))
            yield

    def _rules(self) -> dict[str, Any]:
        """Intentions of the default `allow`: nobody but `denied` is kept out."""
        if not self._denied:
            return {}
        principals = [
            {
                "authenticated": {
                    "principal_name": {
                        "safe_regex": {
                            "regex": f"^spiffe://{self.trust_domain}/ns/default/dc/[^/]+/svc/{name}$"
                        }
                    }
                }
            }
            for name in self._denied
        ]
        policy = {"permissions": [{"any": True}], "principals": principals}
        return {"action": "DENY", "policies": {"consul-intentions-layer4": policy}}

    def _certificates(self, service: str, expected: str = "") -> dict[str, Any]:
        leaf = self._consul.get(f"/v1/agent/connect/ca/leaf/{service}")
        validation: dict[str, Any] = {"trusted_ca": {"inline_string": self._roots}}
        if expected:
            validation["match_typed_subject_alt_names"] = [
                {"san_type": "URI", "matcher": {"exact": expected}}
            ]
        return {
            "tls_params": {},
            "tls_certificates": [
                {
                    "certificate_chain": {"inline_string": leaf["CertPEM"]},
                    "private_key": {"inline_string": leaf["PrivateKeyPEM"]},
                }
            ],
            "validation_context": validation,
        }

    def _cluster(self, name: str, address: str, port: int, **more: Any) -> None:
        endpoint = {"endpoint": {"address": _address(address, port)}}
        self._clusters.append(
            {
                "name": name,
                "type": "STATIC",
                "connect_timeout": "5s",
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{"lb_endpoints": [endpoint]}],
                },
                **more,
            }
        )

    def _listen(self, address: str, port: int, chain: dict[str, Any], *inspectors: Any) -> None:
        self._ports.append((address, port))
        self._listeners.append(
            {
                "name": f"{address}:{port}",
                "address": _address(address, port),
                "filter_chains": [chain],
                "listener_filters": [
                    {"name": "inspector", "typed_config": inspector} for inspector in inspectors
                ],
            }
        )


def _tcp(cluster: str, rules: dict[str, Any] | None) -> list[dict[str, Any]]:
    proxy = {"@type": f"{_NETWORK}.tcp_proxy.v3.TcpProxy", "stat_prefix": "s", "cluster": cluster}
    filters = [{"name": "tcp", "typed_config": proxy}]
    if rules is not None:
        rbac = {"@type": f"{_NETWORK}.rbac.v3.RBAC", "stat_prefix": "connect_authz", "rules": rules}
        filters.insert(0, {"name": "rbac", "typed_config": rbac})
    return filters


def _http(cluster: str, rules: dict[str, Any] | None, public: bool) -> list[dict[str, Any]]:
    router = {"@type": f"{_TYPE}.filters.http.router.v3.Router"}
    filters = [{"name": "envoy.filters.http.router", "typed_config": router}]
    if rules is not None:
        rbac = {"@type": f"{_TYPE}.filters.http.rbac.v3.RBAC", "rules": rules}
        filters.insert(0, {"name": "envoy.filters.http.rbac", "typed_config": rbac})
    manager: dict[str, Any] = {
        "@type": f"{_NETWORK}.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": cluster}}],
                }
            ]
        },
        "http_filters": filters,
    }
    if public:
        manager["forward_client_cert_details"] = "APPEND_FORWARD"
        manager["set_current_client_cert_details"] = dict.fromkeys(
            ("subject", "cert", "chain", "dns", "uri"), True
        )
    return [{"name": "http", "typed_config": manager}]


def _address(address: str, port: int) -> dict[str, Any]:
    return {"socket_address": {"address": address, "port_value": port}}
