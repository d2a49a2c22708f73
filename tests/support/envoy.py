"""Envoy as a plain HTTP proxy in front of one port of loopback, to compare the mesh with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.bench.running import accepts, free_ports, running, wait_for

ENVOY = Path(sys.executable).with_name("envoy")
_TYPE = "type.googleapis.com/envoy.extensions"


@contextmanager
def envoy_before(port: int, directory: Path) -> Iterator[int]:
    """The port on which it takes requests for `port`. Its parser is as strict as it comes, except
    that HTTP/1.0, trailers and WebSocket are on, as they are in the mesh."""
    (entry,) = free_ports(1)
    file = directory / "envoy.json"
    file.write_text(json.dumps(_bootstrap(entry, port)))
    command = [str(ENVOY), "--config-path", str(file), "--concurrency", "1"]
    command += ["--log-level", "error", "--disable-hot-restart"]
    with running("envoy", command, directory):
        wait_for("envoy", lambda: accepts(entry))
        yield entry


def _bootstrap(entry: int, port: int) -> dict[str, Any]:
    manager = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "generate_request_id": False,
        "http_protocol_options": {
            "accept_http_10": True,
            "default_host_for_http_10": "api",
            "enable_trailers": True,
            "header_key_format": {
                "stateful_formatter": {
                    "name": "preserve_case",
                    "typed_config": {
                        "@type": f"{_TYPE}.http.header_formatters.preserve_case.v3."
                        "PreserveCaseFormatterConfig"
                    },
                }
            },
        },
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "all",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "backend"}}],
                }
            ]
        },
        "http_filters": [
            {
                "name": "router",
                "typed_config": {
                    "@type": f"{_TYPE}.filters.http.router.v3.Router",
                    "suppress_envoy_headers": True,
                },
            }
        ],
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "name": "in",
                    "address": _address(entry),
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "backend",
                    "type": "STATIC",
                    "load_assignment": {
                        "cluster_name": "backend",
                        "endpoints": [
                            {"lb_endpoints": [{"endpoint": {"address": _address(port)}}]}
                        ],
                    },
                }
            ],
        }
    }


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}
