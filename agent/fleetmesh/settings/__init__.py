"""The host's own files: `/etc/fleetmesh/agent.yaml` and `services.d/*.yaml`.

Values only; `settings.load` reads and checks the files.
"""

from __future__ import annotations

import enum
from typing import Any

import msgspec

from fleetmesh.model.snapshot import Mode
from fleetmesh.model.traffic import Protocol

AGENT_FILE = "/etc/fleetmesh/agent.yaml"
SERVICES_DIR = "/etc/fleetmesh/services.d"


class OnStop(enum.StrEnum):
    """What becomes of captured services when the agent is stopped for good."""

    OPEN = "open"
    CLOSED = "closed"


class ConsulSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`address` is the local Consul agent's HTTP API. The token is read from a file, so that it
    stands in no world-readable setting."""

    address: str = "http://127.0.0.1:8500"
    token_file: str | None = None


class CaptureSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`confirm_timeout`: seconds until rules that a rollout applied are undone unless confirmed.
    `exclude_ports` and `exclude_cidrs` name outbound destinations that are never captured;
    `exclude_inbound_ports` application ports that are left alone. `ssh_ports` can never be
    captured."""

    enabled: bool = True
    confirm_timeout: float = 60.0
    exclude_ports: tuple[int, ...] = ()
    exclude_cidrs: tuple[str, ...] = ()
    exclude_inbound_ports: tuple[int, ...] = ()
    ssh_ports: tuple[int, ...] = (22,)


class HttpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bytes, counts and seconds."""

    max_head_bytes: int = 60 * 1024
    max_headers: int = 100
    max_target_bytes: int = 16 * 1024
    head_timeout: float = 10.0
    idle_timeout: float = 300.0
    request_timeout: float = 15.0


class TcpSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    idle_timeout: float = 3600.0


class Ports(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """First and last port (inclusive) that services without an explicit one draw from, and the
    port that plain inbound connections are redirected to."""

    outbound: tuple[int, int] = (15100, 15355)
    sidecar: tuple[int, int] = (21000, 21255)
    plain: int = 15006


class ServiceSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file of `services.d`.

    `user` or `unit` (a systemd unit, whose User= counts) says whose outbound connections carry
    this service's identity; with neither, the service is only called. `checks` are Consul check
    definitions of the application. `id` defaults to the name, `protocol` to what Consul's
    service-defaults say, `on_stop` to the agent's. `file` is where it was declared.
    """

    name: str
    port: int
    id: str = ""
    address: str = "127.0.0.1"
    user: str | None = None
    unit: str | None = None
    protocol: Protocol | None = None
    mode: Mode = Mode.STRICT
    on_stop: OnStop | None = None
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    checks: tuple[dict[str, Any], ...] = ()
    upstreams: tuple[str, ...] = ()
    weight: int = 1
    outbound_port: int | None = None
    sidecar_port: int | None = None
    file: str = ""

    @property
    def service_id(self) -> str:
        return self.id or self.name

    @property
    def sidecar_id(self) -> str:
        return f"{self.service_id}-sidecar-proxy"


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`agent.yaml` with the services beside it.

    `address`/`address6` are where peers reach this host; `workers` 0 means one per core;
    `drain_timeout` is how many seconds exchanges in flight get when the agent stops.
    """

    address: str
    address6: str | None = None
    workers: int = 0
    on_stop: OnStop = OnStop.OPEN
    mesh_destinations_only: bool = False
    drain_timeout: float = 5.0
    log_level: str = "info"
    metrics_address: str = "127.0.0.1:15020"
    admin_socket: str = "/run/fleetmesh/admin.sock"
    state_dir: str = "/var/lib/fleetmesh"
    consul: ConsulSettings = ConsulSettings()
    capture: CaptureSettings = CaptureSettings()
    ports: Ports = Ports()
    http: HttpSettings = HttpSettings()
    tcp: TcpSettings = TcpSettings()
    services: tuple[ServiceSettings, ...] = ()

    def on_stop_of(self, service: ServiceSettings) -> OnStop:
        return service.on_stop or self.on_stop
