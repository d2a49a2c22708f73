"""`fleetmesh check`: the doctor."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import typer

from fleetmesh.cli.options import (
    DEFAULT_AGENT,
    DEFAULT_SERVICES,
    AgentFile,
    Exit,
    Json,
    ServicesDir,
    Socket,
)

if TYPE_CHECKING:
    from fleetmesh.cli.findings import Finding
    from fleetmesh.edge.admin_client import AdminClient
    from fleetmesh.edge.consul_probe import Probe
    from fleetmesh.settings import Settings


def check(
    agent_file: AgentFile = DEFAULT_AGENT,
    services_dir: ServicesDir = DEFAULT_SERVICES,
    socket: Socket = None,
    as_json: Json = False,
) -> None:
    """Examine this host: settings, agent, Consul, token, certificates, clock, rules, sockets,
    limits.

    One line per examination, with a remedy where one is needed. As root it sees more. Exit code
    0 when all is well, 1 with warnings, 2 with errors.
    """
    from fleetmesh.cli import findings, render

    found = _examine(str(agent_file), str(services_dir), socket)
    if as_json:
        import msgspec

        typer.echo(json.dumps({"findings": msgspec.to_builtins(found)}, indent=2))
    else:
        render.findings(found, sys.stdout)
    level = findings.worst(found)
    codes = {findings.Level.WARNING: Exit.WARNING, findings.Level.ERROR: Exit.ERROR}
    raise typer.Exit(codes.get(level, Exit.OK))


def _examine(agent_file: str, services_dir: str, socket: str | None) -> list[Finding]:
    from fleetmesh.cli import doctor
    from fleetmesh.edge import host, users
    from fleetmesh.edge.admin_client import AdminClient
    from fleetmesh.settings import Settings
    from fleetmesh.settings.load import load

    loaded = load(agent_file, services_dir, users.resolve)
    found = doctor.settings(loaded)
    # What the rest needs to know is guessed when the settings do not tell.
    settings = loaded if isinstance(loaded, Settings) else Settings(address="127.0.0.1")
    found += _consul(settings)
    found += _agent(AdminClient(socket or settings.admin_socket), settings)
    found.append(doctor.conntrack(host.conntrack()))
    found.append(doctor.foreign_chains(_foreign_chains()))
    return found


def _consul(settings: Settings) -> list[Finding]:
    from fleetmesh.cli import doctor
    from fleetmesh.cli.findings import Finding, Level
    from fleetmesh.edge import consul_link
    from fleetmesh.edge.consul_probe import ConsulUnreachableError, probe

    found = []
    token = tls = None
    try:
        token = consul_link.read_token(settings.consul) or consul_link.source_token()
    except consul_link.UnfitError as error:
        problem = error.problem
        found.append(Finding(Level.ERROR, "token", problem.rule, problem.remedy))
    try:
        tls = consul_link.context(settings.consul)
    except consul_link.UnfitError as error:
        return [*found, Finding(Level.ERROR, "consul", str(error.problem))]
    try:
        answer: Probe | str = probe(settings.consul.address, token, tls)
    except ConsulUnreachableError as error:
        answer = str(error)
    return found + list(doctor.consul(settings.consul.address, answer))


def _agent(client: AdminClient, settings: Settings) -> list[Finding]:
    """What only a running agent can tell."""
    from fleetmesh.cli import doctor, headroom
    from fleetmesh.cli.findings import Finding, Level, of_status, unreachable
    from fleetmesh.edge import host
    from fleetmesh.edge.admin_client import AgentRefusedError, AgentUnreachableError

    listeners = host.listeners()
    try:
        status = client.status()
    except (AgentUnreachableError, AgentRefusedError) as error:
        down = Finding(
            Level.ERROR, "agent", f"does not answer: {error}", "systemctl status fleetmesh-agent"
        )
        return [down, *doctor.ports_free(settings, listeners)]
    found = [Finding(Level.OK, "agent", f"fleetmesh {status.version} answers, pid {status.pid}")]
    found += of_status(status)
    called = {name for service in settings.services for name in service.upstreams}
    found += unreachable(upstream for upstream in status.upstreams if upstream.service in called)
    found += doctor.sockets(settings, status, listeners, host.socket_inodes(status.pid))
    found += doctor.applications(settings, status, listeners)
    found.append(doctor.files(host.file_limit(status.pid)))
    found.append(headroom.files(host.open_files(worker.pid) for worker in status.workers))
    tuned = host.tuning()
    found.append(headroom.dialled(host.dialled(tuned)))
    found += headroom.tuning(tuned, settings, status)
    try:
        found.append(doctor.rules(tuple(client.get("/v1/capture").get("difference", ()))))
    except (AgentUnreachableError, AgentRefusedError) as error:
        found.append(Finding(Level.ERROR, "rules", f"cannot be compared: {error}"))
    return found


def _foreign_chains() -> tuple[str, ...] | None:
    from fleetmesh.edge import netlink

    try:
        return netlink.foreign_nat_chains()
    except (netlink.NetfilterError, OSError):
        return None
