"""What settings must not say together: within a file, and across the files of a host."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Final
from urllib.parse import urlsplit

import msgspec

from fleetmesh.settings import CaptureSettings, ConsulSettings, ServiceSettings, Settings
from fleetmesh.settings.decode import Reader, joined

AGENT_USER: Final = "fleetmesh"
SSH_PORT: Final = "an SSH port (capture.ssh_ports)"
RESERVED_META: Final = ("fleetmesh-", "consul-")
_META_KEY = re.compile(r"[A-Za-z0-9_-]{1,128}")
MAX_META: Final = 64
MAX_META_VALUE: Final = 512

ResolveUid = Callable[[ServiceSettings], int | str | None]
"""The uid of a service, None when it has no user, or a sentence why it cannot be known."""


class Declared(msgspec.Struct, frozen=True):
    """A service and the reader of its file."""

    service: ServiceSettings
    reader: Reader


def check_agent(settings: Settings, reader: Reader) -> None:
    """Rules of `agent.yaml` alone."""
    ports = settings.ports
    ranges = {"ports.outbound": ports.outbound, "ports.sidecar": ports.sidecar}
    for key, (first, last) in ranges.items():
        if first > last:
            reader.problem(key, f"begins at {first} and ends at {last}", "Write the lower first")
    if _overlap(ports.outbound, ports.sidecar):
        reader.problem(
            "ports.sidecar", "overlaps ports.outbound", "Give the two ranges separate ports"
        )
    taken = dict(_taken(settings))
    for key, (first, last) in ranges.items():
        for port, owner in taken.items():
            if first <= port <= last:
                reader.problem(key, f"contains {port}, {owner}", "Choose other ports")
    for port in settings.capture.ssh_ports:
        if port == ports.plain:
            reader.problem("ports.plain", f"is the SSH port {port}", "Choose another port")
    if _port_of(settings.metrics_address) == ports.plain:
        reader.problem("metrics_address", "has the port of ports.plain", "Choose another port")
    if settings.dns.enabled:
        others = (ports.plain, _port_of(settings.metrics_address), *settings.capture.ssh_ports)
        if settings.dns.port in others:
            reader.problem("dns.port", f"{settings.dns.port} is taken", "Choose another port")
    _check_warm(settings, reader)
    _check_tls(settings.consul, reader)
    if settings.address6 is not None and ipaddress.ip_address(settings.address).version == 6:
        reader.problem(
            "address6", "is set while address is IPv6 already", "Make address the IPv4 one"
        )


def _check_tls(consul: ConsulSettings, reader: Reader) -> None:
    for key, other in (("cert_file", "key_file"), ("key_file", "cert_file")):
        if getattr(consul, key) is not None and getattr(consul, other) is None:
            reader.problem(
                f"consul.{key}", f"is set without {other}", "A client certificate needs both files"
            )
    if not consul.address.startswith("https:"):
        for key in ("ca_file", "cert_file", "key_file"):
            if getattr(consul, key) is not None:
                reader.problem(
                    f"consul.{key}",
                    f"is set while consul.address is {consul.address}",
                    "Write https:// there, or remove the file",
                )


def _check_warm(settings: Settings, reader: Reader) -> None:
    upstream = settings.upstream
    for name in ("max_idle", "max_connections"):
        limit = getattr(upstream, name)
        unlimited = name == "max_connections" and not limit
        if not unlimited and upstream.warm_connections > limit:
            reader.problem(
                "upstream.warm_connections",
                f"is more than upstream.{name} ({limit}) lets live",
                f"Raise upstream.{name}, or warm fewer",
            )


def check_service(service: ServiceSettings, reader: Reader) -> None:
    """Rules of one service file alone."""
    if service.user is not None and service.unit is not None:
        reader.problem("unit", "is set beside user", "Keep the one that runs the service")
    if service.user in ("root", AGENT_USER):
        reader.problem(
            "user",
            f"{service.user} cannot be a service's user",
            "Run the service under a user of its own",
        )
    if service.outbound_port is not None and service.user is None and service.unit is None:
        reader.problem("outbound_port", "is set without user or unit", "Name who makes the calls")
    if service.port in (service.sidecar_port, service.outbound_port):
        key = "sidecar_port" if service.port == service.sidecar_port else "outbound_port"
        reader.problem(key, f"is the application's own port {service.port}", "Choose another port")
    if service.sidecar_port is not None and service.sidecar_port == service.outbound_port:
        reader.problem("outbound_port", "is the sidecar_port too", "Choose another port")
    for key in ("tags", "upstreams"):
        seen: set[str] = set()
        for index, item in enumerate(getattr(service, key)):
            if not item:
                reader.problem(f"{key}[{index}]", "is empty", "Remove it")
            if item in seen:
                reader.problem(f"{key}[{index}]", f'repeats "{item}"', "Remove it")
            seen.add(item)
    _check_meta(service.meta, reader)


def _check_meta(meta: dict[str, str], reader: Reader) -> None:
    if len(meta) > MAX_META - 4:
        reader.problem("meta", f"has {len(meta)} keys", f"Consul takes {MAX_META}, 4 are ours")
    for name, value in meta.items():
        key = joined("meta", name)
        if not _META_KEY.fullmatch(name):
            reader.problem(key, "is not a key Consul takes", "Use letters, digits, _ and -")
        if name == "managed-by" or name.startswith(RESERVED_META):
            reader.problem(key, "is reserved", "Choose another key")
        if len(value) > MAX_META_VALUE:
            reader.problem(key, f"is longer than {MAX_META_VALUE} characters", "Shorten it")


def check_together(
    agent: Settings | None, declared: Sequence[Declared], resolve_uid: ResolveUid | None
) -> None:
    """Rules across services, and of services against the agent's settings where those are known.

    Problems go to the reader of the file that comes second.
    """
    _check_names(declared)
    _check_check_ids(declared)
    _check_ports(agent, declared)
    if agent is not None:
        for range_key, field, needs in (
            ("outbound", "outbound_port", _calls),
            ("sidecar", "sidecar_port", _always),
        ):
            _check_range(agent, declared, range_key, field, needs)
    if resolve_uid is not None:
        _check_uids(declared, resolve_uid)
    else:
        _check_users(declared)


def _check_names(declared: Sequence[Declared]) -> None:
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for service, reader in _pairs(declared):
        if service.name in names:
            reader.problem(
                "name",
                f'service "{service.name}" is declared in {names[service.name]} already',
                "Keep one file per service",
            )
            continue
        names[service.name] = reader.file
        for own in (service.service_id, service.sidecar_id):
            if own in ids:
                reader.problem(
                    "id" if service.id else "name",
                    f'ID "{own}" is taken by {ids[own]}',
                    "Give one of the two another id",
                )
                break
            ids[own] = reader.file


def _check_check_ids(declared: Sequence[Declared]) -> None:
    """A Consul agent has each id once, whichever service it is of."""
    owners: dict[str, str] = {}
    for service, reader in _pairs(declared):
        for index, check in enumerate(service.checks):
            check_id = check.get("CheckID")
            if not isinstance(check_id, str):
                continue
            if check_id in owners:
                reader.problem(
                    f"checks[{index}]",
                    f'check ID "{check_id}" is taken by {owners[check_id]}',
                    "Give one of the two another check_id, or none",
                )
            owners.setdefault(check_id, reader.file)


def _check_ports(agent: Settings | None, declared: Sequence[Declared]) -> None:
    owners = dict(_taken(agent)) if agent else dict.fromkeys(CaptureSettings().ssh_ports, SSH_PORT)
    for service, reader in _pairs(declared):
        for key in ("port", "sidecar_port", "outbound_port"):
            port = getattr(service, key)
            if port is None:
                continue
            if port in owners:
                # A clash inside one file is check_service's to tell.
                if owners[port] != reader.file:
                    reader.problem(key, f"{port} is {_whose(owners[port])}", "Choose another port")
                continue
            owners[port] = reader.file
            if agent is not None:
                _check_against_ranges(agent, reader, key, port)


def _check_against_ranges(agent: Settings, reader: Reader, key: str, port: int) -> None:
    """The application keeps out of both ranges, an explicit port out of the other kind's."""
    own = key.removesuffix("_port")
    for name in ("outbound", "sidecar"):
        first, last = getattr(agent.ports, name)
        if name != own and first <= port <= last:
            reader.problem(
                key,
                f"{port} lies in ports.{name} ({first} to {last})",
                f"Choose another port, or move ports.{name} in agent.yaml",
            )


def _check_range(
    agent: Settings,
    declared: Sequence[Declared],
    name: str,
    field: str,
    needs: Callable[[ServiceSettings], bool],
) -> None:
    first, last = getattr(agent.ports, name)
    explicit = {getattr(service, field) for service, _ in _pairs(declared)} - {None}
    free = sum(port not in explicit for port in range(first, last + 1))
    drawing = [
        (service, reader)
        for service, reader in _pairs(declared)
        if getattr(service, field) is None and needs(service)
    ]
    for _, reader in drawing[free:]:
        reader.problem(
            field,
            f"finds no free port in ports.{name} ({first} to {last})",
            f"Widen ports.{name} in agent.yaml",
        )


def _calls(service: ServiceSettings) -> bool:
    return service.user is not None or service.unit is not None


def _always(_service: ServiceSettings) -> bool:
    return True


def _check_users(declared: Sequence[Declared]) -> None:
    owners: dict[tuple[str, str], str] = {}
    for service, reader in _pairs(declared):
        for key, name in (("user", service.user), ("unit", service.unit)):
            if name is None:
                continue
            if (key, name) in owners:
                _same_user(reader, key, f'{key} "{name}"', owners[key, name])
            else:
                owners[key, name] = reader.file


def _check_uids(declared: Sequence[Declared], resolve_uid: ResolveUid) -> None:
    agent_uid = resolve_uid(ServiceSettings(AGENT_USER, 1, user=AGENT_USER))
    owners: dict[int, str] = {}
    for service, reader in _pairs(declared):
        key = "unit" if service.unit is not None else "user"
        uid = resolve_uid(service)
        if isinstance(uid, str):
            reader.problem(key, uid, "Create the user first, or name the one that runs the service")
        elif uid is not None and uid in (0, agent_uid):
            if service.user not in ("root", AGENT_USER):
                who = "root" if uid == 0 else AGENT_USER
                reader.problem(key, f"resolves to {who}", "Run the service under a user of its own")
        elif uid in owners:
            _same_user(reader, key, f"uid {uid}", owners[uid])
        elif uid is not None:
            owners[uid] = reader.file


def _same_user(reader: Reader, key: str, who: str, owner: str) -> None:
    reader.problem(
        key,
        f"{who} is the user of the service in {owner} too",
        "Give each service a user of its own: the user decides whose identity a connection has",
    )


def _pairs(declared: Sequence[Declared]) -> Iterator[tuple[ServiceSettings, Reader]]:
    for item in declared:
        yield item.service, item.reader


def _taken(agent: Settings) -> Iterator[tuple[int, str]]:
    """Ports of this host that are spoken for, and by whom."""
    for port in agent.capture.ssh_ports:
        yield port, SSH_PORT
    yield _port_of(agent.metrics_address), "the port of metrics_address"
    consul = urlsplit(agent.consul.address)
    if consul.hostname in ("127.0.0.1", "::1", "localhost"):
        default = 443 if consul.scheme == "https" else 80
        yield consul.port or default, "the port of consul.address"
    yield agent.ports.plain, "the port of ports.plain"
    if agent.dns.enabled:
        yield agent.dns.port, "the port of dns.port"


def _whose(owner: str) -> str:
    return owner if owner.startswith(("an ", "the ")) else f"taken by {owner}"


def _port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


def _overlap(a: tuple[int, int], b: tuple[int, int]) -> bool:
    return a[0] <= b[1] and b[0] <= a[1]
