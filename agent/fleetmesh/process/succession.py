"""What an agent leaves behind serves on until the next agent does."""

from __future__ import annotations

import asyncio
import contextlib
import socket

HANDOVER = 60.0
"""Seconds that is waited for the next agent; as long as systemd lets one start."""


async def succeeded(sign: socket.socket) -> None:
    """Returns when the other end of `sign`, which is closed then, was closed by the next agent, or
    there is none in time."""
    sign.setblocking(False)
    with sign, contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(HANDOVER):
            await asyncio.get_running_loop().sock_recv(sign, 1)
