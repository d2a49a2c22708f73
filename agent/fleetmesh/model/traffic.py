"""Where traffic can go: endpoints, targets, upstreams."""

from __future__ import annotations

import enum

import msgspec

from fleetmesh.model.identity import SpiffeId


class Protocol(enum.StrEnum):
    """What the mesh understands of a connection. Anything newer than http acts as tcp; auto is
    found out from the first bytes of each."""

    TCP = "tcp"
    HTTP = "http"
    AUTO = "auto"


class Health(enum.StrEnum):
    PASSING = "passing"
    WARNING = "warning"
    CRITICAL = "critical"


class Endpoint(msgspec.Struct, frozen=True):
    """One instance's sidecar. `id` is unique in its target: `<node>/<sidecar's service id>`."""

    id: str
    address: str
    port: int
    address6: str | None = None
    weight: int = 1
    health: Health = Health.PASSING
    meta: dict[str, str] = {}


class Target(msgspec.Struct, frozen=True):
    """What a discovery chain ends in. `id` is Consul's and opaque.

    `spiffe_id` is the identity that every endpoint must prove; `connect_timeout` in seconds.
    Endpoints that Consul calls critical are listed too, so that `status` can show them; the
    table leaves them out.
    """

    id: str
    service: str
    datacenter: str
    sni: str
    spiffe_id: SpiffeId
    endpoints: tuple[Endpoint, ...] = ()
    connect_timeout: float = 5.0


class Upstream(msgspec.Struct, frozen=True):
    """A service as callers see it.

    `destinations` are the (address, port) pairs of the catalog's instances: a captured
    connection to one of them belongs to this service. Addresses are in canonical text form.
    """

    service: str
    protocol: Protocol
    target: Target
    destinations: tuple[tuple[str, int], ...] = ()
