"""Run as ``python3 PATH/fleetlab VERB``, from wherever the role is installed."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from fleetlab.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
