"""A wall clock that tests can step, for the processes that they start.

A host of the lab shares this machine's clock, and time namespaces have no wall clock. So a small
library is preloaded that adds an offset; OpenSSL, which judges certificates by it, sees it too.
Consul does not: a Go program asks the kernel itself.
"""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).with_suffix(".c")
DAY = 86400


class Clock:
    def __init__(self, file: Path) -> None:
        self._file = file
        self.step(0)

    def step(self, seconds: int) -> None:
        """Be so far off the true time."""
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("l", seconds))


@contextlib.contextmanager
def stepped(home: Path) -> Iterator[Clock]:
    """Processes that are started within have this clock."""
    library = home / "clock.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SOURCE], check=True
    )
    file = home / "clock"
    clock = Clock(file)
    library.chmod(0o755)
    before = {name: os.environ.get(name) for name in ("LD_PRELOAD", "TEST_CLOCK")}
    os.environ |= {"LD_PRELOAD": str(library), "TEST_CLOCK": str(file)}
    try:
        yield clock
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
