"""`fleetmesh dataplane`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def dataplane(
    snapshot: Annotated[
        Path,
        typer.Option(metavar="FILE", help="What to serve: a data-plane file.", show_default=False),
    ],
    workers: Annotated[
        int, typer.Option(metavar="N", min=0, help="Worker processes, 0 for one per core.")
    ] = 0,
    drain_timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="What a drain may take.")
    ] = 5.0,
) -> None:
    """Run workers from a file: no Consul, no capture, no privilege.

    For benchmarks, tests and reports of faults. Prints where it listens, then "ready". SIGTERM
    drains and stops it, SIGHUP reads the file again. `fleetmesh status --export` writes such a
    file.
    """
    from fleetmesh.process.dataplane import run

    raise typer.Exit(run(snapshot, workers, drain_timeout))
