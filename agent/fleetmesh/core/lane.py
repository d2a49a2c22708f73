"""The ways to endpoints and applications, with what of them outlives a snapshot: their pools."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from fleetmesh.core.line import Lines
from fleetmesh.core.observer import Observer
from fleetmesh.core.outlier import Standing
from fleetmesh.core.pool import Pool
from fleetmesh.model.traffic import Endpoint, Limits
from fleetmesh.settings import UpstreamSettings

DEFAULTS = UpstreamSettings()


class Lane:
    """The way from one identity to one address: connections are never shared between identities.

    `source` is the local service whose certificate is shown, `expected` the SPIFFE ID that the
    endpoint must prove; both are empty for an application on this host, which is reached in the
    clear. `session` is for the TLS layer to keep what it resumes from, and to take another only
    after `session_after` (monotonic seconds). `pool` has the idle connections of HTTP, `streams`
    those that carry TCP streams one after another, where the endpoint `shares` its connections.
    `warmed` says that its first connections are opened, or tried to be, without waiting for a
    request. `standing` is where it is told what the endpoint did; None where nobody
    asks: no other could serve in its place, and its application has no limit that adapts.
    """

    __slots__ = (
        "address",
        "connect_timeout",
        "endpoint_id",
        "expected",
        "pool",
        "port",
        "session",
        "session_after",
        "shares",
        "sni",
        "source",
        "standing",
        "streams",
        "warmed",
    )

    def __init__(
        self,
        endpoint_id: str,
        address: str,
        port: int,
        *,
        source: str = "",
        expected: str = "",
        sni: str = "",
        connect_timeout: float = 5.0,
        shares: bool = False,
        keeping: UpstreamSettings = DEFAULTS,
    ) -> None:
        self.shares = shares
        self.endpoint_id = endpoint_id
        self.address = address
        self.port = port
        self.source = source
        self.expected = expected
        self.sni = sni
        self.connect_timeout = connect_timeout
        self.standing: Observer | None = None
        self.session: Any = None
        self.session_after = 0.0
        self.warmed = False
        idle = keeping.idle_timeout if expected else keeping.application_idle_timeout
        self.pool: Pool[Any] = Pool(
            keeping.max_idle,
            idle,
            keeping.max_age,
            # One's own application has no other instance that could take what it must not.
            keeping.max_connections if expected else 0,
            keeping.max_requests if expected else 0,
        )
        self.streams: Pool[Any] = Pool(keeping.max_idle, idle, keeping.max_age)

    def limit(self, keeping: UpstreamSettings, limits: Limits) -> None:
        """The stricter of what the host and what Consul says holds."""
        self.pool.limit(
            _stricter(keeping.max_connections, limits.max_connections),
            _stricter(keeping.max_requests, limits.max_concurrent_requests),
            limits.max_pending_requests or 0,
        )

    @property
    def pools(self) -> tuple[Pool[Any], Pool[Any]]:
        return self.pool, self.streams


def _stricter(own: int, consul: int | None) -> int:
    """0 is no limit."""
    return min(own, consul) if own and consul else own or consul or 0


Caller = tuple[str, bool]
"""A local service and whether it dials IPv6."""


class Place:
    """An endpoint with what must outlive a snapshot: its lanes and their pools."""

    __slots__ = (
        "_keeping",
        "_lanes",
        "_limits",
        "_lines",
        "connect_timeout",
        "endpoint",
        "expected",
        "sni",
        "standing",
    )

    def __init__(
        self,
        endpoint: Endpoint,
        expected: str,
        sni: str,
        connect_timeout: float,
        keeping: UpstreamSettings = DEFAULTS,
    ) -> None:
        self._keeping = keeping
        self._limits = Limits()
        self._lines: Lines | None = None
        self.endpoint = endpoint
        self.expected = expected
        self.sni = sni
        self.connect_timeout = connect_timeout
        self.standing: Standing | None = None
        self._lanes: dict[Caller, Lane] = {}

    def lane(self, source: str, ipv6: bool) -> Lane:
        """`ipv6`: the caller dialled an IPv6 address, so the endpoint's is preferred."""
        lane = self._lanes.get((source, ipv6))
        if lane is None:
            endpoint = self.endpoint
            lane = self._lanes[source, ipv6] = Lane(
                endpoint.id,
                endpoint.address6 if ipv6 and endpoint.address6 else endpoint.address,
                endpoint.port,
                source=source,
                expected=self.expected,
                sni=self.sni,
                connect_timeout=self.connect_timeout,
                shares=endpoint.shares,
                keeping=self._keeping,
            )
            lane.limit(self._keeping, self._limits)
            lane.pool.line = None if self._lines is None else self._lines.of(source)
            lane.standing = self.standing
        return lane

    def watch(self, standing: Standing | None) -> None:
        """What becomes of its requests is told to `standing`."""
        self.standing = standing
        for lane in self._lanes.values():
            lane.standing = standing

    def limit(self, limits: Limits, lines: Lines | None = None) -> None:
        """`lines` are where requests wait for what `limits` do not let through at once."""
        if limits != self._limits or lines is not self._lines:
            self._limits = limits
            self._lines = lines
            for (source, _), lane in self._lanes.items():
                lane.limit(self._keeping, limits)
                lane.pool.line = None if lines is None else lines.of(source)

    def active(self) -> int:
        """The requests and connections that are under way to it, of all callers."""
        under_way = 0
        for lane in self._lanes.values():
            pool = lane.pool
            under_way += pool.active + pool.opening
        return under_way

    def callers(self) -> Collection[Caller]:
        """Whose lanes there are."""
        return self._lanes.keys()

    def cool(self) -> None:
        """It gets no traffic for now: when it does again, it is as good as new."""
        self.watch(None)
        for lane in self._lanes.values():
            lane.warmed = False

    def lanes(self) -> Collection[Lane]:
        return self._lanes.values()

    def forget_all_but(self, sources: Collection[str]) -> list[Lane]:
        """Remove and return the lanes of every other source."""
        gone = [key for key in self._lanes if key[0] not in sources]
        return [self._lanes.pop(key) for key in gone]
