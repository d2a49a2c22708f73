"""What the `Meta` of a service-defaults entry says to fleetmesh: what its Consul has no field for.

Every Consul since 1.8.4 keeps `Meta` as it was written: names and texts. Ours begin with `PREFIX`;
all others are their owners'. docs/meta.md lists the keys.
"""

from __future__ import annotations

import re
import typing
from collections.abc import Mapping
from typing import Annotated, Final

import msgspec

from fleetmesh.balance import PICKERS
from fleetmesh.model.problem import Problem
from fleetmesh.model.traffic import RateLimit
from fleetmesh.plan.rates import BY_PATH
from fleetmesh.settings import kinds
from fleetmesh.settings.decode import suggestion
from fleetmesh.settings.kinds import Kind, Wrong

PREFIX: Final = "fleetmesh-"
_WHOLE: Final = re.compile(r"[0-9]{1,20}")
_DECIMAL: Final = re.compile(r"[0-9]{1,20}\.[0-9]{1,20}")


class Meta(msgspec.Struct, frozen=True, rename="kebab"):
    """A field is a key of Meta behind `PREFIX`; None where the entry does not have it.

    Those up to `queue_wait` are for the calls of the service, and from `retries` to `hedge` a
    Target's `tries`; `allow_faults` are the callers whose requests to it may be made to fail on
    purpose. The others are for its own host.
    """

    balancing: Annotated[str, kinds.choice(PICKERS)] | None = None
    allow_faults: Annotated[tuple[str, ...], kinds.CALLERS] | None = None
    zone_aware: Annotated[bool, kinds.SWITCH] | None = None
    retries: Annotated[int, kinds.TRIES] | None = None
    per_try_timeout: Annotated[float, kinds.DEADLINE] | None = None
    stream_timeout: Annotated[float, kinds.DEADLINE] | None = None
    hedge: Annotated[bool, kinds.SWITCH] | None = None
    max_connections: Annotated[int, kinds.BURST] | None = None
    max_pending_requests: Annotated[int, kinds.BURST] | None = None
    max_concurrent_requests: Annotated[int, kinds.BURST] | None = None
    queue_wait: Annotated[float, kinds.DEADLINE] | None = None
    adaptive_concurrency: Annotated[bool, kinds.SWITCH] | None = None
    rate_limit: Annotated[float, kinds.RATE] | None = None
    rate_limit_burst: Annotated[int, kinds.BURST] | None = None
    rate_limit_paths: Annotated[tuple[RateLimit, ...], BY_PATH] | None = None
    caller_rate_limit: Annotated[float, kinds.RATE] | None = None
    caller_rate_limit_burst: Annotated[int, kinds.BURST] | None = None


def read(meta: Mapping[str, str] | None, place: str) -> tuple[Meta, tuple[Problem, ...]]:
    """A key that is wrong counts as not given; `place` names the entry in its problem."""
    values: dict[str, object] = {}
    problems: list[Problem] = []
    for key, text in sorted((meta or {}).items()):
        if not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX)
        field = FIELDS.get(name)
        where = f"{place}: Meta[{key}]"
        if field is None:
            problems.append(Problem(where, "is not known", suggestion(name, FIELDS)))
            continue
        attribute, kind = field
        value = kind.read(_scalar(text))
        if isinstance(value, Wrong):
            problems.append(Problem(where, value.rule, value.remedy))
        else:
            values[attribute] = value
    return Meta(**values), tuple(problems)  # type: ignore[arg-type]


def _scalar(text: str) -> str | int | float | bool:
    """What a settings file would make of `text`: Meta has nothing but texts."""
    if _WHOLE.fullmatch(text):
        return int(text)
    if _DECIMAL.fullmatch(text):
        return float(text)
    return text == "true" if text in ("true", "false") else text


def _kind(hint: object) -> Kind:
    (annotated,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
    (kind,) = (extra for extra in annotated.__metadata__ if isinstance(extra, Kind))
    return kind


FIELDS: Final = {
    field.encode_name: (field.name, _kind(field.type)) for field in msgspec.structs.fields(Meta)
}
"""By name in Meta, behind `PREFIX`: the attribute and how its value is written."""
