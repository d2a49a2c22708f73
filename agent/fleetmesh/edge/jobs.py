"""What systemd is about to do with a unit of ours."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from fleetmesh.plan.releases import End

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


def end_of(unit: str, environment: Mapping[str, str]) -> End:
    """How the process of `unit`, whose ExecStopPost= asks, has ended. When systemd cannot be asked
    it counts as stopped: nobody knows."""
    try:
        stopped = stopped_for_good(unit)
        shown = _systemctl("show", *(f"--property={name}" for name in _OF_AN_END), unit)
        values = dict(line.split("=", 1) for line in shown.splitlines())
        started, active, restarts = (int(values[name]) for name in _OF_AN_END)
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return End(environment.get("SERVICE_RESULT", ""), False, 0, True)
    return End(environment.get("SERVICE_RESULT", ""), active >= started, restarts, stopped)


_OF_AN_END = ("ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic", "NRestarts")
"""systemctl(1) has times in microseconds, and READY=1 makes a unit active."""


def state_of(unit: str) -> str:
    """systemd's ActiveState: active, activating, failed, …; unknown when it does not tell."""
    try:
        return _systemctl("show", "--property=ActiveState", "--value", unit).strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"


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
