"""`Expose` of service-defaults and proxy-defaults → paths of applications that are served in the
clear, as scrapers and checks without a certificate need them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

import msgspec

from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import ExposedPath, LocalService
from fleetmesh.plan.answers import AgentChecks
from fleetmesh.settings import ServiceSettings, Settings


class ExposePath(msgspec.Struct, frozen=True, rename="pascal"):
    listener_port: int = 0
    path: str = ""
    local_path_port: int = 0
    protocol: str = ""


class Expose(msgspec.Struct, frozen=True, rename="pascal"):
    """As Consul's entries have it. What comes of its `Checks`, `rerouted` tells."""

    paths: list[ExposePath] | None = None


NOTHING = Expose()
LOOPBACK = "127.0.0.1"
EXPOSED_PORTS = range(21500, 21756)
"""Of which Consul's agent chooses, unless it is configured otherwise."""
_ATTEMPT = re.compile(r'(?:HTTP [A-Z]+ |[A-Z][a-z]+ "?)http://([^/\s"]*):(\d{1,5})([^\s":]*)')
"""`HTTP GET http://127.0.0.1:21500/up: 200 OK …` and `Get "http://127.0.0.1:21500/up": dial …`."""


class Rerouted(msgspec.Struct, frozen=True):
    """`others` are the checks that are no HTTP."""

    paths: tuple[ExposedPath, ...] = ()
    others: tuple[str, ...] = ()


def merged(own: Expose | None, everywhere: Expose | None) -> Expose:
    """A service's own paths go in place of those of proxy-defaults, as Consul merges them."""
    own, everywhere = own or NOTHING, everywhere or NOTHING
    return own if own.paths else everywhere


def exposed(
    expose: Expose, place: str, service: LocalService
) -> tuple[tuple[ExposedPath, ...], tuple[Problem, ...]]:
    """What of `service` is to be served, and what of `expose` (of the entry `place`) is not."""
    found: list[ExposedPath] = []
    problems: list[Problem] = []
    for number, one in enumerate(expose.paths or ()):
        where = f"{place}: Expose.Paths[{number}]"
        if one.protocol not in ("", "http"):
            problems.append(Problem(where, f"is not honoured: {one.protocol} is not understood"))
        elif not one.path.startswith("/") or not 0 < one.listener_port < 65536:
            problems.append(Problem(where, "is not honoured: it has no path or no port"))
        else:
            found.append(
                ExposedPath(one.listener_port, one.path, one.local_path_port or service.port)
            )
    return tuple(found), tuple(problems)


def rerouted(service: ServiceSettings, service_id: str, checks: AgentChecks) -> Rerouted:
    """The HTTP checks of `service` that Consul's agent on this host makes on ports of its choice,
    because an entry asks for that: where it looks for Envoy, there we have to listen.

    Consul tells the port from 1.9 on; before, only what it writes of the last attempt does.
    """
    found: list[ExposedPath] = []
    others: list[str] = []
    declared = dict(
        map(_place, (str(check["HTTP"]) for check in service.checks if "HTTP" in check))
    )
    for check_id, check in sorted(checks.items()):
        if check.service_id != service_id:
            continue
        seen = _ATTEMPT.match(check.output)
        if seen is None or check.type not in ("", "http"):
            if check.exposed_port and check.output:
                others.append(check_id)
            continue
        host, port = seen[1].strip("[]") or LOOPBACK, int(seen[2])
        path = seen[3].partition("?")[0] or "/"
        if port == check.exposed_port or port in EXPOSED_PORTS:
            own = declared.get(path, 0) or service.port
            found.append(ExposedPath(port, path, own, host))
    return Rerouted(tuple(found), tuple(others))


def _place(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    return parts.path or "/", parts.port or 80


def settled(
    services: Iterable[LocalService], settings: Settings
) -> tuple[tuple[LocalService, ...], tuple[Problem, ...]]:
    """`services` with only what this host can listen for: no port of the agent's own, or that it
    may give to a service some day, and no path of a port twice."""
    problems: list[Problem] = []
    taken: dict[tuple[int, str], str] = {}
    kept: list[LocalService] = []
    for service in services:
        paths: list[ExposedPath] = []
        for one in service.exposed:
            owner = taken.setdefault((one.listener_port, one.path), service.name)
            reason = _reserved(one.listener_port, settings)
            if owner != service.name:
                reason = f"{owner} exposes the same path there"
            if not reason:
                paths.append(one)
                continue
            problems.append(
                Problem(
                    f"{service.name}: exposed path {one.path}",
                    f"is not served on port {one.listener_port}: {reason}",
                    "Choose another ListenerPort",
                )
            )
        kept.append(msgspec.structs.replace(service, exposed=tuple(dict.fromkeys(paths))))
    return tuple(kept), tuple(problems)


def _reserved(port: int, settings: Settings) -> str:
    ports = settings.ports
    for key in ("outbound", "sidecar"):
        first, last = getattr(ports, key)
        if first <= port <= last:
            return f"it is in ports.{key}"
    if port in (ports.plain, *settings.capture.ssh_ports):
        return "it is the agent's or SSH's"
    return ""
