"""`fleetmesh reload`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fleetmesh.cli.options import Exit, Socket, client, end, tell

TOKEN = typer.Option(
    "--token-file",
    help="Hand over the Consul token in this file, where it can be read and no token_file is set.",
    metavar="FILE",
)


def reload(
    socket: Socket = None,
    token_file: Annotated[Path, TOKEN] = Path("/etc/fleetmesh/consul.token"),
) -> None:
    """Make the agent read its settings again.

    Ends when the new settings are in force. Refused settings change nothing: each problem is
    told, and the exit code is 2.
    """
    import msgspec

    from fleetmesh.edge import consul_link
    from fleetmesh.edge.admin_client import AgentRefusedError
    from fleetmesh.model.problem import Problem

    try:
        handed = consul_link.source_token(str(token_file))
    except consul_link.UnfitError as error:
        tell([error.problem])
        end(Exit.ERROR, "nothing was reloaded")
    try:
        client(socket).post("/v1/reload", {"token": handed} if handed else {})
    except AgentRefusedError as refusal:
        found = refusal.body.get("problems") if isinstance(refusal.body, dict) else None
        if not found:
            raise
        tell(msgspec.convert(found, list[Problem]))
        end(Exit.ERROR, "the settings are refused, the old ones stay in force")
    typer.echo("reloaded")
