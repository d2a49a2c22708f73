"""Who may call whom, and with which requests."""

from __future__ import annotations

import msgspec

from fleetmesh.model.identity import Action
from fleetmesh.model.traffic import FieldMatch


class Permission(msgspec.Struct, frozen=True):
    """What becomes of the requests that fulfil all criteria, and use one of `methods` if there are
    any. Of the paths at most one is given, none is every path.

    They are compared as `core.normal` reads paths, `path_prefix` as text, not by segments; a
    regex is RE2's and matches the whole.
    """

    action: Action
    path_exact: str = ""
    path_prefix: str = ""
    path_regex: str = ""
    headers: tuple[FieldMatch, ...] = ()
    methods: tuple[str, ...] = ()


class Intention(msgspec.Struct, frozen=True):
    """One rule for one destination. `source` and `destination` are service names or `*`.

    Of `permissions`, if there are any, the first that a request fulfils decides in place of
    `action`, which then is deny: for what is not http.
    """

    source: str
    destination: str
    action: Action
    precedence: int
    id: str = ""
    permissions: tuple[Permission, ...] = ()

    def __str__(self) -> str:
        what = self.action.value
        if self.permissions:
            count = len(self.permissions)
            what = f"{count} permission{'s' if count > 1 else ''}"
        return f"{what} {self.source} => {self.destination}"
