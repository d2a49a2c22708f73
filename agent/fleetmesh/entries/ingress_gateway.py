"""ingress-gateway: listeners through which the outside reaches services."""

from __future__ import annotations

from typing import Any

from fleetmesh.entries.shape import Entry, EntryKind, Headers, Protocol, Shape, Text
from fleetmesh.settings.decode import Reader, joined


class ListenerService(Shape, frozen=True):
    name: Text
    hosts: tuple[Text, ...] = ()
    namespace: str = ""
    partition: str = ""
    tls: dict[str, Any] = {}
    request_headers: Headers = Headers()
    response_headers: Headers = Headers()
    max_connections: int = 0
    max_pending_requests: int = 0
    max_concurrent_requests: int = 0
    passive_health_check: dict[str, Any] = {}


class GatewayListener(Shape, frozen=True):
    port: int
    protocol: Protocol = "tcp"
    services: tuple[ListenerService, ...] = ()
    tls: dict[str, Any] = {}


class IngressGateway(Entry, frozen=True):
    tls: dict[str, Any] = {}
    listeners: tuple[GatewayListener, ...] = ()
    defaults: dict[str, Any] = {}


def check(entry: IngressGateway, reader: Reader, key: str) -> None:
    ports: dict[int, int] = {}
    for index, listener in enumerate(entry.listeners):
        place = f"{joined(key, 'Listeners')}[{index}]"
        if not 0 < listener.port < 65536:
            reader.problem(joined(place, "Port"), f"{listener.port} is no port")
        if listener.port in ports:
            reader.problem(
                joined(place, "Port"),
                f"{listener.port} is that of Listeners[{ports[listener.port]}]",
            )
        ports.setdefault(listener.port, index)
        if not listener.services:
            reader.problem(place, "has no service", "Add one to Services")
        if listener.protocol == "tcp":
            _check_tcp(listener, reader, place)


def _check_tcp(listener: GatewayListener, reader: Reader, place: str) -> None:
    if len(listener.services) > 1:
        reader.problem(place, "has several services on tcp", "Make Protocol http, or keep one")
    for at, service in enumerate(listener.services):
        here = f"{place}.Services[{at}]"
        if service.name == "*":
            reader.problem(joined(here, "Name"), 'is "*" on tcp', "Name the service")
        if service.hosts:
            reader.problem(joined(here, "Hosts"), "is set on tcp", "Remove it")


KIND = EntryKind("ingress-gateway", IngressGateway, check)
