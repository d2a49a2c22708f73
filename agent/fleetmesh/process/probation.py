"""The release that runs becomes one that is known to be ready: it is what a later one falls back
to."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from fleetmesh.edge.releases import Home
from fleetmesh.model.release import Releases
from fleetmesh.plan.releases import PROBATION

log = logging.getLogger(__name__)

RETRY = 10.0


def tell_of_fallback(releases: Releases) -> None:
    fallback = releases.fallback
    if fallback is not None:
        log.error(
            "this is release %s: %s was given up, %s",
            releases.running,
            fallback.failed,
            fallback.why,
            extra={"fields": {"event": "fell_back", "failed": fallback.failed}},
        )


async def serve_out(home: Home, serving: Callable[[], bool], seconds: float = PROBATION) -> None:
    """End when this release has served for `seconds` on end, and it is written down."""
    running = home.read().running
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        await asyncio.sleep(min(1.0, seconds / 4))
        if not serving():
            began = loop.time()
        elif loop.time() - began >= seconds:
            try:
                home.prove(running)
            except OSError as error:
                log.error(
                    "release %s is not known to be ready, which cannot be written: %s",
                    running,
                    error,
                    extra={"fields": {"event": "state_not_saved"}},
                )
                await asyncio.sleep(RETRY)
                continue
            return
