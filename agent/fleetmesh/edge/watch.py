"""Blocking queries, run by Consul's rules: an index that goes back starts anew, errors back off
with full jitter, and a query that returns at once again and again is held to a rate."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fleetmesh.edge.consul_http import Answer, ConsulError

log = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_BACKOFF = 0.25
LEAST_BACKOFF = 0.05
MAX_BACKOFF = 5.0
"""Seconds; low, because the agent that is asked is on this host."""
AGED_PAUSE = 6.0
BURST = 64
"""Answers that may come without a pause, refilled at `RATE` a second: one who shifts weights fifty
times, step by step, waits for none of them."""
RATE = 2.0


async def follow(
    query: Callable[[int], Awaitable[Answer[T]]],
    changed: Callable[[Answer[T]], Awaitable[None]],
    failed: Callable[[ConsulError | None, float], None],
) -> None:
    """Ask for ever; runs until cancelled.

    `changed` gets the first answer, and each whose index differs from the one before. `failed`
    gets each error, and None with each good answer and its age in seconds.
    """
    index = 0
    backoff = FIRST_BACKOFF
    bucket = _Bucket()
    while True:
        try:
            answer = await query(index)
            if answer.index != index or index == 0:
                await changed(answer)
        except ConsulError as error:
            failed(error, 0.0)
            index = 0
            # From nothing to all of it: the watches of all agents lost Consul in one moment.
            await asyncio.sleep(max(backoff * random.random(), LEAST_BACKOFF))  # noqa: S311
            backoff = min(backoff * 2, MAX_BACKOFF)
            continue
        failed(None, answer.age)
        backoff = FIRST_BACKOFF
        if answer.age:
            # From the memory of a Consul agent without servers: a question that blocks would not
            # tell for minutes that they are back.
            index = 0
            await asyncio.sleep(AGED_PAUSE * random.uniform(0.5, 1.0))  # noqa: S311
            continue
        index = 0 if answer.index < index else max(answer.index, 1)
        await bucket.take()


class _Bucket:
    """A token bucket over the loop's clock."""

    def __init__(self) -> None:
        self._tokens = float(BURST)
        self._at = asyncio.get_running_loop().time()

    async def take(self) -> None:
        now = asyncio.get_running_loop().time()
        self._tokens = min(BURST, self._tokens + (now - self._at) * RATE)
        self._at = now
        self._tokens -= 1
        if self._tokens < 0:
            await asyncio.sleep(-self._tokens / RATE)
