"""Where traffic can go: endpoints, targets, routes, upstreams."""

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


class FieldMatch(msgspec.Struct, frozen=True):
    """A criterion on one header field: exactly one of `present` to `regex`, turned round by
    `invert`.

    Lines of the same name count as one value, joined by ", ". A field that is missing satisfies
    nothing but `present` inverted, as with Envoy.
    """

    name: str
    present: bool = False
    exact: str = ""
    prefix: str = ""
    suffix: str = ""
    regex: str = ""
    invert: bool = False


class QueryMatch(msgspec.Struct, frozen=True):
    """A criterion on one query parameter: exactly one of `present`, `exact`, `regex`.

    The first parameter of the name counts, as it is written: nothing is decoded.
    """

    name: str
    present: bool = False
    exact: str = ""
    regex: str = ""


class Match(msgspec.Struct, frozen=True):
    """Which requests a route is for: all criteria hold, and one of `methods` if there are any.

    Of the paths at most one is given, none is the prefix `/`. They are compared with the path as
    it is written, without the query; `path_prefix` is a prefix of text, not of segments. A regex
    is RE2's and matches the whole.
    """

    path_exact: str = ""
    path_prefix: str = ""
    path_regex: str = ""
    headers: tuple[FieldMatch, ...] = ()
    query: tuple[QueryMatch, ...] = ()
    methods: tuple[str, ...] = ()


class Route(msgspec.Struct, frozen=True):
    """Where the requests go that match. `target` None is the upstream's own.

    `prefix_rewrite` takes the place of the path's matched part in the forwarded request: of the
    prefix, or of the whole path that is matched exactly. The query stays.
    """

    name: str
    match: Match = Match()
    target: Target | None = None
    prefix_rewrite: str = ""


class Upstream(msgspec.Struct, frozen=True):
    """A service as callers see it.

    `destinations` are the (address, port) pairs of the catalog's instances: a captured
    connection to one of them belongs to this service. Addresses are in canonical text form.
    Of `routes` the first that matches a request decides; `target` gets what none matches, and
    everything that is not http.
    """

    service: str
    protocol: Protocol
    target: Target
    destinations: tuple[tuple[str, int], ...] = ()
    routes: tuple[Route, ...] = ()

    def targets(self) -> list[Target]:
        """All that traffic can go to, its own first, each once."""
        found = {self.target.id: self.target}
        for route in self.routes:
            if route.target is not None:
                found.setdefault(route.target.id, route.target)
        return list(found.values())
