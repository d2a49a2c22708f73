"""Wait until every address and port accepts a connection; print those that never did.

Runs as a program in the lab's control namespace: ``probe.py SECONDS "ADDRESS PORT"...``
"""

from __future__ import annotations

import socket
import sys
import time


def main(patience: float, targets: list[str]) -> int:
    """0 when all answered within `patience` seconds, 1 otherwise."""
    deadline = time.monotonic() + patience
    silent = targets
    while True:
        silent = [target for target in silent if not _accepts(target)]
        if not silent:
            return 0
        if time.monotonic() > deadline:
            print(", ".join(silent))
            return 1
        time.sleep(0.05)


def _accepts(target: str) -> bool:
    address, port = target.split()
    try:
        with socket.create_connection((address, int(port)), timeout=1.0) as connection:
            # sshd accepts before it can serve; only its greeting tells.
            return port != "22" or connection.recv(4) == b"SSH-"
    except OSError:
        return False


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
