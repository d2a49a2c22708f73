"""The host's own files: `/etc/fleetmesh/agent.yaml` and `services.d/*.yaml`.

Values only; `settings.load` reads and checks the files. Annotations say how a value is written;
durations are seconds once read.
"""

from __future__ import annotations

import enum
from typing import Annotated, Any

import msgspec

from fleetmesh.model.snapshot import Mode
from fleetmesh.model.traffic import Protocol
from fleetmesh.settings import kinds

AGENT_FILE = "/etc/fleetmesh/agent.yaml"
SERVICES_DIR = "/etc/fleetmesh/services.d"

Port = Annotated[int, kinds.PORT]
Timeout = Annotated[float, kinds.TIMEOUT]
Path = Annotated[str, kinds.PATH]
ServiceName = Annotated[str, kinds.NAME]


class OnStop(enum.StrEnum):
    """What becomes of captured services when the agent is stopped for good."""

    OPEN = "open"
    CLOSED = "closed"


class WithoutSidecar(enum.StrEnum):
    """What becomes of connections to a service of the catalog that has no sidecar."""

    PASSTHROUGH = "passthrough"
    REFUSE = "refuse"


class ConsulSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`address` is the local Consul agent's HTTP API. The token is read from a file, so that it
    stands in no world-readable setting. The other files are PEM, for https: the CAs to trust (the
    host's own without one), and a client certificate with its key."""

    address: Annotated[str, kinds.CONSUL] = "http://127.0.0.1:8500"
    token_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


class DnsSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Names for the services of this host. `port` is on loopback, `ttl` whole seconds; `consul` is
    the Consul agent's DNS server."""

    enabled: bool = True
    port: Port = 15053
    ttl: Annotated[int, kinds.TTL] = 5
    consul: Annotated[str, kinds.HOST_PORT] = "127.0.0.1:8600"


class CaptureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`confirm_timeout`: seconds until rules that a rollout applied are undone unless confirmed.
    `exclude_ports` and `exclude_cidrs` name outbound destinations that are never captured;
    `exclude_inbound_ports` application ports that are left alone. `ssh_ports` can never be
    captured."""

    enabled: bool = True
    confirm_timeout: Annotated[float, kinds.CONFIRM] = 60.0
    exclude_ports: tuple[Port, ...] = ()
    exclude_cidrs: tuple[Annotated[str, kinds.CIDR], ...] = ()
    exclude_inbound_ports: tuple[Port, ...] = ()
    ssh_ports: tuple[Port, ...] = (22,)


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes, counts and seconds. `route_by_host`: a connection to an address outside the mesh goes
    to the service that the Host of its first request names."""

    max_head_bytes: Annotated[int, kinds.HEAD_BYTES] = 60 * 1024
    max_headers: Annotated[int, kinds.HEADERS] = 100
    max_target_bytes: Annotated[int, kinds.TARGET_BYTES] = 16 * 1024
    max_body_bytes: Annotated[int, kinds.BODY_BYTES] = 0
    head_timeout: Timeout = 10.0
    idle_timeout: Timeout = 300.0
    request_timeout: Annotated[float, kinds.DEADLINE] = 15.0
    route_by_host: bool = False


class TcpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`detect_timeout`: seconds that a connection whose protocol is to be found out may stay
    silent; `keepalive`: silent seconds until the kernel probes whether the peer is there.
    `share_connections`: streams follow one another on the connections between agents."""

    idle_timeout: Timeout = 3600.0
    keepalive: Annotated[float, kinds.KEEPALIVE] = 60.0
    detect_timeout: Annotated[float, kinds.DETECT] = 0.5
    share_connections: bool = True


class OutlierSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """When an endpoint that fails gets no requests for a while, where its service has others.

    Counts in a row, seconds, a share, and how many times its peers' an endpoint's p90 may be, where
    it is above `latency_floor`. `interval` is what the failure rate and the p90 are taken of;
    `ejection_time` the first ejection's, which grows by as much with each that follows. While less
    than `panic_threshold` percent are well, all serve.
    """

    consecutive_5xx: Annotated[int, kinds.STREAK] = 5
    consecutive_gateway: Annotated[int, kinds.STREAK] = 3
    consecutive_unanswered: Annotated[int, kinds.STREAK] = 3
    failure_rate: Annotated[float, kinds.SHARE] = 0.2
    latency_multiple: Annotated[float, kinds.MULTIPLE] = 5.0
    latency_floor: Timeout = 0.25
    interval: Timeout = 10.0
    ejection_time: Timeout = 5.0
    max_ejection_time: Timeout = 300.0
    max_ejection_percent: Annotated[int, kinds.PERCENT] = 50
    panic_threshold: Annotated[int, kinds.PERCENT] = 50


class UpstreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Connections that a worker keeps, for each local service to each endpoint of an upstream, and
    which endpoints get how much. `slow_start`: until a new endpoint has its whole share.
    `retries` are those of idempotent requests that nobody has said anything about;
    `unreachable_after`: until a dial is joined by another, or a request that the other host's
    kernel does not acknowledge goes elsewhere.

    Seconds and counts. Peers' sidecars keep idle connections for minutes; of an application
    nothing is known but that five seconds is the shortest keep-alive time in wide use (Node's).
    """

    idle_timeout: Timeout = 60.0
    application_idle_timeout: Timeout = 4.0
    max_age: Timeout = 3600.0
    max_idle: Annotated[int, kinds.IDLE] = 1024
    max_connections: Annotated[int, kinds.PLACES] = 0
    max_requests: Annotated[int, kinds.PLACES] = 0
    queue_wait: Annotated[float, kinds.DEADLINE] = 0.0
    warm_connections: Annotated[int, kinds.WARM] = 0
    retry_budget: Annotated[float, kinds.SHARE] = 0.2
    min_retries_per_second: Annotated[int, kinds.RETRIES] = 3
    retries: Annotated[int, kinds.TRIES] = 2
    unreachable_after: Annotated[float, kinds.UNREACHABLE] = 1.0
    stream_timeout: Annotated[float, kinds.DEADLINE] = 0.0
    slow_start: Annotated[float, kinds.SLOW_START] = 10.0
    zone_aware: bool = False
    zone_spill: Annotated[int, kinds.PLACES] = 8
    outlier: OutlierSettings = OutlierSettings()


class OnDemandSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Upstreams that no service declares: watched from their first use until they have not been
    used for `idle_timeout` seconds. `max_watches` bounds the blocking queries to Consul."""

    enabled: bool = True
    idle_timeout: Timeout = 1800.0
    max_watches: Annotated[int, kinds.WATCHES] = 150


class TracingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`enabled`: requests are told their trace and their id; `sample_rate` is the share of the
    traces begun here that are sampled."""

    enabled: bool = True
    sample_rate: Annotated[float, kinds.SHARE] = 0.01


class AccessLogMode(enum.StrEnum):
    """Where a record of every request goes."""

    OFF = "off"
    RING = "ring"
    JOURNAL = "journal"


class AccessLogSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`size` is how many records each worker's ring keeps; `query` keeps query strings too."""

    mode: AccessLogMode = AccessLogMode.OFF
    size: Annotated[int, kinds.RECORDS] = 1000
    query: bool = False


class WorkerSettings(msgspec.Struct, frozen=True):
    """What a worker is started with, as JSON in its arguments; one of so many `workers`, which
    each accept `max_connections`, or what their open files allow with 0."""

    http: HttpSettings = HttpSettings()
    tcp: TcpSettings = TcpSettings()
    log_level: str = "info"
    upstream: UpstreamSettings = UpstreamSettings()
    tracing: TracingSettings = TracingSettings()
    access_log: AccessLogSettings = AccessLogSettings()
    on_demand: bool = False
    workers: int = 1
    max_connections: int = 0


class Ports(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First and last port (inclusive) that services without an explicit one draw from, and the
    port that plain inbound connections are redirected to."""

    outbound: tuple[Port, Port] = (15100, 15355)
    sidecar: tuple[Port, Port] = (21000, 21255)
    plain: Port = 15006


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of `services.d`.

    `user` or `unit` (a systemd unit, whose User= counts) says whose outbound connections carry
    this service's identity; with neither, the service is only called. `checks` are Consul check
    definitions of the application. `id` defaults to the name, `protocol` to what Consul's
    service-defaults say, `on_stop` to the agent's. `file` is where it was declared.
    """

    name: ServiceName
    port: Port
    id: Annotated[str, kinds.ID] = ""
    address: Annotated[str, kinds.ADDRESS] = "127.0.0.1"
    user: Annotated[str, kinds.USER] | None = None
    unit: Annotated[str, kinds.UNIT] | None = None
    protocol: Protocol | None = None
    mode: Mode = Mode.STRICT
    on_stop: OnStop | None = None
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    checks: tuple[dict[str, Any], ...] = ()
    upstreams: tuple[ServiceName, ...] = ()
    weight: Annotated[int, kinds.WEIGHT] = 1
    warning_weight: Annotated[int, kinds.WARNING_WEIGHT] = 1
    outbound_port: Port | None = None
    sidecar_port: Port | None = None
    file: Annotated[str, kinds.Hidden()] = ""

    @property
    def service_id(self) -> str:
        return self.id or self.name

    @property
    def sidecar_id(self) -> str:
        return f"{self.service_id}-sidecar-proxy"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`agent.yaml` with the services beside it.

    `address`/`address6` are where peers reach this host; `workers` 0 means one per core,
    `max_connections` (of each) what their open files allow;
    `drain_timeout` is how many seconds exchanges in flight get when the agent stops.
    """

    address: Annotated[str, kinds.ADDRESS]
    address6: Annotated[str, kinds.ADDRESS6] | None = None
    workers: Annotated[int, kinds.WORKERS] = 0
    max_connections: Annotated[int, kinds.HELD] = 0
    on_stop: OnStop = OnStop.OPEN
    mesh_destinations_only: bool = False
    without_sidecar: WithoutSidecar | None = None
    drain_timeout: Annotated[float, kinds.DRAIN] = 5.0
    log_level: Annotated[str, kinds.LOG_LEVEL] = "info"
    metrics_address: Annotated[str, kinds.HOST_PORT] = "127.0.0.1:15020"
    admin_socket: Path = "/run/fleetmesh/admin.sock"
    state_dir: Path = "/var/lib/fleetmesh"
    consul: ConsulSettings = ConsulSettings()
    capture: CaptureSettings = CaptureSettings()
    dns: DnsSettings = DnsSettings()
    ports: Ports = Ports()
    http: HttpSettings = HttpSettings()
    tcp: TcpSettings = TcpSettings()
    upstream: UpstreamSettings = UpstreamSettings()
    tracing: TracingSettings = TracingSettings()
    access_log: AccessLogSettings = AccessLogSettings()
    on_demand: OnDemandSettings = OnDemandSettings()
    services: Annotated[tuple[ServiceSettings, ...], kinds.Hidden()] = ()

    def on_stop_of(self, service: ServiceSettings) -> OnStop:
        return service.on_stop or self.on_stop
