"""Memory that processes of one host have in common: memfd_create(2), sealed against a change of its
size, so that none of them can pull it away under the others."""

from __future__ import annotations

import fcntl
import mmap
import os


def create(size: int) -> int:
    """A descriptor of so many zero bytes. Raises OSError."""
    fd = os.memfd_create("shared", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size)
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except OSError:
        os.close(fd)
        raise
    return fd


def attach(fd: int, size: int) -> memoryview:
    """What `fd`, which is closed, has. Raises OSError, or ValueError where it has less."""
    with os.fdopen(fd, "r+b", buffering=0):
        return memoryview(mmap.mmap(fd, size))
