"""Options that several verbs take, exit codes, and how a verb ends."""

from __future__ import annotations

import enum
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from fleetmesh.settings import AGENT_FILE, SERVICES_DIR, Settings

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fleetmesh.edge.admin_client import AdminClient
    from fleetmesh.model.problem import Problem

AgentFile = Annotated[
    Path, typer.Option("--agent", metavar="FILE", help="The agent's settings.", show_default=True)
]
ServicesDir = Annotated[
    Path, typer.Option("--services", metavar="DIR", help="The declared services.")
]
Socket = Annotated[
    str | None,
    typer.Option(
        "--socket", metavar="PATH", help="The agent's admin socket.  [default: as in its settings]"
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]

DEFAULT_AGENT = Path(AGENT_FILE)
DEFAULT_SERVICES = Path(SERVICES_DIR)


class Exit(enum.IntEnum):
    """OK; WARNING is also a negative answer; ERROR is also bad input; DOWN: no agent answers."""

    OK = 0
    WARNING = 1
    ERROR = 2
    DOWN = 3


def end(code: Exit, message: str = "") -> NoReturn:
    """Ends the process with a message on standard error."""
    if message:
        print(f"fleetmesh: {message}", file=sys.stderr)
    raise typer.Exit(int(code))


def seconds(option: str, text: str) -> float:
    """Of a duration as it is typed; ends the process with what is wrong with it."""
    from fleetmesh.settings.kinds import Wrong, seconds_of

    found = seconds_of(float(text) if text.replace(".", "", 1).isdecimal() else text)
    if isinstance(found, Wrong):
        end(Exit.ERROR, f"{option}: {found.rule}. {found.remedy}")
    return found


def tell(problems: Iterable[Problem]) -> None:
    """One line per problem on standard error."""
    for problem in problems:
        print(problem, file=sys.stderr)


def client(socket: str | None, agent_file: Path = DEFAULT_AGENT) -> AdminClient:
    """Of the socket that was named, else the one in the agent's settings, else the usual one."""
    from fleetmesh.edge.admin_client import AdminClient

    return AdminClient(socket or _socket_of(agent_file))


def _socket_of(agent_file: Path) -> str:
    from fleetmesh.settings.load import read_files

    settings = read_files(agent_file, []).settings
    return (settings or Settings(address="127.0.0.1")).admin_socket
