"""`fleetmesh check`."""

from __future__ import annotations


def check() -> None:
    """check."""
