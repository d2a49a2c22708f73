from __future__ import annotations

import pytest

from fleetmesh.model.identity import SpiffeId
from fleetmesh.model.problem import Problem
from fleetmesh.model.report import Report, Served
from fleetmesh.model.snapshot import Leaf, LocalService, Mode, Snapshot
from fleetmesh.model.status import HandshakeStatus
from fleetmesh.model.traffic import Protocol
from fleetmesh.plan.ports import Allocation
from fleetmesh.process.reporting import SENTENCE_LENGTH, renewals, sentence, service_status
from fleetmesh.settings import ServiceSettings

LEAF = Leaf("0a", 1000.0, 2000.0, "CHAIN", "KEY")
SERVICE = LocalService(
    "web",
    "web",
    "127.0.0.1",
    80,
    Protocol.HTTP,
    Mode.STRICT,
    SpiffeId("td", "dc1", "web"),
    (),
    LEAF,
)
SNAPSHOT = Snapshot("td", "dc1", "n", ("ROOT",), (SERVICE,), ())
DECLARED = ServiceSettings(name="web", port=80, user="web")
PORTS = Allocation({"web": 15100}, {"web": 21000})


def report(serial: str) -> Report:
    return Report(pid=1, generation=1, served=(Served("web", serial, 2000.0),))


def test_worker_that_serves_an_older_certificate_is_not_counted() -> None:
    """The status compares what was fetched with what is served."""
    reports = (report("0a"), report("09"), Report(pid=3, generation=1))
    status = service_status(DECLARED, SNAPSHOT, PORTS, {"web": 1000}, frozenset({"web"}), reports)
    assert (status.identity.serial, status.identity.workers) == ("0a", 1)
    assert (status.identity.life, status.uid, status.registered) == (1000.0, 1000, True)


def test_service_before_its_certificate() -> None:
    status = service_status(DECLARED, None, PORTS, {}, frozenset(), ())
    assert (status.identity.spiffe_id, status.uid, status.registered) == ("", None, False)


@pytest.mark.parametrize(
    ("snapshot", "problems", "error", "expected"),
    [
        (SNAPSHOT, [], "", "1 of 1 services with a certificate"),
        (SNAPSHOT, [], "refused", "Consul does not answer: refused"),
        (SNAPSHOT, [Problem("a.yaml:1", "is wrong")], "", "1 problem: a.yaml:1: is wrong"),
        (None, [], "refused", "Waiting for Consul (refused)"),
    ],
)
def test_sentence_says_what_to_look_at(
    snapshot: Snapshot | None, problems: list[Problem], error: str, expected: str
) -> None:
    assert expected in sentence(snapshot, 3, problems, error, "applied")


def test_sentence_is_one_short_line() -> None:
    """STATUS= ends at a line break."""
    text = sentence(SNAPSHOT, 3, [Problem("x", "one\ntwo" * 200)], "", "applied")
    assert "\n" not in text
    assert len(text) <= SENTENCE_LENGTH


def test_renewal_is_judged_by_who_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1600.0)
    assert renewals(SNAPSHOT, set(), {}) == {"web": 0}
    assert renewals(SNAPSHOT, {"web"}, {}) == {"web": 1}
    assert renewals(None, set(), {}) == {}


def test_renewal_is_judged_by_what_peers_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fresh certificate that was fetched is of no use while an old one is served."""
    monkeypatch.setattr("time.time", lambda: 1100.0)
    old = HandshakeStatus(1.0, "09", seconds_left=20.0, life=1000.0, wrong_for=5.0)
    assert renewals(SNAPSHOT, set(), {"web": old}) == {"web": 2}
    failed = HandshakeStatus(1.0, wrong_for=5.0, error="closed")
    assert renewals(SNAPSHOT, set(), {"web": failed}) == {"web": 0}
