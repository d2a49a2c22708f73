"""`fleetmesh reload`."""

from __future__ import annotations

import typer

from fleetmesh.cli.options import Exit, Socket, client, end, tell


def reload(socket: Socket = None) -> None:
    """Make the agent read its settings again.

    Ends when the new settings are in force. Refused settings change nothing: each problem is
    told, and the exit code is 2.
    """
    import msgspec

    from fleetmesh.edge.admin_client import AgentRefusedError
    from fleetmesh.model.problem import Problem

    try:
        client(socket).post("/v1/reload")
    except AgentRefusedError as refusal:
        found = refusal.body.get("problems") if isinstance(refusal.body, dict) else None
        if not found:
            raise
        tell(msgspec.convert(found, list[Problem]))
        end(Exit.ERROR, "the settings are refused, the old ones stay in force")
    typer.echo("reloaded")
