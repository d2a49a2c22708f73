"""The load of a run: one caller on web1, and all that it has accounted for so far."""

from __future__ import annotations

import threading
import time

from tests.chaos.measure import Request, Span
from tests.support.fleet import Fleet
from tests.support.hosts import Session

API = "http://api.mesh:8000/"
THROUGH = API + "?call=http://orders.mesh:7002/"
"""Answered only when orders has answered api."""
SETTLE = 1.0
"""Seconds for requests that were answered to have been told of."""


class Load:
    """`rate` requests a second from web to api, each of which has orders asked."""

    def __init__(self, fleet: Fleet, rate: float, seconds: float) -> None:
        self.rate = rate
        self.requests: list[Request] = []
        self.sent = 0
        self._session: Session = fleet["web1"].start(
            "paced.py", THROUGH, str(rate), str(seconds), user="web", own_connection=True
        )
        self._session.until("open")
        self._lost = ""
        self._done = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        while True:
            try:
                event = self._session.next(timeout=60)
            except AssertionError as error:
                self._lost = str(error)
                self._done.set()
                return
            # Lines of a long run are accounted for and forgotten.
            self._session.lines.clear()
            if event["event"] == "done":
                self.sent = event["sent"]
                self._done.set()
                return
            self.requests += [Request(*row) for row in event["rows"]]

    def span(self, start: float, end: float | None = None) -> Span:
        """What was due from `start` until `end`, or until what is told of by now."""
        return Span.of(tuple(self.requests), start, time.time() - SETTLE if end is None else end)

    def check(self) -> None:
        """Raises AssertionError when the caller is gone."""
        if self._lost:
            raise AssertionError(f"the load ended: {self._lost}")

    def finish(self) -> int:
        """End the load; how many requests it sent, each of which is accounted for."""
        self._session.close_input()
        self._done.wait(60)
        self.check()
        if len(self.requests) != self.sent:
            raise AssertionError(f"{self.sent} requests sent, {len(self.requests)} accounted for")
        return self.sent
