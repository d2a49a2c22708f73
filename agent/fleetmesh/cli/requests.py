"""`fleetmesh requests`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from fleetmesh.cli.options import Exit, Json, Socket, client, end

if TYPE_CHECKING:
    from fleetmesh.model.record import Record


def requests(
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, metavar="N", help="Show the newest N.")
    ] = 100,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Show the last requests that the workers carried, oldest first.

    They are kept when `access_log.mode` is ring; otherwise the exit code is 2.
    """
    import msgspec

    from fleetmesh.model.record import Record

    answer = client(socket).get(f"/v1/requests?limit={limit}")
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(answer["requests"])).decode())
        return
    try:
        records = msgspec.convert(answer["requests"], tuple[Record, ...])
    except (KeyError, TypeError, msgspec.ValidationError) as error:
        end(Exit.ERROR, f"the agent's records are of another version: {error}")
    for record in records:
        typer.echo(line(record))


def line(record: Record) -> str:
    """One request on one line; `-` where there is nothing to say."""
    at = time.strftime("%H:%M:%S", time.localtime(record.time))
    first = "-" if record.first_byte is None else f"{record.first_byte * 1000:.1f}"
    words = (
        f"{at}.{int(record.time % 1 * 1000):03}",
        record.direction,
        f"{record.source or '-'}=>{record.destination or '-'}",
        record.method or "-",
        record.path or "-",
        str(record.status) + (f":{record.reason}" if record.reason else ""),
        f"{first}/{record.duration * 1000:.1f}ms",
        f"{record.sent}/{record.received}B",
        f"route={record.route or '-'}",
        f"endpoint={record.endpoint or '-'}",
        f"trace={record.trace_id or '-'}",
        f"id={record.request_id or '-'}",
    )
    return " ".join(words)
