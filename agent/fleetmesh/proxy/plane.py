"""What all connections of a worker share: the table, the clock, the register of who is here."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import ssl
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from fleetmesh.core.lane import DEFAULTS, Lane
from fleetmesh.core.request import RequestHead
from fleetmesh.core.table import Table, dropped
from fleetmesh.core.trace import Marker, Tracing
from fleetmesh.model.record import MAX_PATH, printable
from fleetmesh.model.refusal import Refusal
from fleetmesh.model.report import Ejection
from fleetmesh.proxy.access import AccessLog
from fleetmesh.proxy.ejections import judge
from fleetmesh.proxy.site import Site
from fleetmesh.proxy.telemetry import Telemetry
from fleetmesh.settings import HttpSettings, TcpSettings, TracingSettings

if TYPE_CHECKING:
    from fleetmesh.proxy.asking import Questions

_log = logging.getLogger(__name__)

SWEEP = 0.25  # seconds; nothing ends before its deadline, and at most two sweeps after it
GRACE = 1.0  # `quiet` where nothing else is said
HANDSHAKE_TIMEOUT = 10.0
LINGER = 2.0  # seconds for a peer to read an answer before its connection is closed
LINGER_MOST = 30.0  # for one that has not stopped sending its request; nginx' lingering_time
LOG_BURST = 10  # lines about the same refusal in one second
AUDITED = frozenset({Refusal.DENIED, Refusal.AMBIGUOUS})  # with what was asked for


class Identity(msgspec.Struct, frozen=True):
    """What a local service shows and trusts. Times are seconds since the epoch. `streams` is
    `client` for connections that may carry TCP streams one after another."""

    serial: str
    not_after: float
    client: ssl.SSLContext
    streams: ssl.SSLContext
    server: ssl.SSLContext


class Held(Protocol):
    """A connection in the register. `now` is the sweep's monotonic clock."""

    deadline: float

    def expire(self, now: float) -> None:
        """The deadline has passed."""

    def retire(self, now: float) -> None:
        """The worker drains: end as soon as that hurts nobody."""

    def recheck(self, now: float) -> None:
        """There is a new table: end what it forbids."""

    def abort(self) -> None:
        """End at once."""


class Plane:
    """One per worker. `table` and `identities` are swapped whole by `publish`. `access` is None
    where no records are kept of requests, `questions` where nobody can be asked whose an address
    is, `share` where there are no other workers to tell of ejections. `unreachable_after` is the
    setting of `upstream`; `most_connections` are accepted at a time. After `quiet` seconds
    without a request a keep-alive connection that is to end is closed: who sends one at that very
    moment loses it, so the longer the fewer."""

    __slots__ = (
        "_logged",
        "_random",
        "_tasks",
        "_told_dropped",
        "access",
        "connections",
        "draining",
        "http",
        "identities",
        "loop",
        "marker",
        "most_connections",
        "now",
        "questions",
        "quiet",
        "share",
        "table",
        "tcp",
        "telemetry",
        "unreachable_after",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        http: HttpSettings,
        tcp: TcpSettings,
        table: Table,
        tracing: TracingSettings | None = None,
        access: AccessLog | None = None,
    ) -> None:
        tracing = tracing or TracingSettings()
        self.marker = Tracing(tracing.sample_rate, os.urandom) if tracing.enabled else Marker()
        self.access = access
        self._random = random.Random()  # noqa: S311 -- shares traffic out, keeps no secret
        self.questions: Questions | None = None
        self.share: Callable[[list[Ejection]], None] | None = None
        self.unreachable_after = DEFAULTS.unreachable_after
        self._told_dropped = 0
        self.loop = loop
        self.http = http
        self.tcp = tcp
        self.table = table
        self.identities: Mapping[str, Identity] = {}
        self.telemetry = Telemetry()
        self.connections: set[Held] = set()
        self.most_connections = 1 << 30
        self.draining = False
        self.quiet = GRACE
        self.now = time.monotonic()
        self._tasks: set[asyncio.Task[None]] = set()
        self._logged: dict[tuple[str, str, str, str], int] = {}
        loop.call_later(SWEEP, self._sweep, 0)

    def draw(self) -> int:
        """64 random bits."""
        return self._random.getrandbits(64)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work`, which must see to its own errors, and keep it alive."""
        task = self.loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def publish(self, table: Table, identities: Mapping[str, Identity]) -> None:
        """Serve `table` from now on; end connections that it forbids."""
        previous, self.table = self.table, table
        self.identities = identities
        for lane in dropped(previous, table):
            for pool in lane.pools:
                for connection in pool.close():
                    connection.abort()
        for held in tuple(self.connections):
            held.recheck(self.now)

    def refused(
        self,
        site: Site,
        refusal: Refusal,
        peer: str,
        detail: str = "",
        request: RequestHead | None = None,
    ) -> None:
        """Count and log; of a flood of the same only a part is logged, and how many more there
        were."""
        self.telemetry.refused(site.direction, site.source, site.destination, refusal)
        key = (site.direction.value, site.source, site.destination, refusal.code)
        seen = self._logged.get(key, 0) + 1
        self._logged[key] = seen
        if seen > LOG_BURST:
            return
        fields = {
            "event": "refused",
            "direction": site.direction.value,
            "source": site.source,
            "destination": site.destination,
            "reason": refusal.code,
            "peer": peer,
        }
        if site.identity:
            fields["spiffe_id"] = site.identity
        if refusal is Refusal.DENIED:
            fields["intention"] = str(site.verdict)
        elif refusal is Refusal.AMBIGUOUS:
            detail = detail or site.verdict.ambiguous
        if request is not None and refusal in AUDITED:
            fields["method"] = printable(request.method)
            fields["path"] = printable(request.target.partition(b"?")[0][:MAX_PATH])
        if site.sni:
            fields["sni"] = site.sni
        if detail:
            fields["detail"] = detail
        if seen == LOG_BURST:
            fields["muted"] = "further lines like this one, for a second"
        why = [text for name in ("intention", "detail") if (text := fields.get(name))]
        if "path" in fields:
            why.append(f"{fields['method']} {fields['path']}")
        _log.warning(
            "refused %s => %s: %s%s",
            site.source or peer,
            site.destination or "?",
            refusal.sentence,
            f" ({', '.join(why)})" if why else "",
            extra={"fields": fields},
        )

    def admitted(self, site: Site, peer: str) -> None:
        """Log that a service in permissive mode served somebody without the mesh."""
        key = (site.direction.value, site.source, site.destination, "admitted")
        seen = self._logged.get(key, 0) + 1
        self._logged[key] = seen
        if seen <= LOG_BURST:
            fields = {"event": "admitted", "destination": site.destination, "peer": peer}
            _log.info(
                "plain connection from %s to %s admitted",
                peer,
                site.destination,
                extra={"fields": fields},
            )

    def detected(self, site: Site, peer: str) -> None:
        """Log what was found out of a connection: its kind, and the name that TLS asks for."""
        if _log.isEnabledFor(logging.DEBUG):
            fields = {
                "event": "detected",
                "direction": site.direction.value,
                "source": site.source,
                "destination": site.destination,
                "kind": site.kind,
                "peer": peer,
            }
            if site.sni:
                fields["sni"] = site.sni
            _log.debug(
                "%s => %s speaks %s%s",
                site.source or peer,
                site.destination,
                site.kind,
                f" for {site.sni}" if site.sni else "",
                extra={"fields": fields},
            )

    def cut(self, site: Site, peer: str, request: RequestHead | None = None) -> None:
        """An open connection ends because an intention now forbids it."""
        self.refused(site, Refusal.DENIED, peer, "an open connection was ended", request)

    def drain(self, quiet: float = GRACE) -> None:
        self.draining = True
        self.quiet = quiet
        for held in tuple(self.connections):
            held.retire(self.now)

    def abort_all(self) -> int:
        """End whatever is left; how many that were."""
        left = tuple(self.connections)
        for held in left:
            held.abort()
        self._tell_muted()
        return len(left)

    def _tell_muted(self) -> None:
        """How many lines were kept back in the second that is over."""
        logged, self._logged = self._logged, {}
        for (direction, source, destination, what), seen in logged.items():
            if seen > LOG_BURST:
                _log.warning(
                    "%d more like it were not logged: %s => %s: %s",
                    seen - LOG_BURST,
                    source or "?",
                    destination or "?",
                    what,
                    extra={
                        "fields": {
                            "event": "muted",
                            "direction": direction,
                            "source": source,
                            "destination": destination,
                            "reason": what,
                            "suppressed": seen - LOG_BURST,
                        }
                    },
                )

    def _sweep(self, round_: int) -> None:
        self.now = now = time.monotonic()
        due = now - SWEEP  # deadlines were reckoned from a clock that was late by up to this
        for held in tuple(self.connections):
            if held.deadline <= due:
                held.expire(now)
        if round_ % 4 == 0:
            self._tell_muted()
            for lane in self.table.lanes():
                self._expire_idle(lane, now)
            news = judge(self.table, now)
            if news and self.share is not None:
                self.share(news)
        if self.access is not None and self.access.journal:
            self._flush_access()
        self.loop.call_later(SWEEP, self._sweep, round_ + 1)

    def _flush_access(self) -> None:
        """A portion at a time, so that traffic passes between them."""
        log = self.access
        if log is None:
            return
        if log.flush():
            self.loop.call_soon(self._flush_access)
        elif log.dropped != self._told_dropped:
            _log.warning("%d access records were dropped", log.dropped - self._told_dropped)
            self._told_dropped = log.dropped

    @staticmethod
    def _expire_idle(lane: Lane, now: float) -> None:
        for pool in lane.pools:
            for connection in pool.expired(now):
                connection.close()
