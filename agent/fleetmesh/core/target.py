"""A target with the endpoints that it has at the moment, and the picker among them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from fleetmesh.balance import COUNTING, DEFAULT, HASHING, PICKERS, Picker
from fleetmesh.balance.choices import EVENLY, Choices
from fleetmesh.core.hashing import Hashing
from fleetmesh.core.lane import Caller, Place
from fleetmesh.model.traffic import Balancing


class _Active:
    """How busy the endpoints are, by index."""

    __slots__ = ("_places",)

    def __init__(self, places: list[Place]) -> None:
        self._places = places

    def __call__(self, index: int) -> int:
        return self._places[index].active()


class TargetEntry:
    """A target with its eligible endpoints and the picker that chooses among them. `draws`: its
    picker wants a number, which `hashing`, if there is one, takes from the request.

    `previous` is what it was in the table before: its callers are remembered, and its picker goes
    on where nothing changed that it knows of.
    """

    __slots__ = (
        "_called_by",
        "_chosen_of",
        "_own_picker",
        "_picker",
        "_serving",
        "draws",
        "hashing",
        "id",
        "places",
    )

    def __init__(
        self,
        target_id: str,
        places: list[Place],
        offset: int,
        balancing: Balancing = EVENLY,
        previous: TargetEntry | None = None,
    ) -> None:
        self._called_by = previous.callers() if previous is not None else frozenset()
        self.id = target_id
        self.places = places
        policy = balancing.policy or DEFAULT
        self.draws = policy not in COUNTING
        self.hashing = Hashing(balancing.hash_policies) if policy in HASHING else None
        choices = Choices(
            [place.endpoint.id for place in places],
            [place.endpoint.weight for place in places],
            offset,
            balancing,
            _Active(places),
        )
        self._chosen_of = choices
        self._own_picker: Picker | None = None
        if places:
            if previous is not None and previous.places == places and previous.suits(choices):
                self._own_picker = previous._own_picker
            else:
                self._own_picker = PICKERS[policy](choices)
        self._picker = self._own_picker
        self._serving = places

    def suits(self, choices: Choices) -> bool:
        known = self._chosen_of
        return known.weights == choices.weights and known.balancing == choices.balancing

    def fail_over(self, others: Sequence[TargetEntry]) -> None:
        """The first of `others` that has an endpoint serves in place of one that has none."""
        if self.places:
            return
        for other in others:
            if other.places:
                self._picker = other._own_picker
                self._serving = other.places
                self.draws = other.draws
                self.hashing = other.hashing
                return

    def pick(self, tried: Collection[str] = (), number: int = 0) -> Place | None:
        """The next endpoint, one that is not in `tried` (ids) if there is any such; None when
        no endpoint is eligible."""
        if self._picker is None:
            return None
        place = self._serving[self._picker.pick(number)]
        if place.endpoint.id not in tried:
            return place
        others = (other for other in self._serving if other.endpoint.id not in tried)
        return next(others, place)

    def callers(self) -> frozenset[Caller]:
        """Who has called it so far."""
        return self._called_by.union(*(place.callers() for place in self.places))
