"""The controller: composition root of `fleetmesh agent`."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop

from fleetmesh.edge import systemd, users
from fleetmesh.model.problem import Problem
from fleetmesh.plan.ports import Allocation, allocate
from fleetmesh.process.front import Front
from fleetmesh.process.memory import load_ports
from fleetmesh.settings import Settings
from fleetmesh.settings.load import load

log = logging.getLogger(__name__)

EXIT_FAILED = 1
EXIT_INVALID = 2
STEP_PATIENCE = 15.0
"""Seconds that each step of the start may take, the first as TimeoutStartSec= of the unit says."""


def run(agent_file: Path, services_dir: Path) -> int:
    """Run the agent until SIGTERM; the exit status. Invalid settings are told on standard error
    and end it with 2, a port or socket that cannot be had with 1."""
    settings = load(agent_file, services_dir, users.resolve)
    if not isinstance(settings, Settings):
        return _refuse(settings)
    systemd.setup_logging(settings.log_level)
    ports = allocate(settings, load_ports(settings.state_dir))
    if not isinstance(ports, Allocation):
        return _refuse(ports)
    return uvloop.run(_main((agent_file, services_dir), settings, ports))


async def _main(files: tuple[Path, Path], settings: Settings, ports: Allocation) -> int:
    """Serve with the workers first, and load what else there is while they start."""
    front = Front(settings, ports, systemd.take_inherited())
    problems = front.open()
    for problem in problems:
        log.error("%s", problem, extra={"fields": {"event": "start_failed"}})
    if problems:
        return EXIT_FAILED
    systemd.extend_start(STEP_PATIENCE)
    await asyncio.gather(front.start(), asyncio.to_thread(_load_the_rest))
    systemd.extend_start(STEP_PATIENCE)
    from fleetmesh.edge import consul_link
    from fleetmesh.edge.consul import ConsulClient
    from fleetmesh.process.agent import Agent

    consul = settings.consul
    try:
        token, tls = consul_link.read_token(consul), consul_link.context(consul)
    except consul_link.UnfitError as error:
        await front.supervisor.drain()
        return _refuse([error.of(files[0])])
    client = ConsulClient(consul.address, token, tls)
    try:
        return await Agent(files, front, client).run()
    finally:
        await client.close()


def _load_the_rest() -> None:
    """Half a second of imports (aiohttp, py-consul, pyroute2, prometheus-client; measured on one
    core), during which workers serve already."""
    import fleetmesh.process.agent  # noqa: F401


def _refuse(problems: Sequence[Problem]) -> int:
    for problem in problems:
        print(problem, file=sys.stderr)
    return EXIT_INVALID
