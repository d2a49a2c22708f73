"""What the mesh tells of a request in fields of its own: the time that is left for it, and which
attempt it is.

Another hop's time is no clock of ours, so that what is left is told, as with gRPC, and not when it
ends. What Envoy tells its upstreams of the same is heeded too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

DEADLINE: Final = b"x-fleetmesh-deadline-ms"
ATTEMPTS: Final = b"x-fleetmesh-attempts"
EXPECTED: Final = b"x-envoy-expected-rq-timeout-ms"
OURS: Final = frozenset({DEADLINE, ATTEMPTS})

_NUMBER = re.compile(rb"[0-9]{1,10}").fullmatch


def time_left(noted: Mapping[bytes, bytes]) -> float | None:
    """Seconds, of the fields by lower-case name; None where nobody has said, or said no number.
    0.0: it is over."""
    said = noted.get(DEADLINE, b"")
    if _NUMBER(said) is not None:
        return int(said) / 1e3
    expected = noted.get(EXPECTED, b"")
    # Envoy's zero is no timeout.
    return int(expected) / 1e3 or None if _NUMBER(expected) is not None else None


def attempt(noted: Mapping[bytes, bytes]) -> int:
    """Which it is, 0 where nobody has said."""
    said = noted.get(ATTEMPTS, b"")
    return int(said) if _NUMBER(said) is not None else 0


def deadline_line(seconds: float) -> bytes:
    return b"%b: %d\r\n" % (DEADLINE, max(int(seconds * 1e3), 0))


def attempts_line(number: int) -> bytes:
    return b"%b: %d\r\n" % (ATTEMPTS, number)
