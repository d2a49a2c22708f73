"""The data-plane file: a snapshot in JSON with certificates by path and the listeners to open.

`docs/dataplane-file.md` is its reference. `exported` writes one from a running agent's snapshot.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from cryptography import x509
from msgspec import inspect

from fleetmesh.core import route_rules
from fleetmesh.edge.tls import IdentityError, client_context
from fleetmesh.model.problem import Problem
from fleetmesh.model.snapshot import Leaf, LocalService, Snapshot
from fleetmesh.settings import WorkerSettings

LOOPBACK = "127.0.0.1"


class CertificateFiles(msgspec.Struct, frozen=True):
    """PEM files, relative to the data-plane file: the chain, leaf first, and its key."""

    chain: str
    key: str


class ListenerEntry(msgspec.Struct, frozen=True):
    """An outbound listener takes plain connections of `service` to `upstream`, an inbound one is
    the sidecar port of `service`; `port` 0 lets the kernel choose. An exposed one takes plain
    requests for the paths that `service` exposes on `port`."""

    kind: Literal["outbound", "inbound", "exposed"]
    service: str
    upstream: str = ""
    address: str = LOOPBACK
    port: int = 0

    @property
    def name(self) -> str:
        call = f"{self.service}>{self.upstream}" if self.upstream else self.service
        return f"{self.kind} {call} {self.address}:{self.port}"


class SnapshotFile(Snapshot, frozen=True):
    """Snapshot's own keys, and these. `certificates` by service stand in for leaves."""

    root_files: tuple[str, ...] = ()
    certificates: Mapping[str, CertificateFiles] = {}
    listeners: tuple[ListenerEntry, ...] = ()
    settings: WorkerSettings = WorkerSettings()


class Plan(msgspec.Struct, frozen=True):
    """What to serve: the snapshot with its keys, where, and how."""

    snapshot: Snapshot
    listeners: tuple[ListenerEntry, ...]
    settings: WorkerSettings


def load(path: Path) -> Plan | list[Problem]:
    """What `path` says, or everything that is wrong with it."""
    try:
        document = json.loads(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        return [Problem(str(path), f"cannot be read: {_reason(error)}")]
    except ValueError as error:
        return [Problem(str(path), f"is not JSON: {error}")]
    if not isinstance(document, dict):
        return [Problem(str(path), "must be a JSON object")]
    document.setdefault("roots", [])
    problems = [
        Problem(f"{path}: {where}", rule, remedy)
        for where, rule, remedy in _unknown(document) + _mistyped(document)
    ]
    if problems:
        return problems
    file = msgspec.convert(document, SnapshotFile)
    found = _Completion(path, file)
    snapshot = found.snapshot()
    return found.problems or Plan(snapshot, file.listeners, file.settings)


def exported(snapshot: Snapshot) -> SnapshotFile:
    """A data-plane file of `snapshot`, whose keys are removed already: every service's sidecar
    and one outbound listener for each of its calls, on ports that the kernel chooses."""
    listeners = []
    for service in snapshot.services:
        listeners.append(ListenerEntry("inbound", service.name))
        listeners += [
            ListenerEntry("outbound", service.name, upstream.service)
            for upstream in snapshot.upstreams
        ]
        ports = sorted({path.listener_port for path in service.exposed})
        listeners += [ListenerEntry("exposed", service.name, port=port) for port in ports]
    return SnapshotFile(**msgspec.structs.asdict(snapshot), listeners=tuple(listeners))


Fault = tuple[str, str, str]
"""Where (a path in the document), the rule, the remedy."""


def _unknown(document: Mapping[str, Any]) -> list[Fault]:
    """Keys that nobody reads: a misspelt intention must not be a missing one."""
    faults: list[Fault] = []

    def walk(value: Any, kind: inspect.Type, where: str) -> None:
        if isinstance(kind, inspect.UnionType):
            kind = next((k for k in kind.types if isinstance(k, inspect.StructType)), kind)
        if isinstance(kind, inspect.StructType) and isinstance(value, dict):
            known = {field.encode_name: field.type for field in kind.fields}
            for key, inner in value.items():
                at = f"{where}.{key}" if where else str(key)
                if key in known:
                    walk(inner, known[key], at)
                else:
                    faults.append((at, "is not known here", f"Known are {', '.join(known)}"))
        elif isinstance(kind, inspect.VarTupleType) and isinstance(value, list):
            for number, inner in enumerate(value):
                walk(inner, kind.item_type, f"{where}[{number}]")
        elif isinstance(kind, inspect.DictType) and isinstance(value, dict):
            for key, inner in value.items():
                walk(inner, kind.value_type, f"{where}.{key}")

    walk(document, inspect.type_info(SnapshotFile), "")
    return faults


def _mistyped(document: Mapping[str, Any]) -> list[Fault]:
    """The first wrong value of each member of each list, and of everything else."""
    faults: list[Fault] = []
    for field in msgspec.structs.fields(SnapshotFile):
        if field.encode_name not in document:
            if field.required:
                faults.append((field.encode_name, "is missing", ""))
            continue
        value, kind = document[field.encode_name], field.type
        members: tuple[Any, ...] = getattr(kind, "__args__", ())
        if isinstance(value, list) and len(members) == 2 and members[1] is Ellipsis:
            parts = [(f"[{number}]", part, members[0]) for number, part in enumerate(value)]
        else:
            parts = [("", value, kind)]
        for where, part, part_kind in parts:
            try:
                msgspec.convert(part, part_kind)
            except msgspec.ValidationError as error:
                rule, _, at = str(error).partition(" - at `$")
                faults.append((f"{field.encode_name}{where}{at.rstrip('`')}", rule, ""))
    return faults


class _Completion:
    """Reads the certificates and checks what spans several values."""

    def __init__(self, path: Path, file: SnapshotFile) -> None:
        self.problems: list[Problem] = []
        self._path = path
        self._file = file

    def snapshot(self) -> Snapshot:
        file = self._file
        roots = [*file.roots]
        for number, name in enumerate(file.root_files):
            roots += self._read(name, f"root_files[{number}]")
        if not (file.roots or file.root_files):
            self._wrong("roots", "there is none", "List PEM texts, or files in root_files")
        self._check_names()
        self._check_routes()
        self._check_intentions()
        self._check_rates()
        self._check_listeners()
        services = tuple(
            self._service(f"services[{number}]", service, tuple(roots))
            for number, service in enumerate(file.services)
        )
        values = {
            field.name: getattr(file, field.name) for field in msgspec.structs.fields(Snapshot)
        }
        return Snapshot(**values | {"roots": tuple(roots), "services": services})

    def _wrong(self, where: str, rule: str, remedy: str = "") -> None:
        self.problems.append(Problem(f"{self._path}: {where}", rule, remedy))

    def _read(self, name: str, where: str) -> list[str]:
        """The text of a file, none when it cannot be read."""
        try:
            return [(self._path.parent / name).read_text()]
        except (OSError, UnicodeDecodeError, ValueError) as error:
            self._wrong(where, f"{name} cannot be read: {_reason(error)}")
            return []

    def _check_names(self) -> None:
        file = self._file
        for key, names in (
            ("services", [service.name for service in file.services]),
            ("upstreams", [upstream.service for upstream in file.upstreams]),
        ):
            for number, name in enumerate(names):
                if name in names[:number]:
                    self._wrong(f"{key}[{number}]", f"{name} is listed twice")
        known = {service.name for service in file.services}
        for name in file.certificates.keys() - known:
            self._wrong(f"certificates.{name}", "there is no such service")

    def _check_routes(self) -> None:
        for number, upstream in enumerate(self._file.upstreams):
            for problem in route_rules.upstream_problems(upstream, f"upstreams[{number}]"):
                self._wrong(problem.path, problem.rule, problem.remedy)

    def _check_intentions(self) -> None:
        for number, service in enumerate(self._file.services):
            for at, intention in enumerate(service.intentions):
                for which, permission in enumerate(intention.permissions):
                    where = f"services[{number}].intentions[{at}].permissions[{which}]"
                    for problem in route_rules.permission_problems(permission, where):
                        self._wrong(problem.path, problem.rule, problem.remedy)

    def _check_rates(self) -> None:
        for number, service in enumerate(self._file.services):
            for at, limit in enumerate(service.rate_limits):
                where = f"services[{number}].rate_limits[{at}]"
                for problem in route_rules.rate_problems(limit, where):
                    self._wrong(problem.path, problem.rule, problem.remedy)

    def _check_listeners(self) -> None:
        file = self._file
        services = {service.name for service in file.services}
        upstreams = {upstream.service for upstream in file.upstreams}
        exposed = {
            (service.name, path.listener_port)
            for service in file.services
            for path in service.exposed
        }
        taken: set[tuple[str, int] | str] = set()
        for number, entry in enumerate(file.listeners):
            where = f"listeners[{number}]"
            if entry.service not in services:
                self._wrong(f"{where}.service", f"there is no service {entry.service!r}")
            if entry.kind != "outbound" and entry.upstream:
                self._wrong(f"{where}.upstream", f"an {entry.kind} listener has none", "Remove it")
            elif entry.kind == "outbound" and entry.upstream not in upstreams:
                self._wrong(f"{where}.upstream", f"there is no upstream {entry.upstream!r}")
            if not _is_address(entry.address):
                self._wrong(f"{where}.address", f"{entry.address!r} is no IP address")
            if not 0 <= entry.port < 65536:
                self._wrong(f"{where}.port", f"{entry.port} is no port", "0 lets the kernel choose")
            if entry.kind == "exposed" and (entry.service, entry.port) not in exposed:
                self._wrong(f"{where}.port", f"{entry.service} exposes nothing on {entry.port}")
            place = (entry.address, entry.port) if entry.port else entry.name
            if place in taken:
                self._wrong(where, "listens where one above does")
            taken.add(place)

    def _service(self, where: str, service: LocalService, roots: tuple[str, ...]) -> LocalService:
        """With its leaf from the files, which must be its own and of use."""
        name, leaf = service.name, service.leaf
        files = self._file.certificates.get(name)
        if files is not None:
            where = f"certificates.{name}"
            texts = [*self._read(files.chain, where), *self._read(files.key, where)]
            if len(texts) < 2:
                return service
            leaf = self._leaf(where, *texts)
        if leaf is None:
            return service
        if leaf.key is None:
            remedy = f"Name its files in certificates.{name}: chain and key"
            self._wrong(f"{where}.leaf", "has no key", remedy)
            return service
        try:
            if roots:
                client_context(roots, leaf)
        except IdentityError as error:
            self._wrong(where, str(error))
        uris = _uris(leaf.chain)
        if uris and uris != [str(service.spiffe_id)]:
            self._wrong(where, f"is for {', '.join(uris)}, not {service.spiffe_id}")
        return msgspec.structs.replace(service, leaf=leaf)

    def _leaf(self, where: str, chain: str, key: str) -> Leaf | None:
        try:
            certificate = x509.load_pem_x509_certificate(chain.encode())
        except ValueError:
            self._wrong(where, "the chain is no PEM certificate")
            return None
        return Leaf(
            serial=f"{certificate.serial_number:x}",
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            chain=chain,
            key=key,
        )


def _uris(chain: str) -> list[str]:
    try:
        certificate = x509.load_pem_x509_certificate(chain.encode())
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except (ValueError, x509.ExtensionNotFound):
        return []
    return names.value.get_values_for_type(x509.UniformResourceIdentifier)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _reason(error: Exception) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)
