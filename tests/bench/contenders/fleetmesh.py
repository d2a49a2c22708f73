"""fleetmesh: `fleetmesh dataplane` as a release has it, one process group as caller and one as
callee."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.routes import routes, service
from tests.bench.running import free_ports, running, wait_for
from tests.bench.site import CALLER, SERVICES, SOURCES, Site
from tests.support.ca import TRUST_DOMAIN
from tests.support.compiled import compiled

Running = AbstractContextManager[tuple[dict[str, int], list[int]]]


def start(site: Site) -> Running:
    return _start(site, "fleetmesh", share_connections=True)


def start_unshared(site: Site) -> Running:
    """Every TCP connection of the caller has its own TLS connection: what a handshake costs."""
    return _start(site, "unshared", share_connections=False)


@contextmanager
def _start(
    site: Site, name: str, *, share_connections: bool
) -> Iterator[tuple[dict[str, int], list[int]]]:
    ports = free_ports(2 * len(SERVICES))
    entry = dict(zip(SERVICES, ports[: len(SERVICES)], strict=True))
    sidecar = dict(zip(SERVICES, ports[len(SERVICES) :], strict=True))
    outbound = _base(site, sidecar) | {
        "services": [_service(CALLER, 9, "http")],
        "certificates": _certificates(CALLER),
        "listeners": [
            {"kind": "outbound", "service": CALLER, "upstream": name, "port": port}
            for name, port in entry.items()
        ],
    }
    inbound = _base(site, sidecar) | {
        "services": [_service(name, site.application[name], _protocol(name)) for name in SERVICES],
        "certificates": _certificates(*SERVICES),
        "listeners": [
            {"kind": "inbound", "service": name, "port": port} for name, port in sidecar.items()
        ],
    }
    with ExitStack() as stack:
        pids = []
        for side, document in (("outbound", outbound), ("inbound", inbound)):
            document["settings"] = {"tcp": {"share_connections": share_connections}}
            file = site.directory / f"{name}-{side}.json"
            file.write_text(json.dumps(document, indent=1))
            pids.append(stack.enter_context(_running(site.directory, f"{name}-{side}", file)))
        for side in ("outbound", "inbound"):
            log = site.directory / f"{name}-{side}.log"
            wait_for(f"{name} {side}", lambda log=log: "ready\n" in log.read_text())
        yield entry, pids


def _running(directory: Path, name: str, file: Path) -> Any:
    program = str(Path(sys.executable).with_name("fleetmesh"))
    command = ["env", f"PYTHONPATH={compiled()}", program]
    command += ["dataplane", "--snapshot", str(file), "--workers", "1"]
    return running(name, command, directory)


def _protocol(service: str) -> str:
    return "http" if service == "api" else "tcp"


def _base(site: Site, sidecar: dict[str, int]) -> dict[str, Any]:
    called = [(name, [port]) for name, port in sidecar.items()]
    upstreams = {name: _upstream(name, ports) for name, ports in (*called, *site.others())}
    targets = {name: upstream["target"] for name, upstream in upstreams.items()}
    upstreams["api"]["routes"] = [
        msgspec.to_builtins(route) | {"target": targets[service(number)]}
        for number, route in enumerate(routes())
    ]
    return {
        "trust_domain": TRUST_DOMAIN,
        "datacenter": "dc1",
        "node": "bench",
        "root_files": ["pki/root.pem"],
        "upstreams": list(upstreams.values()),
    }


def _identity(name: str) -> dict[str, str]:
    return {"trust_domain": TRUST_DOMAIN, "datacenter": "dc1", "service": name}


def _service(name: str, port: int, protocol: str) -> dict[str, Any]:
    return {
        "name": name,
        "id": name,
        "address": "127.0.0.1",
        "port": port,
        "protocol": protocol,
        "mode": "strict",
        "spiffe_id": _identity(name),
        "intentions": [
            {"source": source, "destination": name, "action": "allow", "precedence": 9}
            for source in (*SOURCES, CALLER)
        ],
    }


def _upstream(name: str, ports: list[int]) -> dict[str, Any]:
    return {
        "service": name,
        "protocol": "tcp" if name in SERVICES and name != "api" else "http",
        "target": {
            "id": f"{name}.default.dc1",
            "service": name,
            "datacenter": "dc1",
            "sni": f"{name}.default.dc1.internal.{TRUST_DOMAIN}",
            "spiffe_id": _identity(name),
            "endpoints": [
                {"id": f"node{n}/{name}", "address": "127.0.0.1", "port": port}
                for n, port in enumerate(ports)
            ],
        },
    }


def _certificates(*names: str) -> dict[str, dict[str, str]]:
    return {name: {"chain": f"pki/{name}.pem", "key": f"pki/{name}.key"} for name in names}
