"""What `fleetmesh status` shows: the admin API's answer to GET /v1/status."""

from __future__ import annotations

import msgspec

from fleetmesh.model.problem import Problem
from fleetmesh.model.release import Releases
from fleetmesh.model.report import Ejected
from fleetmesh.model.traffic import Upstream

MAX_WHY = 500
"""Characters of a reason that an operator gives for what is on record."""


class WatchStatus(msgspec.Struct, frozen=True):
    """What is followed in Consul: `watch` is roots, intentions, catalog, chains, instances or
    leaf:<service>. `answered` is seconds since its last good answer, None before the first; with
    several of a kind the worst counts. `stale` is for how many seconds what it tells may have been
    wrong: 0 while Consul answers, which it does by keeping a question for minutes."""

    watch: str
    answered: float | None
    stale: float
    error: str = ""


class ConsulStatus(msgspec.Struct, frozen=True):
    """`last_contact` is seconds since the last good answer, None if there was none yet."""

    address: str
    reachable: bool
    last_contact: float | None
    error: str = ""
    watches: tuple[WatchStatus, ...] = ()


class HandshakeStatus(msgspec.Struct, frozen=True):
    """What the service's own sidecar port showed to the agent that dialled it `age` seconds ago:
    the certificate's `serial`, the seconds that it has left and its whole life, or the `error` why
    there was none that the roots vouch for. `wrong_for`: for how many seconds it has not been the
    one that the workers were given; 0 while it is."""

    age: float
    serial: str = ""
    seconds_left: float = 0.0
    life: float = 0.0
    wrong_for: float = 0.0
    error: str = ""


class IdentityStatus(msgspec.Struct, frozen=True):
    """`seconds_left` and `life` (seconds from first to last valid moment) of the leaf that
    workers were given; `workers` counts those that say they serve this very serial, `handshake` is
    what a peer sees; `renewable` is false while Consul does not answer for it."""

    spiffe_id: str
    serial: str = ""
    not_after: float = 0.0
    seconds_left: float = 0.0
    life: float = 0.0
    workers: int = 0
    renewable: bool = True
    handshake: HandshakeStatus | None = None

    def served(self) -> tuple[float, float]:
        """`seconds_left` and `life` of the leaf that peers get, where that is known."""
        shown = self.handshake
        if shown is not None and shown.life > 0:
            return shown.seconds_left, shown.life
        return self.seconds_left, self.life


class HoldStatus(msgspec.Struct, frozen=True):
    """A service that an operator holds back. `phase` is announced, draining or maintenance;
    `kinds` are the verbs that hold it, maintenance and drain; `under_way` its exchanges and relayed
    connections, `left` those that were when its drain was over (None before), `seconds_left` the
    time that its drain has yet."""

    phase: str
    why: str
    kinds: tuple[str, ...] = ()
    under_way: int = 0
    seconds_left: float = 0.0
    left: int | None = None


class ServiceStatus(msgspec.Struct, frozen=True):
    """`adopted` is the id of the registration where another tool made it."""

    name: str
    id: str
    port: int
    protocol: str
    mode: str
    user: str
    uid: int | None
    outbound_port: int | None
    sidecar_port: int
    registered: bool
    identity: IdentityStatus
    intentions: tuple[str, ...] = ()
    adopted: str = ""
    hold: HoldStatus | None = None


class WorkerStatus(msgspec.Struct, frozen=True):
    pid: int
    generation: int
    connections: int
    restarts: int
    memory: int
    draining: bool = False


class BypassStatus(msgspec.Struct, frozen=True):
    """Capture is suspended for another `seconds_left`; `since` is of the epoch."""

    seconds_left: float
    since: float
    by: str
    why: str


class CaptureStatus(msgspec.Struct, frozen=True):
    """`state` is one of applied, unconfirmed, undone (nobody confirmed in time), removed (by an
    operator), bypassed (by one, for a time), waiting (for the first snapshot), disabled, failed,
    stopped (no agent runs); `undo_in` is the seconds until unconfirmed rules are undone."""

    state: str
    rules: int = 0
    drift: bool = False
    undo_in: float | None = None
    error: str = ""
    bypass: BypassStatus | None = None


class FaultStatus(msgspec.Struct, frozen=True):
    """A fault that is injected. `does` says it in a sentence; `percent` of the requests, `delay` in
    seconds, `abort` the status; `headers` as they were written. `struck` counts the requests,
    `since` is of the epoch, `by` who injected it."""

    id: str
    service: str
    callers: tuple[str, ...]
    percent: float
    does: str
    kind: str
    seconds_left: float
    delay: float = 0.0
    abort: int = 0
    headers: tuple[str, ...] = ()
    struck: int = 0
    since: float = 0.0
    by: str = ""
    why: str = ""


class Status(msgspec.Struct, frozen=True):
    """`kernel_tls` says whether the kernel encrypts, and if not, why; `releases` is None for an
    agent that is no release of a host. `overflows` counts the connections that found a listener's
    queue full since the agent began, on the whole host."""

    version: str
    pid: int
    uptime: float
    node: str
    datacenter: str
    trust_domain: str
    generation: int
    digest: str
    consul: ConsulStatus
    capture: CaptureStatus
    services: tuple[ServiceStatus, ...]
    upstreams: tuple[Upstream, ...]
    workers: tuple[WorkerStatus, ...]
    problems: tuple[Problem, ...] = ()
    default_allow: bool = False
    kernel_tls: str = ""
    ejected: tuple[Ejected, ...] = ()
    releases: Releases | None = None
    overflows: int = 0
    faults: tuple[FaultStatus, ...] = ()
