"""`fleetmesh acl`: what the agent needs of a Consul with ACLs."""

from __future__ import annotations

from typing import Annotated

import typer

from fleetmesh.cli.options import (
    DEFAULT_AGENT,
    DEFAULT_SERVICES,
    AgentFile,
    Exit,
    ServicesDir,
    tell,
)

app = typer.Typer(
    help="What the agent needs of a Consul with ACLs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.callback()
def _acl() -> None:
    """What the agent needs of a Consul with ACLs."""


SERVICE = typer.Option(
    "--service",
    help="A service of the host in question; no settings are read then. May be repeated.",
    metavar="NAME",
)


@app.command("policy")
def policy(
    agent_file: AgentFile = DEFAULT_AGENT,
    services_dir: ServicesDir = DEFAULT_SERVICES,
    services: Annotated[list[str] | None, SERVICE] = None,
) -> None:
    """Print the least policy for this host's services, in HCL, with what each rule is for.

    For `consul acl policy create -name fleetmesh-HOST -rules -`.
    """
    from fleetmesh.plan import acl
    from fleetmesh.settings import Settings
    from fleetmesh.settings.load import load

    if services:
        typer.echo(acl.policy(acl.rules(services)), nl=False)
        return
    settings = load(agent_file, services_dir)
    if not isinstance(settings, Settings):
        tell(settings)
        raise typer.Exit(Exit.ERROR)
    typer.echo(acl.policy(acl.rules(service.name for service in settings.services)), nl=False)
