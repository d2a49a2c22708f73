"""`fleetmesh release`: the releases that this host has, and the one that it runs."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleetmesh.cli.options import DEFAULT_AGENT, Exit, Json, Socket, client, end

if TYPE_CHECKING:
    from fleetmesh.edge.releases import Home
    from fleetmesh.model.release import Fallback

UNIT = "fleetmesh-agent.service"
POLL = 0.3
OLDEST_DEFAULT = "/var/lib/fleetmesh"

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="Where releases lie.  [default: where this one is]"),
]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="A release of this host.")]
Within = Annotated[
    float,
    typer.Option(min=0.0, max=3600.0, metavar="SECONDS", help="How long it may take to serve."),
]

app = typer.Typer(
    help="The releases on this host, and which of them runs.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command("list")
def list_(as_json: Json = False, home: HomeOption = None) -> None:
    """Print the releases on this host, oldest first, and what is known of each.

    Exit code 1 when the host fell back to an older one than was chosen.
    """
    import msgspec

    found = _home(home).read()
    if as_json:
        typer.echo(json.dumps(msgspec.to_builtins(found)))
    else:
        for version in found.installed:
            marks = [
                *(["current"] if version == found.current else []),
                *(["falls back to"] if version == found.previous != found.current else []),
                "has served" if version in found.ready else "has not served yet",
            ]
            typer.echo(f"{version}  {', '.join(marks)}")
        if found.fallback is not None:
            typer.echo(_told(found.fallback), err=True)
    if found.fallback is not None:
        raise typer.Exit(Exit.WARNING)


@app.command()
def use(
    version: Version,
    no_restart: Annotated[
        bool,
        typer.Option("--no-restart", help="Leave the agent as it runs."),
    ] = False,
    within: Within = 60.0,
    as_json: Json = False,
    home: HomeOption = None,
    socket: Socket = None,
) -> None:
    """Change to another release of this host, as root: connections wait meanwhile, none is lost.

    Exit code 0 when it serves, 2 when it does not: a release that fails before it has served for
    30 s is given up by itself for the one before. Choosing a release also ends the warning that
    one was given up.
    """
    releases = _home(home)
    installed = releases.read().installed
    if version not in installed:
        end(Exit.ERROR, f"there is no release {version} here, but {', '.join(installed) or 'none'}")
    changed = releases.choose(version)
    if as_json:
        typer.echo(json.dumps({"changed": changed, "current": version}))
    else:
        typer.echo(f"{version} is {'now' if changed else 'already'} current")
    if no_restart:
        return
    subprocess.run(["systemctl", "restart", UNIT], check=False)
    _wait(releases, version, within, socket)


@app.command()
def wait(
    version: Version, within: Within = 60.0, home: HomeOption = None, socket: Socket = None
) -> None:
    """Wait until VERSION is the release that serves.

    Exit code 0 when it does, 2 when it was given up, the agent gave up, or the time is over.
    """
    _wait(_home(home), version, within, socket)


@app.command(hidden=True)
def judge(home: HomeOption = None) -> None:
    """ExecStopPost of the unit, as root and by the previous release's program: give the current
    release up if it fails on probation. systemd then starts the other by itself."""
    from fleetmesh.edge import jobs
    from fleetmesh.model.release import Fallback
    from fleetmesh.plan.releases import given_up

    releases = _home(home)
    found = releases.read()
    why = given_up(jobs.end_of(UNIT, os.environ), found)
    if not why:
        return
    fallback = Fallback(found.current, found.previous, why, time.time())
    releases.fall_back(fallback)
    typer.echo(f"<2>{_told(fallback)}")  # the journal takes the number for a level


def _home(given: Path | None) -> Home:
    from fleetmesh.edge.releases import Home, own_home
    from fleetmesh.settings.load import read_files

    path = given or own_home()
    if path is None:
        end(Exit.ERROR, "this program is no release of a host: name the place with --home")
    settings = read_files(DEFAULT_AGENT, []).settings
    return Home(path, Path(settings.state_dir if settings else OLDEST_DEFAULT))


def _told(fallback: Fallback) -> str:
    return f"release {fallback.failed} was given up for {fallback.to}: {fallback.why}"


def _wait(releases: Home, version: str, within: float, socket: str | None) -> None:
    from fleetmesh.edge import jobs

    deadline = time.monotonic() + within
    while True:
        fallback = releases.read().fallback
        if fallback is not None and fallback.failed == version:
            end(Exit.ERROR, _told(fallback))
        state = jobs.state_of(UNIT)
        if state == "failed":
            end(Exit.ERROR, f"the agent gave up: journalctl -u {UNIT} tells why")
        runs = _running(socket) if state == "active" else ""
        if runs == version:
            typer.echo(f"{version} serves")
            return
        if time.monotonic() >= deadline:
            end(Exit.ERROR, f"not within {within:g} s: {version} serves; the unit is {state}")
        time.sleep(POLL)


def _running(socket: str | None) -> str:
    """The release of the agent that answers; empty without one."""
    from fleetmesh.edge.admin_client import AgentRefusedError, AgentUnreachableError

    try:
        status = client(socket).status()
    except (AgentUnreachableError, AgentRefusedError):
        return ""
    return (status.releases.running if status.releases else "") or status.version
