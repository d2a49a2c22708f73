"""What a worker's process gives up, and what it takes, before it carries anything."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

# linux/prctl.h, linux/capability.h
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522

# malloc.h
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3


class PrivilegeError(Exception):
    """The kernel did not let the worker give up what it must not have."""


def drop_privileges() -> None:
    """Give up every capability, and the way back; end with the controller.

    Raises PrivilegeError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getppid()
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    none = (ctypes.c_uint32 * 6)()
    outcomes = {
        "death signal": libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
        "ambient capabilities": libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0),
        "capabilities": libc.capset(header, none),
        "new privileges": libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    }
    if refused := [what for what, outcome in outcomes.items() if outcome != 0]:
        raise PrivilegeError(f"the kernel refused to drop: {', '.join(refused)}")
    if os.getppid() != parent:
        raise PrivilegeError("the controller ended meanwhile")


def outlive_controller() -> None:
    """From now on the controller's death is none of this process. Raises PrivilegeError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0) != 0:
        raise PrivilegeError("the kernel refused to forget the death signal")


def keep_freed_memory() -> None:
    """Bulk traffic frees and allocates quarter-megabyte buffers in turns. By default glibc hands
    such blocks back to the kernel each time, and the page faults of getting them again were half of
    the CPU time of a TCP stream (2.4 against 1.25 CPU-seconds per GB, both hops)."""
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 8 << 20)


def open_files() -> int:
    """How many this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 1 << 30


def raise_open_files() -> None:
    """Open as many files as this process may at all: a relayed connection takes two, and a shell's
    soft limit of 1024 is for programs that use select(2). Where the kernel or a filter of system
    calls says no, the limit stays as it was."""
    try:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):
        pass
