"""Proof 11: the tour of `make demo` shows what it promises."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.support.fleet import ROOT, Fleet


def test_tour_shows_its_evidence(fleet: Fleet) -> None:
    """Every step has its evidence; the exit status says so; a pipe gets no colours."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools/tour.py")],
        cwd=ROOT,
        env=os.environ | {"LAB": fleet.lab},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    shown = done.stdout
    assert done.returncode == 0, shown + done.stderr
    for text in (
        fleet.spiffe_id("web"),
        fleet.spiffe_id("cart"),
        "api1/api",
        "api2/api",
        "deny",
        "403",
        "application_data",
        "fleetmesh status",
        "fleetmesh explain",
        "api.mesh",
    ):
        assert text in shown, f"{text!r} is not in:\n{shown}"
    assert "\x1b[" not in shown
