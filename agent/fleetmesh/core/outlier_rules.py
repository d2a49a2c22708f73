"""What ejects an endpoint, for how long, and how many may be out."""

from __future__ import annotations

from typing import Final

from fleetmesh.model.traffic import PassiveHealth
from fleetmesh.settings import OutlierSettings

# Why it was ejected.
FAILED: Final = "5xx"
GATEWAY: Final = "gateway"
UNANSWERED: Final = "unanswered"
FAILURE_RATE: Final = "failure_rate"
LATENCY: Final = "latency"
PROBE: Final = "probe"

SILENT: Final = PassiveHealth()


class Rules:
    """The settings, and what Consul says in their place. As with Envoy, whose outlier detection
    Consul configures, MaxFailures counts whatever fails, and the percentage is that of failing
    streaks that are acted on. As many as Consul lets be ejected are no reason to panic."""

    __slots__ = (
        "enforced",
        "failure_rate",
        "interval",
        "latency_floor",
        "latency_multiple",
        "limits",
        "max_ejection_percent",
        "max_seconds",
        "panic_threshold",
        "seconds",
        "slow_start",
    )

    def __init__(
        self,
        settings: OutlierSettings,
        slow_start: float,
        said: PassiveHealth = SILENT,
    ) -> None:
        self.limits = {
            FAILED: settings.consecutive_5xx,
            GATEWAY: settings.consecutive_gateway,
            UNANSWERED: settings.consecutive_unanswered,
        }
        if said.max_failures:
            self.limits = dict.fromkeys(self.limits, said.max_failures)
        enforced = said.enforcing_consecutive_5xx
        self.enforced = 100 if enforced is None else enforced
        percent = said.max_ejection_percent
        self.max_ejection_percent = settings.max_ejection_percent if percent is None else percent
        self.panic_threshold = settings.panic_threshold
        if percent is not None:
            self.panic_threshold = min(settings.panic_threshold, 100 - min(percent, 100))
        self.seconds = said.base_ejection_time or settings.ejection_time
        self.max_seconds = max(settings.max_ejection_time, self.seconds)
        self.interval = said.interval or settings.interval
        self.failure_rate = settings.failure_rate
        self.latency_multiple = settings.latency_multiple
        self.latency_floor = settings.latency_floor
        self.slow_start = slow_start
