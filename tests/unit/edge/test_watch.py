from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from fleetmesh.edge import watch
from fleetmesh.edge.consul_http import Answer, ConsulError

Step = tuple[int, str] | ConsulError
"""What the server does next: an index and a value, or an error."""


async def followed(
    *steps: Step, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[int], list[str], list[str]]:
    """Indexes asked with, values folded, and errors noted, until the steps are used up."""
    asked: list[int] = []
    folded: list[str] = []
    noted: list[str] = []
    left = list(steps)
    done = asyncio.Event()

    async def query(index: int) -> Answer[str]:
        if not left:
            done.set()
            await asyncio.sleep(3600)
        asked.append(index)
        step = left.pop(0)
        if isinstance(step, ConsulError):
            raise step
        return Answer(step[1], step[0])

    async def changed(answer: Answer[str]) -> None:
        folded.append(answer.value)

    def failed(error: ConsulError | None, age: float) -> None:
        noted.append(str(error) if error else "")

    monkeypatch.setattr(watch, "FIRST_BACKOFF", 0.001)
    following = asyncio.ensure_future(watch.follow(query, changed, failed))
    await asyncio.wait_for(done.wait(), 5)
    following.cancel()
    return asked, folded, noted


async def test_blocks_with_the_last_index(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, folded, _ = await followed((7, "a"), (9, "b"), monkeypatch=monkeypatch)
    assert (asked, folded) == ([0, 7], ["a", "b"])


async def test_return_without_change_is_no_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wait that ran out answers with the same index."""
    asked, folded, _ = await followed((7, "a"), (7, "a"), (8, "b"), monkeypatch=monkeypatch)
    assert (asked, folded) == ([0, 7, 7], ["a", "b"])


async def test_index_that_goes_back_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """A restored or replaced server counts from the start."""
    asked, folded, _ = await followed((7, "a"), (3, "b"), (3, "c"), monkeypatch=monkeypatch)
    assert asked == [0, 7, 0]
    assert folded == ["a", "b", "c"]


async def test_never_asks_with_index_zero_to_block(monkeypatch: pytest.MonkeyPatch) -> None:
    """Index 0 would return at once for ever."""
    asked, _, _ = await followed((0, "a"), (1, "b"), monkeypatch=monkeypatch)
    assert asked == [0, 1]


async def test_error_is_noted_and_the_answer_after_it_taken_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lost = ConsulError("lost")
    asked, folded, noted = await followed((7, "a"), lost, lost, (7, "a"), monkeypatch=monkeypatch)
    assert asked == [0, 7, 0, 0]
    assert folded == ["a", "a"]
    assert noted == ["", "lost", "lost", ""]


async def test_server_that_always_returns_at_once_is_held_to_a_rate(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slept: list[float] = []
    real: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        await real(3600 if seconds > 1000 else 0)

    monkeypatch.setattr(watch.asyncio, "sleep", sleep)
    steps = [(n, "x") for n in range(1, watch.BURST + 4)]
    await followed(*steps, monkeypatch=monkeypatch)
    pauses = [seconds for seconds in slept if seconds < 1000]
    assert len(pauses) == 3
    assert pauses[-1] == pytest.approx(3 / watch.RATE, abs=0.1)


async def test_answer_from_memory_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by blocking: an agent whose servers are back would keep that question for minutes."""
    monkeypatch.setattr(watch, "AGED_PAUSE", 0.001)
    ages = [90.0, 96.0, 0.0]
    asked: list[int] = []
    told: list[float] = []
    done = asyncio.Event()

    async def query(index: int) -> Answer[str]:
        asked.append(index)
        if not ages:
            done.set()
            await asyncio.sleep(3600)
        return Answer("a", 7, age=ages.pop(0))

    async def changed(answer: Answer[str]) -> None:
        pass

    following = asyncio.ensure_future(
        watch.follow(query, changed, lambda error, age: told.append(age))
    )
    await asyncio.wait_for(done.wait(), 5)
    following.cancel()
    assert asked == [0, 0, 0, 7]
    assert told == [90.0, 96.0, 0.0]
