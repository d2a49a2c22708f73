"""What capture remembers: across restarts in the state directory, until the next boot in the
runtime directory. Files are replaced by rename; an unreadable one counts as none."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from fleetmesh.capture.bypass import Bypass
from fleetmesh.capture.redirect import Inputs
from fleetmesh.capture.switch import NOTHING, Held, Pending, Switch

log = logging.getLogger(__name__)

STATE_FILE = "capture.json"
PENDING_FILE = "capture-unconfirmed.json"
BYPASS_FILE = "capture-bypass.json"

T = TypeVar("T")


class Remembered(msgspec.Struct, frozen=True):
    """`in_force` is what the agent last put into the kernel; the rest is the switch without its
    pending part, whose deadline means nothing after a reboot."""

    in_force: Inputs = NOTHING
    confirmed: Inputs | None = None
    held: Held = Held.NO
    undone: Inputs | None = None


class CaptureFiles:
    def __init__(self, state_dir: Path, run_dir: Path) -> None:
        self._state = state_dir / STATE_FILE
        self._pending = run_dir / PENDING_FILE
        self._bypass = run_dir / BYPASS_FILE

    def load(self) -> tuple[Inputs, Switch]:
        """What was in force, and the switch."""
        state = _read(self._state, Remembered) or Remembered()
        pending = _read(self._pending, Pending)
        return state.in_force, Switch(state.confirmed, pending, state.held, state.undone)

    def save(self, in_force: Inputs, switch: Switch) -> None:
        """A disk that takes nothing is logged and otherwise borne: the rules matter more."""
        state = Remembered(in_force, switch.confirmed, switch.held, switch.undone)
        try:
            _write(self._state, state)
            _put(self._pending, switch.pending)
        except OSError as error:
            _log_unsaved(error)

    def load_bypass(self) -> Bypass | None:
        return _read(self._bypass, Bypass)

    def save_bypass(self, bypass: Bypass | None) -> None:
        """One that no disk takes ends with the agent."""
        try:
            _put(self._bypass, bypass)
        except OSError as error:
            _log_unsaved(error)


def _put(file: Path, value: msgspec.Struct | None) -> None:
    if value is None:
        file.unlink(missing_ok=True)
    else:
        _write(file, value)


def _log_unsaved(error: OSError) -> None:
    log.error("capture state not saved: %s", error, extra={"fields": {"event": "state_not_saved"}})


def _read(file: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        log.error(
            "%s is unreadable: %s", file, error, extra={"fields": {"event": "state_unreadable"}}
        )
        return None


def _write(file: Path, value: msgspec.Struct) -> None:
    temporary = file.with_suffix(".new")
    with temporary.open("wb") as out:
        out.write(msgspec.json.format(msgspec.json.encode(value), indent=1))
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)
