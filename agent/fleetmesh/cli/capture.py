"""`fleetmesh capture`: the rules that bring traffic into the mesh."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fleetmesh.cli.options import Exit, Json, Socket, client, end

if TYPE_CHECKING:
    from fleetmesh.capture.view import View

UNIT = "fleetmesh-agent.service"
STATE_DIR = Path("/var/lib/fleetmesh")
RUN_DIR = Path("/run/fleetmesh")
NO_RULES = "(no rules)\n"

app = typer.Typer(
    help="The nftables rules that bring traffic into the mesh: table inet fleetmesh.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def show(
    as_json: Json = False,
    counters: Annotated[
        bool, typer.Option("--counters", help="Show how many packets each kernel rule matched.")
    ] = False,
    socket: Socket = None,
) -> None:
    """Print the rules wanted, the rules in the kernel, and the difference.

    Exit code 0 when they are the same, 1 when they differ. Without a running agent (and as root)
    the kernel is compared with what the agent put there last; the exit code then is 3.
    """
    import msgspec

    from fleetmesh.edge.admin_client import AgentUnreachableError

    running = True
    try:
        view = _view(client(socket).get("/v1/capture"))
    except AgentUnreachableError as error:
        view = _remembered(str(error))
        running = False
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(view), indent=2))
    else:
        _print(view, counters)
    if not running:
        end(Exit.DOWN, "no agent runs; shown is what it wanted last")
    if view.difference:
        raise typer.Exit(Exit.WARNING)


@app.command()
def apply(
    confirm_within: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            max=3600,
            help="Undo the rules after so long unless `fleetmesh capture confirm` was heard; 0 asks"
            " for no confirmation.  [default: only rules new to this host, as in the settings]",
        ),
    ] = None,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Apply the rules, also after they were removed or undone.

    Rules that were confirmed on this host before need no confirmation, unless one is asked for.
    Exit code 0 when the rules are in force, 2 when the kernel refused them or there is nothing to
    apply yet.
    """
    answer = client(socket).post("/v1/capture/apply", {"confirm": confirm_within})
    _tell(answer, as_json)
    if answer["state"] not in ("applied", "unconfirmed", "disabled"):
        raise typer.Exit(Exit.ERROR)


@app.command()
def confirm(as_json: Json = False, socket: Socket = None) -> None:
    """Keep the rules in force: they will not be undone.

    Exit code 0 when the rules are confirmed now, whether by this or before; 1 when no rules are
    in force, because they were removed or undone.
    """
    import json

    asked = client(socket)
    confirmed = asked.post("/v1/capture/confirm")["confirmed"]
    state = asked.status().capture.state
    if as_json:
        typer.echo(json.dumps({"confirmed": confirmed, "state": state}))
    else:
        typer.echo("confirmed" if confirmed else f"nothing to confirm: capture is {state}")
    if state not in ("applied", "disabled"):
        raise typer.Exit(Exit.WARNING)


@app.command()
def remove(as_json: Json = False, socket: Socket = None) -> None:
    """Remove all rules, until `fleetmesh capture apply`.

    Works without a running agent too (as root), then until the agent starts.
    """
    from fleetmesh.edge import netlink
    from fleetmesh.edge.admin_client import AgentUnreachableError

    try:
        answer = client(socket).post("/v1/capture/remove")
    except AgentUnreachableError:
        try:
            netlink.remove()
        except netlink.NetfilterError as error:
            end(Exit.ERROR, str(error))
        answer = {"state": "removed", "rules": 0}
    _tell(answer, as_json)


@app.command(hidden=True)
def on_stop(
    gave_up: Annotated[
        bool, typer.Option(help="The unit has failed and will not be started again.")
    ] = False,
    state_dir: Annotated[Path, typer.Option()] = STATE_DIR,
    run_dir: Annotated[Path, typer.Option()] = RUN_DIR,
) -> None:
    """ExecStopPost of the unit, as root: let the services go that are to be open without an
    agent, and shut those that are to be closed.

    Nothing happens when systemd is about to start the agent again: the sockets stay open in its
    store, connections wait in their queues.
    """
    from fleetmesh.edge.jobs import stop_sockets, stopped_for_good

    if not (gave_up or "MONITOR_UNIT" in os.environ):
        if not stopped_for_good(UNIT):
            typer.echo("the agent is about to start again: capture rules stay")
            return
        if not stop_sockets(UNIT):
            typer.echo("the socket units stay: a connection to one starts the agent again")
    # Loaded late: a restart, which ends above, has connections waiting for the next agent.
    from fleetmesh.capture import redirect, switch
    from fleetmesh.edge import netlink
    from fleetmesh.process.capture_files import CaptureFiles

    in_force, then = CaptureFiles(state_dir, run_dir).load()
    kept = redirect.closed(switch.settled(then, in_force))
    try:
        netlink.replace(kept)
    except netlink.NetfilterError as error:
        end(Exit.ERROR, str(error))
    typer.echo(f"the agent is stopped: {len(kept)} rules keep closed services closed")


def _view(answer: Any) -> View:
    import msgspec

    from fleetmesh.capture.view import View

    return msgspec.convert(answer, View)


def _remembered(why: str) -> View:
    """The kernel's rules against what the agent had put there."""
    from fleetmesh.capture import redirect
    from fleetmesh.capture.view import view
    from fleetmesh.edge import netlink
    from fleetmesh.model.status import CaptureStatus
    from fleetmesh.process.capture_files import CaptureFiles

    try:
        reading = netlink.read()
    except netlink.NetfilterError as error:
        end(Exit.DOWN, f"no agent answers: {why}; the kernel says: {error}")
    wanted = redirect.ruleset(CaptureFiles(STATE_DIR, RUN_DIR).load()[0])
    status = CaptureStatus(state="stopped", rules=len(reading.ruleset))
    return view(status, wanted, reading.ruleset, reading.packets)


def _print(view: View, counters: bool) -> None:
    typer.echo(f"capture is {view.status.state}")
    if view.status.error:
        typer.echo(f"error: {view.status.error}")
    if view.status.undo_in is not None:
        typer.echo(f"undone in {view.status.undo_in:.0f} s unless confirmed")
    typer.echo(f"\nwanted:\n{view.wanted or NO_RULES}")
    kernel = view.counted if counters else view.kernel
    typer.echo(f"in the kernel:\n{kernel or NO_RULES}")
    if not view.difference:
        typer.echo("difference: none")
        return
    typer.echo("difference (- is in the kernel, + is wanted):")
    for line in view.difference:
        typer.echo(line)


def _tell(answer: Any, as_json: bool) -> None:
    import json

    if as_json:
        typer.echo(json.dumps(answer))
        return
    line = f"capture is {answer['state']}, {answer['rules']} rules"
    if answer.get("undo_in") is not None:
        line += f"; undone in {answer['undo_in']:.0f} s unless confirmed"
    if answer.get("error"):
        line += f"; {answer['error']}"
    typer.echo(line)
