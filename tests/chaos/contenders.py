"""The caller's sides of the comparison: each dials four instances of api and answers on a port."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.running import free_ports, running
from tests.support.ca import TRUST_DOMAIN, Authority, spiffe
from tests.support.compiled import compiled

_TYPE = "type.googleapis.com/envoy.extensions"


def certificates(directory: Path, authority: Authority) -> Path:
    """root.pem, and web's and api's chains and keys."""
    pki = directory / "pki"
    pki.mkdir()
    (pki / "root.pem").write_text(authority.root)
    for name in ("web", "api"):
        leaf = authority.leaf(name)
        (pki / f"{name}.pem").write_text(leaf.chain)
        (pki / f"{name}.key").write_text(leaf.key or "")
    return pki


@contextmanager
def fleetmesh(directory: Path, pki: Path, ports: list[int]) -> Iterator[int]:
    """As a release has it, with its defaults, in one worker."""
    (entry,) = free_ports(1)
    identity = {"trust_domain": TRUST_DOMAIN, "datacenter": "dc1"}
    target = {
        "id": "api.default.dc1",
        "service": "api",
        "datacenter": "dc1",
        "sni": f"api.default.dc1.internal.{TRUST_DOMAIN}",
        "spiffe_id": identity | {"service": "api"},
        "endpoints": [
            {"id": f"node{number}/api", "address": "127.0.0.1", "port": port}
            for number, port in enumerate(ports)
        ],
    }
    web = {"name": "web", "id": "web", "address": "127.0.0.1", "port": 9, "protocol": "http"}
    document = {
        "trust_domain": TRUST_DOMAIN,
        "datacenter": "dc1",
        "node": "beside",
        "root_files": [str(pki / "root.pem")],
        "upstreams": [{"service": "api", "protocol": "http", "target": target}],
        "services": [web | {"mode": "strict", "spiffe_id": identity | {"service": "web"}}],
        "certificates": {"web": {"chain": str(pki / "web.pem"), "key": str(pki / "web.key")}},
        "listeners": [{"kind": "outbound", "service": "web", "upstream": "api", "port": entry}],
    }
    file = directory / "fleetmesh.json"
    file.write_text(json.dumps(document, indent=1))
    program = str(Path(sys.executable).with_name("fleetmesh"))
    command = ["env", f"PYTHONPATH={compiled()}", program]
    command += ["dataplane", "--snapshot", str(file), "--workers", "1"]
    with running("fleetmesh", command, directory):
        yield entry


@contextmanager
def envoy(directory: Path, pki: Path, ports: list[int]) -> Iterator[int]:
    """Least request, outlier detection, and its usual retries where nothing was answered."""
    entry, admin = free_ports(2)
    retries = {
        "retry_on": "connect-failure,refused-stream,reset",
        "num_retries": 2,
        "retry_host_predicate": [
            {
                "name": "envoy.retry_host_predicates.previous_hosts",
                "typed_config": {
                    "@type": f"{_TYPE}.retry.host.previous_hosts.v3.PreviousHostsPredicate"
                },
            }
        ],
        "host_selection_retry_max_attempts": 5,
    }
    route = {
        "match": {"prefix": "/"},
        "route": {"cluster": "api", "timeout": "15s", "retry_policy": retries},
    }
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "api",
        "route_config": {"virtual_hosts": [{"name": "api", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "api",
        "address": _address(entry),
        "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
    }
    bootstrap = {
        "admin": {"address": _address(admin)},
        "static_resources": {"listeners": [listener], "clusters": [_cluster(pki, ports)]},
    }
    file = directory / "envoy.json"
    file.write_text(json.dumps(bootstrap, indent=1))
    command = [str(Path(sys.executable).with_name("envoy")), "--config-path", str(file)]
    command += ["--concurrency", "1", "--log-level", "error", "--disable-hot-restart"]
    with running("envoy", command, directory):
        yield entry


def _cluster(pki: Path, ports: list[int]) -> dict[str, Any]:
    tls = {
        "@type": f"{_TYPE}.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": "api.default.dc1.internal",
        "common_tls_context": {
            "tls_certificates": [
                {
                    "certificate_chain": {"filename": str(pki / "web.pem")},
                    "private_key": {"filename": str(pki / "web.key")},
                }
            ],
            "validation_context": {
                "trusted_ca": {"filename": str(pki / "root.pem")},
                "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": str(spiffe("api"))}}
                ],
            },
        },
    }
    endpoints = [{"endpoint": {"address": _address(port)}} for port in ports]
    return {
        "name": "api",
        "type": "STATIC",
        "connect_timeout": "5s",
        "lb_policy": "LEAST_REQUEST",
        "outlier_detection": {"max_ejection_percent": 50},
        "load_assignment": {"cluster_name": "api", "endpoints": [{"lb_endpoints": endpoints}]},
        "transport_socket": {"name": "tls", "typed_config": tls},
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
