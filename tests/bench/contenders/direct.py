"""No proxy at all: the floor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.bench.site import Site


@contextmanager
def start(site: Site) -> Iterator[tuple[dict[str, int], list[int]]]:
    yield dict(site.application), []
