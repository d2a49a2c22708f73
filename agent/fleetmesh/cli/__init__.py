"""The `fleetmesh` command: one module per verb or group of verbs.

Modules import what they need when their verb runs, so that the small verbs are quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fleetmesh.cli import (
    acl,
    agent,
    bypass,
    capture,
    check,
    dataplane,
    explain,
    fault,
    hold,
    release,
    reload,
    requests,
    status,
    validate,
    version,
)
from fleetmesh.cli.options import Exit

EPILOG = (
    "Exit codes: 0 all is well; 1 warnings, or a negative answer; 2 errors, or input that is "
    "refused; 3 no agent answers."
)

app = typer.Typer(
    name="fleetmesh",
    help="A service mesh for fleets of plain VMs.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        version.version()
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="As `fleetmesh version`.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    """A service mesh for fleets of plain VMs."""


app.command("agent")(agent.agent)
app.command("status")(status.status)
app.command("requests")(requests.requests)
app.add_typer(explain.app, name="explain")
app.command("routes")(explain.routes)
app.command("endpoints")(explain.endpoints)
app.command("check")(check.check)
app.add_typer(capture.app, name="capture")
app.add_typer(bypass.app, name="bypass")
app.add_typer(fault.app, name="fault")
app.add_typer(acl.app, name="acl")
app.command("validate")(validate.validate)
app.add_typer(hold.maintenance, name="maintenance")
app.command("drain")(hold.drain)
app.command("undrain")(hold.undrain)
app.command("reload")(reload.reload)
app.add_typer(release.app, name="release")
app.command("dataplane")(dataplane.dataplane)
app.command("version")(version.version)


def main() -> None:
    """The console script. Operators get sentences, never tracebacks."""
    from fleetmesh.edge.admin_client import AgentRefusedError, AgentUnreachableError

    try:
        app()
    except AgentUnreachableError as error:
        print(f"fleetmesh: no agent answers: {error}", file=sys.stderr)
        sys.exit(Exit.DOWN)
    except AgentRefusedError as error:
        print(f"fleetmesh: {error}", file=sys.stderr)
        sys.exit(Exit.ERROR)
    except OSError as error:
        print(f"fleetmesh: {error}", file=sys.stderr)
        sys.exit(Exit.ERROR)
