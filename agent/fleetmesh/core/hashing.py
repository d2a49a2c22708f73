"""The number that a request's endpoint is chosen by, where it follows from the request itself."""

from __future__ import annotations

from collections.abc import Sequence

from fleetmesh.balance.hashing import BITS, digest
from fleetmesh.core.request import RequestHead
from fleetmesh.core.routes import field_name, parameter
from fleetmesh.model.traffic import HashPolicy


class Hashing:
    """The hash policies of a target. `set_cookie` is the field line that the last request's answer
    must carry, empty when none."""

    __slots__ = ("_policies", "set_cookie")

    def __init__(self, policies: Sequence[HashPolicy]) -> None:
        self._policies = policies
        self.set_cookie = b""

    def number(self, request: RequestHead | None, address: bytes, drawn: int) -> int:
        """The policies' hashes put together as Envoy does; `drawn`, which is random, when none has
        any. A connection that is no request has only its source's `address`."""
        self.set_cookie = b""
        found = False
        number = 0
        for policy in self._policies:
            if policy.source_address:
                value = address or None
            elif request is None:
                value = None
            elif policy.header:
                value = request.field(field_name(policy.header))
            elif policy.query:
                value = parameter(request.target.partition(b"?")[2], policy.query.encode())
            else:
                value = self._cookie(policy, request, drawn)
            if value is not None:
                number = (((number << 1) | (number >> 63)) & BITS) ^ digest(value)
                found = True
            if found and policy.terminal:
                break
        return number if found else drawn

    def _cookie(self, policy: HashPolicy, request: RequestHead, drawn: int) -> bytes | None:
        wanted = policy.cookie.encode()
        for part in (request.field(b"cookie") or b"").replace(b",", b";").split(b";"):
            name, equals, value = part.strip(b" \t").partition(b"=")
            if equals and name == wanted:
                return value.strip(b'"')
        ttl = policy.cookie_ttl
        if ttl is None:
            return None
        fresh = b"%016x" % drawn
        line = b"Set-Cookie: " + wanted + b'="' + fresh + b'"'
        if ttl > 0:
            line += b"; Max-Age=%d" % max(round(ttl), 1)
        if policy.cookie_path:
            line += b"; Path=" + policy.cookie_path.encode()
        self.set_cookie += line + b"; HttpOnly\r\n"
        return fresh
