"""What every server of these tests answers with, and every client expects."""

from __future__ import annotations

import random

SMALL = b"small\n"
LARGE = random.Random(4).randbytes(1_250_003)
"""No byte range of it is like another: lost, doubled and swapped pieces show."""
