"""Rates: how many requests pass, of whom, and what the others are told."""

from __future__ import annotations

from fleetmesh.core.buckets import Buckets, alone
from fleetmesh.core.ratelimit import RateLimiter
from fleetmesh.core.request import RequestHead
from fleetmesh.model.traffic import Match, RateLimit


def request(target: bytes = b"/") -> RequestHead:
    head = RequestHead()
    head.target, head.method = target, b"GET"
    return head


def passed(limiter: RateLimiter, caller: str, target: bytes, now: float, tries: int = 100) -> int:
    return sum(limiter.admits(caller, request(target), now) for _ in range(tries))


def limiter(
    *limits: RateLimit, buckets: Buckets | None = None, service: str = "api"
) -> RateLimiter:
    return RateLimiter(service, limits, buckets or alone())


def test_a_burst_and_then_the_rate() -> None:
    rates = limiter(RateLimit("instance", 10.0, 5))
    assert passed(rates, "web", b"/", 100.0, 6) == 5
    assert b"Retry-After: 1\r\n" in rates.lines
    each = (passed(rates, "web", b"/", 100.0 + at / 1000, 1) for at in range(1, 10_001))
    assert sum(each) in (99, 100)
    assert passed(rates, "web", b"/", 200.0, 10) == 5, "what is not used is not saved up"


def test_the_first_limit_that_is_for_a_request_counts() -> None:
    search = RateLimit("search", 2.0, 2, Match(path_prefix="/search"))
    rates = limiter(search, RateLimit("instance", 7.0))
    assert passed(rates, "web", b"/search?q=1", 1.0) == 2
    assert passed(rates, "web", b"/other", 1.0) == 7
    assert passed(rates, "shop", b"/other", 1.0) == 0


def test_each_caller_has_its_own_and_both_kinds_must_allow() -> None:
    """A request that one of them does not let through is not counted by the other."""
    rates = limiter(RateLimit("instance", 10.0), RateLimit("caller", 4.0, per_caller=True))
    assert [passed(rates, caller, b"/", 1.0) for caller in ("a", "b", "c")] == [4, 4, 2]
    assert passed(rates, "c", b"/", 1.0) == 0
    assert passed(rates, "c", b"/", 1.2) == 2


def test_workers_share_what_an_instance_may_do() -> None:
    """Whichever of them a caller's connections are with; another service has its own."""
    buckets = alone()
    limits = (RateLimit("instance", 8.0, 6), RateLimit("caller", 1.0, 4, per_caller=True))
    workers = [limiter(*limits, buckets=buckets) for _ in range(4)]
    assert [passed(one, "web", b"/", 1.0) for one in workers] == [4, 0, 0, 0]
    assert [passed(one, "shop", b"/", 1.0, 1) for one in workers] == [1, 1, 0, 0]
    assert passed(limiter(*limits, buckets=buckets, service="cart"), "web", b"/", 1.0) == 4
    other = (RateLimit("instance", 9.0, 6),)
    assert passed(limiter(*other, buckets=buckets), "web", b"/", 1.0) == 6, (
        "another limit begins anew"
    )


def test_what_no_limit_is_for_passes() -> None:
    rates = limiter(RateLimit("a", 1.0, 1, Match(path_exact="/a")))
    assert passed(rates, "web", b"/b", 1.0) == 100


def test_an_answer_says_which_limit_and_when_to_come_again() -> None:
    """The name is quoted as structured fields are."""
    rates = limiter(RateLimit('say "a\\b"\r\n', 0.5, 10))
    assert passed(rates, "web", b"/", 1.0) == 10
    assert rates.lines == (
        b"Retry-After: 2\r\n"
        b'RateLimit-Policy: "say \\"a\\\\b\\"";q=10;w=20\r\n'
        b'RateLimit: "say \\"a\\\\b\\"";r=0;t=2\r\n'
    )
