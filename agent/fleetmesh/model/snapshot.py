"""The one immutable state that workers serve, and its codec."""

from __future__ import annotations

import enum
import hashlib

import msgspec

from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.intention import Intention
from fleetmesh.model.traffic import Protocol, RateLimit, Upstream


class Mode(enum.StrEnum):
    """What happens to plain connections to the application's port."""

    STRICT = "strict"
    PERMISSIVE = "permissive"


class Leaf(msgspec.Struct, frozen=True):
    """A certificate chain in PEM, leaf first, and its key. Times are seconds since the epoch.

    `key` is None in an exported snapshot.
    """

    serial: str
    not_before: float
    not_after: float
    chain: str
    key: str | None

    def __repr__(self) -> str:
        return f"Leaf(serial={self.serial!r}, not_after={self.not_after})"


class ExposedPath(msgspec.Struct, frozen=True):
    """Requests to exactly `path` (whatever their query) that arrive in the clear on
    `listener_port` go to the application's `port`. `address` is where it is listened, for this
    host alone; empty is everywhere, for anybody."""

    listener_port: int
    path: str
    port: int
    address: str = ""


class LocalService(msgspec.Struct, frozen=True):
    """A service declared on this host.

    `address`/`port` is where the application listens, `intentions` are those for which it is the
    destination, highest precedence first. `leaf` is None until Consul has signed one: such a
    service refuses and sends nothing. `upstreams` are the services that it is known to call.
    `connect_timeout` and `request_timeout` (None: no limit) are the application's, in seconds;
    `max_connections` is how many peers may hold to it, 0 without a limit. `exposed` is what of it
    anybody may ask for without a certificate. With `adaptive_concurrency` it gets as many HTTP
    requests at a time as it answers no slower for; of the `rate_limits` of each kind (of the
    instance, of each caller) the first that matches counts.
    """

    name: str
    id: str
    address: str
    port: int
    protocol: Protocol
    mode: Mode
    spiffe_id: SpiffeId
    intentions: tuple[Intention, ...] = ()
    leaf: Leaf | None = None
    upstreams: tuple[str, ...] = ()
    connect_timeout: float = 5.0
    request_timeout: float | None = None
    max_connections: int = 0
    exposed: tuple[ExposedPath, ...] = ()
    adaptive_concurrency: bool = False
    rate_limits: tuple[RateLimit, ...] = ()


class Outsider(msgspec.Struct, frozen=True):
    """A service of the catalog that has no sidecar, and the (address, port) pairs of its
    instances."""

    name: str
    destinations: tuple[tuple[str, int], ...]


class Snapshot(msgspec.Struct, frozen=True):
    """Everything a worker needs to serve.

    `default_allow` is what Consul does with a pair of services that no intention names.
    `roots` are the PEM certificates of every root to be trusted, also during a rotation.
    `outsiders` are known only where something is decided of them: they are refused
    (`refuse_outsiders`), or pass through whatever `mesh_destinations_only` says.
    """

    trust_domain: str
    datacenter: str
    node: str
    roots: tuple[str, ...]
    services: tuple[LocalService, ...]
    upstreams: tuple[Upstream, ...]
    default_allow: bool = False
    mesh_destinations_only: bool = False
    outsiders: tuple[Outsider, ...] = ()
    refuse_outsiders: bool = False


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Snapshot)


def encode(snapshot: Snapshot) -> bytes:
    return _encoder.encode(snapshot)


def decode(data: bytes) -> Snapshot:
    """Raises msgspec.ValidationError when `data` is not a snapshot."""
    return _decoder.decode(data)


def digest(snapshot: Snapshot) -> str:
    """The same for equal snapshots, whoever computed it."""
    return hashlib.sha256(_encoder.encode(snapshot)).hexdigest()[:16]
