"""What `fleetmesh capture show` shows: the admin API's answer to GET /v1/capture."""

from __future__ import annotations

import msgspec

from fleetmesh.capture.ruleset import Packets, Ruleset, difference, text
from fleetmesh.model.status import CaptureStatus


class View(msgspec.Struct, frozen=True):
    """Both rule sets in nft's language, the kernel's also with the packets that each rule has
    counted (`counted`), and as a unified diff what must change in the kernel; empty when nothing
    must."""

    status: CaptureStatus
    wanted: str
    kernel: str
    counted: str
    difference: tuple[str, ...]


def view(status: CaptureStatus, wanted: Ruleset, kernel: Ruleset, packets: Packets) -> View:
    return View(
        status, text(wanted), text(kernel), text(kernel, packets), difference(wanted, kernel)
    )
