"""A target with the endpoints that it has at the moment, and the picker among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fleetmesh.balance import COUNTING, DEFAULT, HASHING, Picker, picker_of
from fleetmesh.balance.choices import EVENLY, Choices
from fleetmesh.balance.hashing import mixed
from fleetmesh.balance.latency import Latency
from fleetmesh.core.budget import Budget
from fleetmesh.core.hashing import Hashing
from fleetmesh.core.lane import Caller, Place
from fleetmesh.core.outlier import Outliers
from fleetmesh.core.retry import Policy, by_default
from fleetmesh.core.slowness import Slowness
from fleetmesh.model.traffic import Balancing, Tries
from fleetmesh.settings import UpstreamSettings

_TURNS = 8
_SILENT = Tries()


class _Active:
    """How busy the endpoints are, by index."""

    __slots__ = ("_places",)

    def __init__(self, places: list[Place]) -> None:
        self._places = places

    def __call__(self, index: int) -> int:
        return self._places[index].active()


class TargetEntry:
    """A target with its eligible endpoints and the picker that chooses among them. `draws`: its
    picker wants a number, which `hashing`, if there is one, takes from the request. `outliers` has
    the standings of its places, if there are several. `retries` are for what no route says
    anything about, `stream_timeout` in seconds, 0.0 for none; `slowness` is known where it was
    asked for.

    `previous` is what it was in the table before: its callers are remembered, and its picker goes
    on where nothing changed that it knows of.
    """

    __slots__ = (
        "_called_by",
        "_chosen_of",
        "_only",
        "_outliers",
        "_own_picker",
        "_picker",
        "_serving",
        "_turn",
        "draws",
        "hashing",
        "id",
        "outliers",
        "places",
        "retries",
        "slowness",
        "stream_timeout",
        "tries",
    )

    def __init__(
        self,
        target_id: str,
        places: list[Place],
        offset: int,
        balancing: Balancing = EVENLY,
        previous: TargetEntry | None = None,
        outliers: Outliers | None = None,
    ) -> None:
        self._called_by = previous.callers() if previous is not None else frozenset()
        self.id = target_id
        self.places = places
        policy = balancing.policy or DEFAULT
        # One endpoint has all: nothing is drawn or counted for it. A hash may ask for a cookie.
        self._only = places[0] if len(places) == 1 else None
        self.draws = policy in HASHING or (self._only is None and policy not in COUNTING)
        self.hashing = Hashing(balancing.hash_policies) if policy in HASHING else None
        self.outliers = outliers
        self.tries = _SILENT
        self.retries: Policy | None = None
        self.stream_timeout = 0.0
        self.slowness: Slowness | None = previous.slowness if previous is not None else None
        choices = Choices(
            [place.endpoint.id for place in places],
            [place.endpoint.weight for place in places],
            offset,
            balancing,
            _Active(places),
            _latencies(places),
            [place.endpoint.zone for place in places],
        )
        self._chosen_of = choices
        self._own_picker: Picker | None = None
        if len(places) > 1:
            if previous is not None and previous.places == places and previous.suits(choices):
                self._own_picker = previous._own_picker
            else:
                self._own_picker = picker_of(policy, choices)
        self._picker = self._own_picker
        self._serving = places
        self._outliers = outliers
        self._turn = offset

    def treat(self, tries: Tries, keeping: UpstreamSettings, budget: Budget) -> None:
        """What is said of the target goes before what the host says of all."""
        count, seconds = tries.retries, tries.stream_timeout
        self.tries = tries
        self.retries = by_default(keeping.retries if count is None else count, budget)
        self.stream_timeout = keeping.stream_timeout if seconds is None else seconds

    def observed(self) -> Slowness:
        """From now on it is."""
        if self.slowness is None:
            self.slowness = Slowness()
        return self.slowness

    def suits(self, choices: Choices) -> bool:
        known = self._chosen_of
        return (
            known.weights == choices.weights
            and known.balancing == choices.balancing
            and known.zones == choices.zones
        )

    def fail_over(self, others: Sequence[TargetEntry]) -> None:
        """The first of `others` that has an endpoint serves in place of one that has none."""
        if self.places:
            return
        for other in others:
            if other.places:
                self._picker = other._own_picker
                self._serving = other.places
                self._only = other._only
                self._outliers = other.outliers
                self.draws = other.draws
                self.hashing = other.hashing
                return

    def pick(self, tried: Collection[str] = (), number: int = 0, now: float = 0.0) -> Place | None:
        """The next endpoint, one that is not in `tried` (ids) and not ejected if there is any
        such; None when no endpoint is eligible. `now` is of the clock that outcomes are told by."""
        if self._only is not None:
            return self._only
        if self._picker is None:
            return None
        place = self._serving[self._picker.pick(number, now)]
        outliers = self._outliers
        if tried or (outliers is not None and outliers.unsteady):
            return self._settle(place, tried, number, now)
        return place

    def _settle(self, place: Place, tried: Collection[str], number: int, now: float) -> Place:
        """`place`, or another where that may not have the request. Who was hashed to it is hashed
        again, so that its requests spread over all others and those of no other move."""
        assert self._picker is not None
        if not self.draws:
            self._turn += 1
            number = mixed(self._turn)
        for _ in range(_TURNS):
            if place.endpoint.id not in tried:
                standing = place.standing
                if standing is None or standing.admits(number, now):
                    return place
            number = mixed(number)
            place = self._serving[self._picker.pick(number, now)]
        # Chance has not found one. Where all are ejected all serve.
        left = [other for other in self._serving if other.endpoint.id not in tried]
        left = left or self._serving
        well = [other for other in left if other.standing is None or not other.standing.out]
        left = well or left
        return left[number % len(left)]

    def callers(self) -> frozenset[Caller]:
        """Who has called it so far."""
        return self._called_by.union(*(place.callers() for place in self.places))


def _latencies(places: list[Place]) -> list[Latency] | None:
    """None where nobody keeps them."""
    standings = [place.standing for place in places if place.standing is not None]
    return [one.latency for one in standings] if len(standings) == len(places) else None
