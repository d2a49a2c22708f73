"""`fleetmesh version`."""

from __future__ import annotations

import json
import platform

import typer

from fleetmesh import __version__
from fleetmesh.cli.options import Json


def version(as_json: Json = False) -> None:
    """Print the version of fleetmesh and of the Python it runs on."""
    python = platform.python_version()
    if as_json:
        typer.echo(json.dumps({"version": __version__, "python": python}))
    else:
        typer.echo(f"fleetmesh {__version__} (Python {python})")
