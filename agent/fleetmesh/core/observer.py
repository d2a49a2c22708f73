"""Who is told what became of the requests along a lane."""

from __future__ import annotations


class Observer:
    """Times are seconds: `now` of one monotonic clock, `seconds` since the request was sent."""

    __slots__ = ()

    def answered(self, status: int, seconds: float, now: float) -> None:
        """The head of an answer came; `seconds` is 0.0 where they are not known."""
        raise NotImplementedError

    def shed(self, seconds: float, now: float) -> None:
        """It is well, and has more to do than it can: it said so, and did nothing."""
        raise NotImplementedError

    def unanswered(self, now: float) -> None:
        """It could not be reached, ended the connection before an answer, or let the time pass."""
        raise NotImplementedError

    def waited(self, seconds: float, now: float) -> None:
        """An answer would have taken longer than that: its caller did not wait, or it failed."""
        raise NotImplementedError

    def broke_off(self) -> None:
        """An answer that had begun did not come to its end."""
        raise NotImplementedError

    def silent(self) -> bool:
        """It is left out, for it does not answer."""
        return False

    def given_up(self) -> bool:
        """It is left out, and its peers do without it: what it answered badly they may answer."""
        return False

    def reached(self, now: float) -> None:
        """A connection that nothing more is known of was opened."""
        raise NotImplementedError
