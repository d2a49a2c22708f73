"""Capture methods as data: the host's services in, nftables rules out.

A method exists because it stands in `METHODS`. It has `ruleset(Inputs)`, the rules while the
agent runs, and `closed(Inputs)`, the rules that stay when it is stopped for good.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fleetmesh.capture import redirect
from fleetmesh.capture.redirect import Inputs
from fleetmesh.capture.ruleset import Ruleset


class Method(NamedTuple):
    ruleset: Callable[[Inputs], Ruleset]
    closed: Callable[[Inputs], Ruleset]


METHODS: Mapping[str, Method] = {"redirect": Method(redirect.ruleset, redirect.closed)}
