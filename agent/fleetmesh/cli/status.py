"""`fleetmesh status`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from fleetmesh.cli.options import Exit, Json, Socket, client, end


def status(
    as_json: Json = False,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Write what workers serve, private keys removed, as a data-plane file to FILE "
            "(- is standard output) and print nothing else.",
            show_default=False,
        ),
    ] = None,
    socket: Socket = None,
) -> None:
    """Show what the agent does: what is wrong first, then services, upstreams and workers.

    Exit code 0 when the agent answers, whatever it says; 3 when it does not. `fleetmesh check`
    judges.
    """
    agent = client(socket)
    if export is not None:
        _write(export, _exported(agent.get("/v1/snapshot")))
    elif as_json:
        import msgspec

        typer.echo(msgspec.json.format(msgspec.json.encode(agent.status())).decode())
    else:
        from fleetmesh.cli import render

        render.status(agent.status(), sys.stdout)


def _exported(answer: object) -> str:
    import msgspec

    from fleetmesh.model.snapshot import Snapshot
    from fleetmesh.process.snapshot_file import exported

    try:
        snapshot = msgspec.convert(answer, Snapshot)
    except msgspec.ValidationError as error:
        end(Exit.ERROR, f"the agent's snapshot is of another version: {error}")
    return msgspec.json.format(msgspec.json.encode(exported(snapshot)), indent=2).decode() + "\n"


def _write(target: str, text: str) -> None:
    if target == "-":
        typer.echo(text, nl=False)
        return
    path = Path(target)
    fresh = path.with_name(f".{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)
