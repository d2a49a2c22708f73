"""Who may call a service: intentions, compiled for one lookup a decision.

Permissions judge a request by readings of it, and the stricter side wins: of several readings a
permission that allows must accept every one, for one that denies a single one is enough. A field
that stands in several lines has each line for a reading, and all of them joined. A path has two
for a regex, as it is forwarded and with its escapes decoded; else it is compared decoded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from fleetmesh.core.normal import decoded, normal
from fleetmesh.core.request import RequestHead
from fleetmesh.core.routes import Value, compile_regex, field_name
from fleetmesh.model.identity import WILDCARD, Action
from fleetmesh.model.intention import Intention, Permission


class Verdict(msgspec.Struct, frozen=True):
    """`intention` is the one that decided, None where the default did; `rule` says more: which of
    its permissions, or that none of them did. `ambiguous` is what of a request can be read in more
    than one way, so that nothing was decided."""

    allowed: bool
    intention: Intention | None = None
    rule: str = ""
    ambiguous: str = ""

    def __str__(self) -> str:
        if self.intention is not None:
            what = str(self.intention)
        else:
            what = "default policy: allow" if self.allowed else "default policy: deny"
        return f"{what} ({self.rule})" if self.rule else what


class Authorizer:
    """The intentions of one destination. They come highest precedence first; the first whose
    source matches decides, and names no source after a wildcard can matter."""

    __slots__ = ("_by_source", "_otherwise", "_otherwise_rules", "_rules")

    def __init__(self, intentions: Iterable[Intention], default_allow: bool) -> None:
        self._by_source: dict[str, Verdict] = {}
        self._rules: dict[str, Rules] = {}
        self._otherwise = Verdict(default_allow)
        self._otherwise_rules: Rules | None = None
        for intention in intentions:
            if intention.permissions:
                verdict = Verdict(False, intention, "by request: not for a connection")
            else:
                verdict = Verdict(intention.action is Action.ALLOW, intention)
            rules = Rules(intention, default_allow) if intention.permissions else None
            if intention.source == WILDCARD:
                self._otherwise = verdict
                self._otherwise_rules = rules
                break
            if intention.source not in self._by_source:
                self._by_source[intention.source] = verdict
                if rules is not None:
                    self._rules[intention.source] = rules

    def decide(self, source: str) -> Verdict:
        """On a connection, whatever it carries: one whose requests are judged is denied."""
        return self._by_source.get(source, self._otherwise)

    def rules(self, source: str) -> Rules | None:
        """What judges the requests of `source`, if they are judged one by one."""
        if source in self._by_source:
            return self._rules.get(source)
        return self._otherwise_rules

    def explain(self, source: str, request: RequestHead | None = None) -> Verdict:
        """On a request, or on a connection that is not http."""
        rules = self.rules(source)
        if rules is None or request is None:
            return self.decide(source)
        return rules.settle(request)


class Rules:
    """The permissions of one intention; the first that a request fulfils decides, then the
    default policy: intentions of lower precedence are not for this source."""

    __slots__ = ("_checks", "_intention", "_names", "_underscored", "_unmatched", "_verdicts")

    def __init__(self, intention: Intention, default_allow: bool) -> None:
        self._intention = intention
        self._checks = [_Check(permission) for permission in intention.permissions]
        self._verdicts = [
            Verdict(
                permission.action is Action.ALLOW,
                intention,
                f"permission {number}: {permission.action.value}",
            )
            for number, permission in enumerate(intention.permissions, 1)
        ]
        self._unmatched = Verdict(default_allow, None, f"none of {intention} matches")
        self._names = frozenset(name for check in self._checks for name in check.names())
        self._underscored = any(b"_" in name for name in self._names)

    def settle(self, request: RequestHead) -> Verdict:
        """The verdict on a `request` whose head was judged. Its target is normal from then on,
        unless the verdict is that it is ambiguous."""
        target = normal(request.target)
        if target is None:
            return Verdict(False, self._intention, "", "path")
        request.target = target
        if self._names:
            alike = request.lookalike(self._names, self._underscored)
            if alike:
                return Verdict(False, self._intention, "", alike.decode("ascii", "replace"))
        path = target.partition(b"?")[0]
        plain = decoded(path)
        for number, check in enumerate(self._checks):
            if check.accepts(request, path, plain):
                return self._verdicts[number]
        return self._unmatched


class _Check:
    """One permission."""

    __slots__ = ("_exact", "_fields", "_methods", "_prefix", "_regex", "_strict")

    def __init__(self, permission: Permission) -> None:
        self._strict = permission.action is Action.ALLOW
        self._exact = decoded(permission.path_exact.encode())
        self._prefix = decoded(permission.path_prefix.encode())
        self._regex: Any = compile_regex(permission.path_regex) if permission.path_regex else None
        self._methods = frozenset(method.upper().encode() for method in permission.methods)
        self._fields = [Value(field, field_name(field.name)) for field in permission.headers]

    def names(self) -> list[bytes]:
        return [field.name for field in self._fields]

    def accepts(self, request: RequestHead, path: bytes, plain: bytes) -> bool:
        if self._methods and request.method not in self._methods:
            return False
        if self._exact and plain != self._exact:
            return False
        if self._prefix and not plain.startswith(self._prefix):
            return False
        if self._regex is not None and not self._on_path(path, plain):
            return False
        for wanted in self._fields:  # noqa: SIM110 -- all() would make a generator a request
            if not self._on_field(wanted, request):
                return False
        return True

    def _on_path(self, path: bytes, plain: bytes) -> bool:
        found: bool = self._regex.fullmatch(path) is not None
        if plain == path or found is not self._strict:
            return found
        other: bool = self._regex.fullmatch(plain) is not None
        return other

    def _on_field(self, wanted: Value, request: RequestHead) -> bool:
        values = request.values(wanted.name)
        if not values:
            return wanted.accepts(None)
        if len(values) > 1:
            values.append(b", ".join(values))
        for value in values:
            if not _is_text(value):  # a regex says nothing of it
                return not self._strict
            if wanted.accepts(value) is not self._strict:
                return not self._strict
        return self._strict


def _is_text(value: bytes) -> bool:
    if value.isascii():
        return True
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
