"""`fleetmesh agent`: the daemon, as the unit starts it."""

from __future__ import annotations

import typer

from fleetmesh.cli.options import DEFAULT_AGENT, DEFAULT_SERVICES, AgentFile, ServicesDir


def agent(
    agent_file: AgentFile = DEFAULT_AGENT, services_dir: ServicesDir = DEFAULT_SERVICES
) -> None:
    """Run the agent in the foreground.

    Meant for fleetmesh-agent.service, which keeps its sockets open across restarts and gives it
    the one capability that it needs. SIGTERM drains and stops it, SIGHUP reloads its settings.
    """
    from fleetmesh.process.controller import run

    raise typer.Exit(run(agent_file, services_dir))
