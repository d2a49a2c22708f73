"""docs/meta.md is `plan.meta`'s: every key, and how it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from fleetmesh.model.problem import Problem
from fleetmesh.plan.meta import FIELDS, PREFIX, Meta, read

REFERENCE = (Path(__file__).parents[3] / "docs/meta.md").read_text()


def test_every_key_is_described() -> None:
    described = [line.split(" | ")[:2] for line in REFERENCE.splitlines() if line[:3] == "| `"]
    assert described == [[f"| `{PREFIX}{name}`", kind.text] for name, (_, kind) in FIELDS.items()]


def test_what_is_not_ours_is_left_alone() -> None:
    assert read({"owner": "team-a", "external-source": "terraform"}, "here") == (Meta(), ())
    assert read(None, "here") == (Meta(), ())


def test_a_key_that_is_right_counts_beside_those_that_are_wrong() -> None:
    meta, problems = read(
        {"fleetmesh-balancing": "maglev", "fleetmesh-balanced": "maglev"}, "service-defaults/api"
    )
    assert meta == Meta(balancing="maglev")
    assert problems == (
        Problem(
            "service-defaults/api: Meta[fleetmesh-balanced]",
            "is not known",
            'Did you mean "balancing"?',
        ),
    )


@pytest.mark.parametrize("text", ["fastest", "7", "true", ""])
def test_a_value_that_is_wrong_counts_as_not_given(text: str) -> None:
    meta, (problem,) = read({"fleetmesh-balancing": text}, "service-defaults/api")
    assert meta == Meta()
    assert problem.path == "service-defaults/api: Meta[fleetmesh-balancing]"
    assert problem.rule.startswith("must be one of peak_ewma, round_robin")
