"""`fleetmesh maintenance`, `fleetmesh drain` and `fleetmesh undrain`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleetmesh.cli.options import Exit, Socket, client, end

if TYPE_CHECKING:
    from fleetmesh.edge.admin_client import AdminClient
    from fleetmesh.model.status import HoldStatus

POLL = 0.5

Service = Annotated[str, typer.Argument(metavar="SERVICE", help="A service declared on this host.")]
SomeService = Annotated[
    str | None,
    typer.Argument(
        metavar="[SERVICE]", help="A service declared on this host.", show_default=False
    ),
]
Host = Annotated[bool, typer.Option("--host", help="Every service of this host.")]
Why = Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason that Consul shows.")]

maintenance = typer.Typer(
    help="Take a service out of Consul's healthy ones at once, and put it back.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@maintenance.command()
def on(service: Service, why: Why = "", socket: Socket = None) -> None:
    """Put SERVICE in maintenance: it is critical in Consul, and callers go elsewhere.

    What is under way is not waited for, see drain. It holds through restarts, until off.
    """
    _post(client(socket), "hold", service, "maintenance", why=why)
    typer.echo(f"{service} is in maintenance")


@maintenance.command()
def off(service: Service, socket: Socket = None) -> None:
    """End the maintenance of SERVICE. Exit code 1 when it was in none of ours."""
    _released(client(socket), service, "maintenance", "in maintenance")


def drain(
    service: SomeService = None,
    host: Host = False,
    within: Annotated[
        float,
        typer.Option(
            min=0.0, max=86400.0, metavar="SECONDS", help="How long what is under way may take."
        ),
    ] = 60.0,
    why: Why = "",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the end.")] = False,
    socket: Socket = None,
) -> None:
    """Send callers elsewhere, wait for what is under way, end what is left, and put SERVICE in
    maintenance.

    Exit code 0 when all of it ended in time, 1 when some was still under way and was ended. It
    holds through restarts, until undrain.
    """
    agent = client(socket)
    names = _post(agent, "hold", _chosen(service, host), "drain", why=why, within=within)
    if no_wait:
        typer.echo(f"{', '.join(names)}: draining")
        return
    left = _follow(agent, names)
    raise typer.Exit(Exit.WARNING if left else Exit.OK)


def undrain(service: SomeService = None, host: Host = False, socket: Socket = None) -> None:
    """Take SERVICE, or with --host every service, back into traffic.

    Exit code 1 when none was drained.
    """
    _released(client(socket), _chosen(service, host), "drain", "drained")


def _chosen(service: str | None, host: bool) -> str:
    """A name, or nothing for all of them."""
    if bool(service) == host:
        end(Exit.ERROR, "name a service, or --host for every service of this host")
    return service or ""


def _follow(agent: AdminClient, names: list[str]) -> bool:
    """Tell of each change until all is drained; whether callers may still be there."""
    told: dict[str, str] = {}
    while True:
        status = agent.status()
        holds = {one.name: one.hold for one in status.services if one.name in names}
        for name, hold in holds.items():
            line = _progress(hold)
            if told.get(name) != line:
                told[name] = line
                typer.echo(f"{name}: {line}")
        if not any(hold is not None and _draining(hold) for hold in holds.values()):
            if not status.consul.reachable:
                typer.echo("Consul does not answer: callers do not know of it", err=True)
            return not status.consul.reachable or any(hold and hold.left for hold in holds.values())
        time.sleep(POLL)


def _draining(hold: HoldStatus) -> bool:
    return "drain" in hold.kinds and hold.left is None


def _progress(hold: HoldStatus | None) -> str:
    if hold is None or "drain" not in hold.kinds:
        return "no longer drained"
    if hold.left is None:
        return f"draining, {hold.under_way} under way"
    return f"drained, {hold.left} still under way were ended" if hold.left else "drained"


def _released(agent: AdminClient, service: str, kind: str, what: str) -> None:
    released = _post(agent, "release", service, kind)
    if not released:
        end(Exit.WARNING, f"{service or 'no service'} was {'' if not service else 'not '}{what}")
    typer.echo(f"{', '.join(released)}: no longer {what}")


def _post(agent: AdminClient, verb: str, service: str, kind: str, **more: Any) -> list[str]:
    answer = agent.post(f"/v1/{verb}", {"service": service, "kind": kind, **more})
    return [str(name) for name in answer["services"]]
