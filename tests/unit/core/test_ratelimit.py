"""Rates: how many requests pass, of whom, and what the others are told."""

from __future__ import annotations

from fleetmesh.core.ratelimit import Bucket, RateLimiter
from fleetmesh.core.request import RequestHead
from fleetmesh.model.traffic import Match, RateLimit


def request(target: bytes = b"/") -> RequestHead:
    head = RequestHead()
    head.target, head.method = target, b"GET"
    return head


def passed(limiter: RateLimiter, caller: str, target: bytes, now: float, tries: int = 100) -> int:
    return sum(limiter.admits(caller, request(target), now) for _ in range(tries))


def test_a_burst_and_then_the_rate() -> None:
    bucket = Bucket(10.0, 5)

    def take(now: float) -> bool:
        waits = bucket.wait(now)
        if not waits:
            bucket.take(now)
        return not waits

    assert [take(100.0) for _ in range(6)] == [True] * 5 + [False]
    assert 0.09 < bucket.wait(100.0) <= 0.1001
    assert sum(take(100.0 + at / 1000) for at in range(1, 10_001)) in (99, 100)
    assert sum(take(200.0) for _ in range(10)) == 5, "what is not used is not saved up"


def test_the_first_limit_that_is_for_a_request_counts() -> None:
    limiter = RateLimiter(
        (
            RateLimit("search", 2.0, 2, Match(path_prefix="/search")),
            RateLimit("instance", 7.0),
        ),
        1,
    )
    assert passed(limiter, "web", b"/search?q=1", 1.0) == 2
    assert passed(limiter, "web", b"/other", 1.0) == 7
    assert passed(limiter, "shop", b"/other", 1.0) == 0


def test_each_caller_has_its_own_and_both_kinds_must_allow() -> None:
    """A request that one of them does not let through is not counted by the other."""
    limiter = RateLimiter(
        (RateLimit("instance", 10.0), RateLimit("caller", 4.0, per_caller=True)), 1
    )
    assert [passed(limiter, caller, b"/", 1.0) for caller in ("a", "b", "c")] == [4, 4, 2]
    assert passed(limiter, "c", b"/", 1.0) == 0
    assert passed(limiter, "c", b"/", 1.2) == 2


def test_workers_share_what_an_instance_may_do() -> None:
    limits = (RateLimit("instance", 8.0, 8),)
    assert passed(RateLimiter(limits, 4), "web", b"/", 1.0) == 2
    assert passed(RateLimiter((RateLimit("instance", 1.0),), 4), "web", b"/", 1.0) == 1


def test_what_no_limit_is_for_passes() -> None:
    limiter = RateLimiter((RateLimit("a", 1.0, 1, Match(path_exact="/a")),), 1)
    assert passed(limiter, "web", b"/b", 1.0) == 100


def test_an_answer_says_which_limit_and_when_to_come_again() -> None:
    """The instance's numbers, not a worker's; the name is quoted as structured fields are."""
    limiter = RateLimiter((RateLimit('say "a\\b"\r\n', 0.5, 10),), 2)
    assert passed(limiter, "web", b"/", 1.0) == 5
    assert limiter.lines == (
        b"Retry-After: 4\r\n"
        b'RateLimit-Policy: "say \\"a\\\\b\\"";q=10;w=20\r\n'
        b'RateLimit: "say \\"a\\\\b\\"";r=0;t=4\r\n'
    )
