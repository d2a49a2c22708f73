"""`fleetmesh fault`: requests that are delayed or aborted on purpose."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from fleetmesh.cli.options import Exit, Json, Socket, client, end, seconds

app = typer.Typer(
    help="Delay or abort requests of this host's services on purpose, for a time.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def inject(
    service: Annotated[str, typer.Argument(metavar="SERVICE", help="The upstream that is called.")],
    percent: Annotated[
        float,
        typer.Option("--percent", metavar="N", help="The share of the requests, 0.01 to 100."),
    ],
    delay: Annotated[
        str, typer.Option("--delay", metavar="DURATION", help="Hold each back so long: 250ms, 2s.")
    ] = "",
    abort: Annotated[
        int, typer.Option("--abort", metavar="STATUS", help="Answer each with this, 400 to 599.")
    ] = 0,
    header: Annotated[
        list[str] | None,
        typer.Option("-H", metavar="'NAME: VALUE'", help="Only those with this field; repeatable."),
    ] = None,
    source: Annotated[
        str, typer.Option("--from", metavar="CALLER", help="Only those of this service.")
    ] = "",
    within: Annotated[
        str, typer.Option("--for", metavar="DURATION", help="How long, 1h at most.")
    ] = "10m",
    why: Annotated[str, typer.Option("--why", metavar="TEXT", help="For the record.")] = "",
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """Make requests to SERVICE wait, or fail, on their way out of this host.

    Its owner has to allow it: `fleetmesh-allow-faults` in the Meta of its service-defaults names
    the callers. It ends by itself, and with the agent.
    """
    order = {
        "service": service,
        "percent": percent,
        "delay": seconds("--delay", delay) if delay else 0.0,
        "abort": abort,
        "headers": [_field(one) for one in header or ()],
        "source": source,
        "seconds": seconds("--for", within),
        "why": why,
    }
    answer = client(socket).post("/v1/faults/inject", order)
    if as_json:
        typer.echo(json.dumps(answer))
    else:
        callers = ", ".join(answer["callers"])
        typer.echo(f"{answer['id']}: injected into the requests from {callers} to {service}")


@app.command("list")
def list_(as_json: Json = False, socket: Socket = None) -> None:
    """Show what is injected on this host."""
    from fleetmesh.cli.findings import span

    answer = client(socket).get("/v1/faults")
    if as_json:
        typer.echo(json.dumps(answer))
        return
    for one in answer["faults"]:
        line = f"{one['id']}: {one['does']}; {one['struck']} so far, ends in "
        typer.echo(f"{line}{span(one['seconds_left'])}; {one['by']}: {one['why'] or '-'}")
    if not answer["faults"]:
        typer.echo("no fault is injected")


@app.command()
def clear(
    fault: Annotated[
        str, typer.Argument(metavar="[ID]", help="As `inject` said it.", show_default=False)
    ] = "",
    everything: Annotated[bool, typer.Option("--all", help="Every fault of this host.")] = False,
    as_json: Json = False,
    socket: Socket = None,
) -> None:
    """End a fault before its time. Exit code 1 when there is none such.

    Requests that are being delayed wait to the end of their delay.
    """
    if bool(fault) == everything:
        end(Exit.ERROR, "name a fault, or --all for every fault of this host")
    answer: Any = client(socket).post("/v1/faults/clear", {"id": fault})
    if as_json:
        typer.echo(json.dumps(answer))
    elif answer["cleared"]:
        typer.echo(f"cleared: {', '.join(answer['cleared'])}")
    if not answer["cleared"]:
        end(Exit.WARNING, f"there is no fault {fault}" if fault else "there is no fault")


def _field(text: str) -> tuple[str, str | None]:
    """Without a value it is only to be there."""
    name, _, value = text.partition(":")
    return name.strip(), value.strip() or None
