"""Maglev hashing: a table that every endpoint fills by a permutation of its own (Eisenbud et al.,
NSDI 2016, section 3.4). Shares are more even than a ring's, and a pick is one look-up."""

from __future__ import annotations

from typing import Final

from fleetmesh.balance.choices import Choices
from fleetmesh.balance.hashing import digest

SIZES: Final = (16381, 65537)
"""Primes; the first that has a hundred places for every endpoint, or the last."""


class Maglev:
    """`_table` has the index of an endpoint at every place."""

    __slots__ = ("_table",)

    def __init__(self, choices: Choices) -> None:
        weights = choices.weights
        size = next((size for size in SIZES if size >= 100 * len(weights)), SIZES[-1])
        heaviest = max(weights)
        # By name, so that the table does not depend on the order that a catalog gave.
        order = sorted(range(len(weights)), key=choices.ids.__getitem__)
        places = [digest(b"offset " + name.encode()) % size for name in choices.ids]
        skips = [digest(b"skip " + name.encode()) % (size - 1) + 1 for name in choices.ids]
        due = [0] * len(weights)
        table = [-1] * size
        left = size
        turn = 0
        while left:
            turn += 1
            for index in order:
                # The heaviest has every turn, the others their share of them.
                if turn * weights[index] < due[index]:
                    continue
                due[index] += heaviest
                place = places[index]
                while table[place] >= 0:
                    place = (place + skips[index]) % size
                table[place] = index
                places[index] = (place + skips[index]) % size
                left -= 1
                if not left:
                    break
        self._table = table

    def pick(self, number: int, now: float) -> int:
        return self._table[number % len(self._table)]
