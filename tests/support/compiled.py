"""The package with its relay path compiled, as a release's wheel has it."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PLACE = ROOT / "build" / "compiled"


def compiled() -> Path:
    """A directory for PYTHONPATH; made anew when a source has changed.

    Raises subprocess.CalledProcessError.
    """
    script = ROOT / "agent/hatch_build.py"
    sources = [script, *sorted((ROOT / "agent/fleetmesh").rglob("*.py"))]
    content = hashlib.sha256(b"\0".join(path.read_bytes() for path in sources)).hexdigest()[:16]
    place = PLACE / content
    if not place.exists():
        shutil.rmtree(PLACE, ignore_errors=True)
        making = PLACE / "making"
        making.mkdir(parents=True)
        subprocess.run([sys.executable, str(script), str(making)], check=True, stdout=-3)
        making.rename(place)
    return place
