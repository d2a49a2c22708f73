"""What systemd is about to do with a unit of ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

PATIENCE = 10.0


def stopped_for_good(unit: str) -> bool:
    """Whether `unit`, whose ExecStopPost= asks, is not about to be started again.

    A restart is a job of type `restart`; a stop, also at shutdown, one of type `stop`. A unit
    that died by itself has no job and is started again by Restart=. When systemd cannot be asked,
    a clean end counts as a stop.
    """
    try:
        listed = _systemctl("list-jobs", "--no-legend", "--no-pager", "--full")
    except (OSError, subprocess.SubprocessError):
        return ended_cleanly(os.environ)
    return job_of(unit, listed) == "stop"


def stop_sockets(unit: str) -> bool:
    """Ask systemd to stop the socket units of `unit`, whose ExecStopPost= asks, once it is down:
    else the next connection would start it again. Whether systemd agreed.

    No dependency does this: PartOf= closes sockets over a restart too, and StopPropagatedFrom= acts
    on a crash as well, when Requires= then keeps the unit from starting again.
    """
    try:
        shown = _systemctl("show", "--property=TriggeredBy", "--value", unit)
        # Not waited for: sockets stop after the unit that is waiting for us.
        _systemctl("stop", "--no-block", *shown.split())
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def job_of(unit: str, listed: str) -> str | None:
    """The type of `unit`'s job in the lines of `systemctl list-jobs` (id, unit, type, state)."""
    for line in listed.splitlines():
        match line.split():
            case [_, name, kind, _] if name == unit:
                return kind
    return None


def ended_cleanly(environment: Mapping[str, str]) -> bool:
    """By $SERVICE_RESULT, systemd.exec(5)."""
    return environment.get("SERVICE_RESULT", "success") == "success"


def _systemctl(*arguments: str) -> str:
    """Raises OSError or subprocess.SubprocessError."""
    done = subprocess.run(
        ["systemctl", *arguments], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    return done.stdout
