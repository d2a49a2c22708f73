"""`fleetmesh bypass`: capture suspended for a time, on the record."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fleetmesh.cli.options import Exit, Json, Socket, client, end, seconds

app = typer.Typer(
    help="Suspend the capture of this host for a time.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def on(
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="The reason, for the record.")],
    within: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long, 4h at most: 90s, 10m.")
    ] = "10m",
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Let new connections pass by the mesh for a time; those that it carries go on.

    Where it is on already the time begins anew. It ends by itself, also if the agent dies; a
    reboot ends it too. Refused where a service is to stay closed (`on_stop: closed`).
    """
    body = {"seconds": seconds("--for", within), "why": why}
    answer = client(socket).post("/v1/bypass/on", body)
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        typer.echo(f"capture is bypassed for {answer['bypass']['seconds_left']:.0f} s")


@app.command()
def off(as_json: Json = False, socket: Socket = None) -> None:
    """Capture again. Exit code 1 when it was not bypassed."""
    answer: Any = client(socket).post("/v1/bypass/off")
    if as_json:
        typer.echo(json.dumps(answer))
    elif answer["ended"]:
        typer.echo("capture is no longer bypassed")
    if not answer["ended"]:
        end(Exit.WARNING, "capture was not bypassed")
