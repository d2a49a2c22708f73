"""service-splitter: percentages of requests to services or subsets."""

from __future__ import annotations

from fleetmesh.entries.shape import Entry, EntryKind, Headers, Shape
from fleetmesh.settings.decode import Reader, joined


class Split(Shape, frozen=True):
    """`weight` is a percentage in steps of 0.01."""

    weight: float = 0.0
    service: str = ""
    service_subset: str = ""
    namespace: str = ""
    partition: str = ""
    request_headers: Headers = Headers()
    response_headers: Headers = Headers()


class ServiceSplitter(Entry, frozen=True, kw_only=True):
    splits: tuple[Split, ...]


def check(entry: ServiceSplitter, reader: Reader, key: str) -> None:
    place = joined(key, "Splits")
    if not entry.splits:
        reader.problem(place, "is empty", "Add a split with Weight: 100")
        return
    seen: dict[tuple[str, str], int] = {}
    hundredths = 0
    for index, split in enumerate(entry.splits):
        here = f"{place}[{index}]"
        scaled = round(split.weight * 100)
        hundredths += scaled
        if not 0 <= split.weight <= 100:
            reader.problem(joined(here, "Weight"), f"must be 0 to 100, not {split.weight:g}")
        elif abs(scaled - split.weight * 100) > 1e-6:
            reader.problem(joined(here, "Weight"), f"{split.weight:g} is finer than 0.01")
        to = (split.service or entry.name, split.service_subset)
        if to in seen:
            reader.problem(here, f"splits to the same as Splits[{seen[to]}]", "Join the two")
        seen[to] = index
    if hundredths != 10000:
        reader.problem(
            place, f"has weights that sum to {hundredths / 100:g}, not 100", "Make the sum 100"
        )


KIND = EntryKind("service-splitter", ServiceSplitter, check)
