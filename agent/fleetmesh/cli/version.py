"""`fleetmesh version`."""

from __future__ import annotations

import json
import platform
from importlib.util import find_spec

import typer

from fleetmesh import __version__
from fleetmesh.cli.options import Json


def version(as_json: Json = False) -> None:
    """Print fleetmesh's version, its Python's, and whether its relay path is compiled."""
    python = platform.python_version()
    relay_path = find_spec("fleetmesh.proxy.exchange")
    compiled = relay_path is not None and not str(relay_path.origin).endswith(".py")
    if as_json:
        facts = {"version": __version__, "python": python, "compiled": compiled}
        typer.echo(json.dumps(facts))
    else:
        form = "compiled" if compiled else "not compiled"
        typer.echo(f"fleetmesh {__version__} (Python {python}, relay path {form})")
