"""Who may call a service: intentions, compiled for one lookup a decision."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from fleetmesh.model.identity import WILDCARD, Action, Intention


class Verdict(msgspec.Struct, frozen=True):
    """`intention` is the one that decided, None where the default did."""

    allowed: bool
    intention: Intention | None = None

    def __str__(self) -> str:
        if self.intention is not None:
            return str(self.intention)
        return "default policy: allow" if self.allowed else "default policy: deny"


class Authorizer:
    """The intentions of one destination. They come highest precedence first; the first whose
    source matches decides, and names no source after a wildcard can matter."""

    __slots__ = ("_by_source", "_otherwise")

    def __init__(self, intentions: Iterable[Intention], default_allow: bool) -> None:
        self._by_source: dict[str, Verdict] = {}
        self._otherwise = Verdict(default_allow)
        for intention in intentions:
            verdict = Verdict(intention.action is Action.ALLOW, intention)
            if intention.source == WILDCARD:
                self._otherwise = verdict
                break
            self._by_source.setdefault(intention.source, verdict)

    def decide(self, source: str) -> Verdict:
        return self._by_source.get(source, self._otherwise)
