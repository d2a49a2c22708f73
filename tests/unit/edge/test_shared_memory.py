"""Memory that two processes have, and neither can take away."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fleetmesh.edge import shared_memory

_CHILD = """
import sys
from fleetmesh.edge import shared_memory
memory = shared_memory.attach(int(sys.argv[1]), 4096)
assert memory[0] == 7
memory[1] = 8
"""


def test_what_a_child_writes_is_there() -> None:
    fd = shared_memory.create(4096)
    ours = shared_memory.attach(os.dup(fd), 4096)
    assert bytes(ours) == bytes(4096)
    ours[0] = 7
    subprocess.run([sys.executable, "-c", _CHILD, str(fd)], pass_fds=[fd], check=True)
    assert ours[1] == 8
    for size in (0, 8192):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    with pytest.raises(ValueError, match="mmap length"):
        shared_memory.attach(fd, 8192)
