"""The keeper of the capture rules: applies them, repairs them, undoes what nobody confirmed.

It raises for nothing that the kernel or a full disk does: the rules in force stay, the error
stands in the status, and the next round tries again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path

from fleetmesh.capture import bypass, redirect, switch
from fleetmesh.capture.bypass import Bypass
from fleetmesh.capture.redirect import Inputs
from fleetmesh.capture.ruleset import Ruleset, difference, digest
from fleetmesh.capture.switch import NOTHING, Held, Switch
from fleetmesh.capture.view import View, view
from fleetmesh.edge import netlink
from fleetmesh.model.problem import Problem
from fleetmesh.model.status import BypassStatus, CaptureStatus
from fleetmesh.process.capture_files import CaptureFiles
from fleetmesh.process.tasks import TaskSet
from fleetmesh.settings import Settings

log = logging.getLogger(__name__)

REPAIR_INTERVAL = 30.0
PENDING_INTERVAL = 1.0


class CaptureKeeper:
    """Owns table `inet fleetmesh` while the agent runs.

    `start` before the first `apply`; `stop` leaves the rules as they are. `apply` whenever the
    services, their ports or the capture settings may have changed: after new sockets are open,
    before old ones are closed.
    """

    def __init__(self, settings: Settings) -> None:
        self._patience = settings.capture.confirm_timeout
        self._files = CaptureFiles(Path(settings.state_dir), Path(settings.admin_socket).parent)
        self._switch = Switch()
        self._bypass: Bypass | None = None
        self._wanted: Inputs | None = None
        self._in_force = NOTHING
        self._placed: Inputs | None = None
        self._refused: Inputs | None = None
        self._saved = (NOTHING, Switch())
        self._error = ""
        self._drift = False
        self._armed = asyncio.Event()
        self._lock = asyncio.Lock()
        self._tasks = TaskSet()

    async def start(self) -> None:
        """Recall what was in force, undo at once what expired meanwhile, and keep watch."""
        self._saved = await asyncio.to_thread(self._files.load)
        self._in_force, self._switch = self._saved
        self._bypass = await asyncio.to_thread(self._files.load_bypass)
        await self._expire()
        self._tasks.spawn(self._watch(), "capture")

    async def stop(self) -> None:
        await self._tasks.close()

    @property
    def captured(self) -> frozenset[str]:
        """The services whose connections are captured, or were when an agent last ran."""
        return frozenset(service.name for service in self._in_force.services)

    async def apply(
        self,
        settings: Settings,
        outbound_ports: Mapping[str, int],
        uids: Mapping[str, int],
        dns_port: int | None = None,
    ) -> CaptureStatus:
        """Want capture of these services; ports and uids by service name, and the
        port of the DNS server, if any. Idempotent: rules that
        the kernel has already are left alone, with their counters."""
        async with self._lock:
            self._patience = settings.capture.confirm_timeout
            self._wanted = redirect.inputs(settings, outbound_ports, uids, os.geteuid(), dns_port)
            if self._bypass is not None and (names := bypass.closed(self._wanted)):
                await self._end_bypass(f"{', '.join(names)}: to stay closed")
            await self._want()
            return self.status()

    async def insist(self, seconds: float | None) -> CaptureStatus:
        """An operator wants the rules applied, also after they were removed or undone. They must
        be confirmed within `seconds`, even if they were before; 0: the asking confirms them.
        Without `seconds` as the settings say, and only if they never were. Nothing happens before
        the first `apply`."""
        async with self._lock:
            await self._end_bypass("the rules were asked for")
            if self._wanted is not None:
                after, target = switch.insist(
                    self._switch,
                    self._wanted,
                    boottime(),
                    self._patience if seconds is None else seconds,
                    anew=seconds is not None,
                )
                await self._move(after, target, "applied")
            return self.status()

    async def confirm(self) -> bool:
        """Whether there was something to confirm."""
        async with self._lock:
            if self._switch.pending is None:
                return False
            self._switch = switch.confirm(self._switch)
            await self._save(self._in_force, self._switch)
            log.info("capture rules confirmed", extra=_fields("confirmed", self._in_force))
            return True

    async def remove(self) -> CaptureStatus:
        """An operator wants no rules, until `insist`."""
        async with self._lock:
            await self._end_bypass("the rules were removed")
            await self._move(switch.remove(), NOTHING, "removed")
            return self.status()

    async def suspend(self, seconds: float, by: str, why: str) -> CaptureStatus | Problem:
        """Capture nothing new for so many seconds from now, also where that was so already. What
        is redirected goes on."""
        async with self._lock:
            problem = bypass.objection(self._switch, self._wanted)
            if problem is not None:
                return problem
            await self._keep_bypass(Bypass(boottime() + seconds, time.time(), by, why))
            await self._want()
            if self._error:
                await self._keep_bypass(None)
                return Problem("bypass", f"the kernel refused: {self._error}")
            until = time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(time.time() + seconds))
            fields = {"event": "bypass_began", "by": by, "why": why, "until": until}
            text = "capture is bypassed until %s by %s: %s"
            log.warning(text, until, by, why, extra={"fields": fields})
            return self.status()

    async def resume(self, by: str) -> bool:
        """End a bypass before its time; whether there was one."""
        async with self._lock:
            if self._bypass is None:
                return False
            await self._end_bypass(f"by {by}")
            await self._want()
            return True

    async def repair(self) -> None:
        """Put back what somebody else changed in our table, and try again what was refused."""
        async with self._lock:
            if self._refused is not None:
                await self._want()
            elif self._wanted is not None and self._in_force.services:
                await self._put(self._in_force)

    def status(self) -> CaptureStatus:
        pending = self._switch.pending
        if self._error:
            state = "failed"
        elif self._switch.held is not Held.NO:
            state = self._switch.held.value
        elif self._wanted is None:
            state = "waiting"
        elif not self._wanted.services:
            state = "disabled"
        elif self._bypass is not None:
            state = "bypassed"
        else:
            state = "applied" if pending is None else "unconfirmed"
        return CaptureStatus(
            state=state,
            rules=len(_rules(self._in_force)),
            drift=self._drift,
            undo_in=None if pending is None else max(0.0, pending.deadline - boottime()),
            error=self._error,
            bypass=None if self._bypass is None else _shown(self._bypass),
        )

    async def view(self) -> View:
        """The rules wanted and those in the kernel. Raises NetfilterError when the kernel cannot
        be read."""
        reading = await asyncio.to_thread(netlink.read)
        wanted = _rules(self._in_force if self._refused is None else self._refused)
        self._drift = reading.ruleset != wanted
        return view(self.status(), wanted, reading.ruleset, reading.packets)

    async def _watch(self) -> None:
        repaired = boottime()
        while True:
            due = self._switch.pending or self._bypass
            interval = PENDING_INTERVAL if due else REPAIR_INTERVAL
            try:
                # Not wait_for: before Python 3.12 it loses a cancellation that meets the event.
                async with asyncio.timeout(interval):
                    await self._armed.wait()
            except TimeoutError:
                pass
            self._armed.clear()
            await self._expire()
            if boottime() - repaired >= REPAIR_INTERVAL:
                await self.repair()
                repaired = boottime()

    async def _expire(self) -> None:
        async with self._lock:
            if switch.expired(self._switch, boottime()):
                await self._move(
                    *switch.undo(self._switch, self._wanted or self._in_force), "undone"
                )
            if self._bypass is not None and boottime() >= self._bypass.until:
                await self._end_bypass("its time is over")
                await self._want()

    async def _want(self) -> None:
        """Put in force what is wanted, if anything: suspended while there is a bypass."""
        if self._wanted is None:
            return
        if self._bypass is not None and self._switch.held is Held.NO:
            await self._move(self._switch, bypass.suspended(self._wanted), "bypassed")
            return
        after, target = switch.want(self._switch, self._wanted, boottime(), self._patience)
        await self._move(after, target, "applied")

    async def _end_bypass(self, why: str) -> None:
        if self._bypass is not None:
            await self._keep_bypass(None)
            fields = {"event": "bypass_ended", "why": why}
            log.warning("the bypass of capture has ended: %s", why, extra={"fields": fields})

    async def _keep_bypass(self, what: Bypass | None) -> None:
        """On disk before it is in force, like a deadline."""
        self._bypass = what
        await asyncio.to_thread(self._files.save_bypass, what)

    async def _move(self, after: Switch, target: Inputs, event: str) -> None:
        """Put `target` in force and remember `after`; when the kernel refuses, all stays.

        A deadline is on disk before the rules are in the kernel, so that they are undone even if
        this process dies in between.
        """
        if after.pending is not None:
            await self._save(target, after)
        restored = target == self._placed
        changed = await self._put(target)
        if changed is None:
            self._refused = target
        else:
            self._refused, self._in_force, self._switch = None, target, after
            self._armed.set()
        await self._save(self._in_force, self._switch)
        if changed and not restored:
            _log_move(event, after, target, boottime())

    async def _put(self, target: Inputs) -> tuple[str, ...] | None:
        """What changed in the kernel; None when it refused."""
        try:
            changed = await asyncio.to_thread(_put, _rules(target))
        except netlink.NetfilterError as error:
            if self._error != str(error):
                log.error(
                    "capture rules refused, those before stay: %s",
                    error,
                    extra=_fields("refused", target),
                )
            self._error = str(error)
            return None
        if changed and target == self._placed:
            log.warning(
                "capture rules had drifted from what is wanted and are restored:\n%s",
                "\n".join(changed),
                extra=_fields("repaired", target),
            )
        self._error, self._drift, self._placed = "", False, target
        return changed

    async def _save(self, in_force: Inputs, state: Switch) -> None:
        if self._saved != (in_force, state):
            self._saved = (in_force, state)
            await asyncio.to_thread(self._files.save, in_force, state)


def boottime() -> float:
    """Seconds since boot, suspension included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _shown(given: Bypass) -> BypassStatus:
    left = max(0.0, given.until - boottime())
    return BypassStatus(left, given.since, given.by, given.why)


def _put(rules: Ruleset) -> tuple[str, ...]:
    changed = difference(rules, netlink.read().ruleset)
    if changed or not rules.chains:  # an empty table is no difference, yet must not stay
        netlink.replace(rules)
    else:
        netlink.route_virtual(rules)
    return changed


def _rules(inputs: Inputs) -> Ruleset:
    return redirect.ruleset(inputs)


def _log_move(event: str, after: Switch, target: Inputs, now: float) -> None:
    extra = _fields(event, target)
    if after.pending is not None:
        seconds = after.pending.deadline - now
        log.warning(
            "capture applied, to be undone in %.0f s unless confirmed", seconds, extra=extra
        )
    elif event == "undone":
        log.error("capture was not confirmed in time and is undone", extra=extra)
    else:
        log.warning("capture rules %s", event, extra=extra)


def _fields(event: str, inputs: Inputs) -> dict[str, dict[str, str]]:
    rules = _rules(inputs)
    return {
        "fields": {
            "event": f"capture_{event}",
            "rules": str(len(rules)),
            "rules_digest": digest(rules),
            "services": ",".join(service.name for service in inputs.services),
        }
    }
