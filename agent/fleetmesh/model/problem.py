"""What is wrong in configuration: collected, never raised one at a time."""

from __future__ import annotations

import msgspec


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong: where it stands, which rule it breaks, how to mend it.

    `path` is a file with line and key (`/etc/fleetmesh/agent.yaml:7: workers`) or the path of an
    entry in Consul (`service-router/api: Routes[2].Match`).
    """

    path: str
    rule: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.path}: {self.rule}" + (f". {self.remedy}" if self.remedy else "")
