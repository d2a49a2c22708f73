"""Whether a certificate's renewal is late: one judgement for `fleetmesh check` and the metrics.

Consul renews a leaf at a random moment between 60 and 90 % of its life (calculateSoftExpiry in
agent/cache-types/connect_ca_leaf.go). While it answers, an older leaf than that means that renewal
does not work; half of a life means nothing. While it does not answer for the leaf, nobody renews,
and the shares of the life that is used up are what counts.
"""

from __future__ import annotations

import enum

LATE, FAILED = 0.90, 0.95
LATE_UNANSWERED, FAILED_UNANSWERED = 0.50, 0.80
WRONG = 30.0
"""Seconds for which handshakes may show another certificate than the one that workers were given:
a renewal is in force within one."""


class Renewal(enum.IntEnum):
    """Numbers as the metrics page shows them."""

    WELL = 0
    LATE = 1
    FAILED = 2


def judge(left: float, life: float, answered: bool) -> Renewal:
    """`left` of `life` seconds; whether Consul `answered` the last question for the leaf."""
    used = 1 - left / life if life > 0 else 1.0
    late, failed = (LATE, FAILED) if answered else (LATE_UNANSWERED, FAILED_UNANSWERED)
    if left <= 0 or used >= failed:
        return Renewal.FAILED
    return Renewal.LATE if used >= late else Renewal.WELL
