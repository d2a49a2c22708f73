"""The closed list of refusals."""

from __future__ import annotations

import re
from http import HTTPStatus

import pytest

from fleetmesh.model.refusal import Refusal


@pytest.mark.parametrize("refusal", Refusal, ids=lambda refusal: refusal.code)
def test_a_refusal_can_be_told(refusal: Refusal) -> None:
    """Its code is the member's name, its status an error's, its sentence fits into one."""
    assert refusal.code == refusal.name.lower()
    assert HTTPStatus(refusal.status) >= HTTPStatus.BAD_REQUEST
    assert re.fullmatch(r"[^.\n\"]+", refusal.sentence)


def test_no_two_are_the_same() -> None:
    """Equal values would make one an alias of the other, and the metrics would merge them."""
    assert len({refusal.code for refusal in Refusal}) == len(Refusal.__members__)
    assert len({refusal.sentence for refusal in Refusal}) == len(Refusal.__members__)
