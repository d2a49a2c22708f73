from __future__ import annotations

import asyncio
from typing import Any

import pytest

from fleetmesh.core.table import link
from fleetmesh.model.snapshot import Snapshot
from fleetmesh.proxy import asking
from fleetmesh.proxy.asking import HOLD, MOST_HELD, Questions, Waiting
from fleetmesh.proxy.conduit import Quiet
from fleetmesh.proxy.plane import Plane
from fleetmesh.settings import HttpSettings, TcpSettings

THERE = ("10.0.0.9", 8000)


class Line:
    """A transport: what was done with it, in order."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.closing = False

    def __getattr__(self, name: str) -> Any:
        return lambda *_: self.done.append(name)

    def is_closing(self) -> bool:
        return self.closing


class Taker(Quiet):
    """Settles, and takes over."""

    def __init__(self, takes: bool = True) -> None:
        self.settled: list[tuple[str, int]] = []
        self.data = b""
        self.ended = False
        self._takes = takes

    def settle(self, transport: Any, destination: tuple[str, int]) -> Any:
        self.settled.append(destination)
        return self if self._takes else None

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.ended = True
        return False


@pytest.fixture
async def plane() -> Plane:
    empty = link(Snapshot("", "", "", (), (), ()), 1, None, 0)
    return Plane(asyncio.get_running_loop(), HttpSettings(), TcpSettings(), empty)


def waiting(plane: Plane, questions: Questions, taker: Taker) -> tuple[Waiting, Any]:
    one, line = Waiting(plane, questions, taker, THERE), Line()
    one.connection_made(line)
    return one, line


async def test_connections_share_a_question_and_go_on_with_its_answer(plane: Plane) -> None:
    asked: list[tuple[str, int]] = []
    questions = Questions(lambda address, port: asked.append((address, port)))
    first, second = Taker(), Taker()
    one, line = waiting(plane, questions, first)
    waiting(plane, questions, second)
    assert asked == [THERE]
    assert line.done == ["pause_reading"]
    assert one in plane.connections

    one.data_received(b"early, ")
    one.data_received(b"and more")
    one.eof_received()
    questions.answered(THERE, plane.now)
    assert first.settled == second.settled == [THERE]
    assert (first.data, first.ended) == (b"early, and more", True)
    assert line.done[-2:] == ["resume_reading", "close"]
    assert not plane.connections
    questions.answered(THERE, plane.now)
    assert first.settled == [THERE]


async def test_an_answer_holds_for_a_while_and_there_are_not_endlessly_many(plane: Plane) -> None:
    questions = Questions(lambda *_: None)
    assert not questions.settled(THERE, 0.0)
    questions.answered(THERE, 10.0)
    assert questions.settled(THERE, 10.0 + HOLD - 0.1)
    assert not questions.settled(THERE, 10.0 + HOLD)
    questions.answered(THERE, 20.0)
    for port in range(MOST_HELD):
        questions.answered(("10.0.0.1", port), 20.0)
    assert not questions.settled(THERE, 20.0)
    assert questions.settled(("10.0.0.1", 1), 20.0)


async def test_no_answer_is_waited_for_no_longer_than_patience(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "PATIENCE", 0.05)
    asked: list[int] = []
    questions = Questions(lambda _, port: asked.append(port))
    taker = Taker(takes=False)
    one, _ = waiting(plane, questions, taker)
    one.data_received(b"lost with the connection")
    assert not taker.settled
    await asyncio.sleep(0.2)
    assert taker.settled == [THERE]
    assert taker.data == b""
    waiting(plane, questions, taker)  # the question is asked anew
    assert asked == [8000, 8000]


async def test_one_that_has_gone_is_not_settled(plane: Plane) -> None:
    questions = Questions(lambda *_: None)
    gone, closing, line = Taker(), Taker(), Line()
    one, _ = waiting(plane, questions, gone)
    one.connection_lost(None)
    other = Waiting(plane, questions, closing, THERE)
    other.connection_made(line)  # type: ignore[arg-type]
    line.closing = True
    questions.answered(THERE, plane.now)
    assert gone.settled == closing.settled == []
    assert not plane.connections


async def test_a_table_that_has_the_address_is_answer_enough(plane: Plane) -> None:
    taker = Taker()
    one, _ = waiting(plane, Questions(lambda *_: None), taker)
    one.recheck(plane.now)
    assert not taker.settled
    plane.table.by_destination[THERE] = object()  # type: ignore[assignment]
    one.recheck(plane.now)
    assert taker.settled == [THERE]
