"""service-router: HTTP routes by path, header, query and method; the first match wins."""

from __future__ import annotations

from fleetmesh.entries.shape import Duration, Entry, EntryKind, Headers, Shape, Text, at_most_one
from fleetmesh.settings.decode import Reader, joined

PATHS = ("path_exact", "path_prefix", "path_regex")


class HeaderMatch(Shape, frozen=True):
    name: Text
    present: bool = False
    exact: str = ""
    prefix: str = ""
    suffix: str = ""
    contains: str = ""
    regex: str = ""
    invert: bool = False
    ignore_case: bool = False


class QueryMatch(Shape, frozen=True):
    name: Text
    present: bool = False
    exact: str = ""
    regex: str = ""


class HttpMatch(Shape, frozen=True):
    path_exact: str = ""
    path_prefix: str = ""
    path_regex: str = ""
    case_insensitive: bool = False
    header: tuple[HeaderMatch, ...] = ()
    query_param: tuple[QueryMatch, ...] = ()
    methods: tuple[Text, ...] = ()


class RouteMatch(Shape, frozen=True):
    http: HttpMatch = HttpMatch()


class RouteDestination(Shape, frozen=True):
    service: str = ""
    service_subset: str = ""
    namespace: str = ""
    partition: str = ""
    prefix_rewrite: str = ""
    request_timeout: Duration = ""
    idle_timeout: Duration = ""
    num_retries: int = 0
    retry_on_connect_failure: bool = False
    retry_on: tuple[Text, ...] = ()
    retry_on_status_codes: tuple[int, ...] = ()
    request_headers: Headers = Headers()
    response_headers: Headers = Headers()


class Route(Shape, frozen=True):
    match: RouteMatch = RouteMatch()
    destination: RouteDestination = RouteDestination()


class ServiceRouter(Entry, frozen=True):
    routes: tuple[Route, ...] = ()


def check_match(match: HttpMatch, reader: Reader, key: str) -> bool:
    """Whether a path is matched; routes and intentions' permissions match alike."""
    by_path = at_most_one(match, PATHS, reader, key)
    for name in ("path_exact", "path_prefix"):
        value = getattr(match, name)
        if value and not value.startswith("/"):
            spelled = "PathExact" if name == "path_exact" else "PathPrefix"
            reader.problem(joined(key, spelled), f'"{value}" does not begin with /', "Begin it so")
    for index, header in enumerate(match.header):
        kinds = ("present", "exact", "prefix", "suffix", "contains", "regex")
        place = f"{joined(key, 'Header')}[{index}]"
        if not at_most_one(header, kinds, reader, place):
            reader.problem(place, "matches nothing", "Add Present, Exact, Prefix, Suffix or Regex")
    for index, param in enumerate(match.query_param):
        place = f"{joined(key, 'QueryParam')}[{index}]"
        if not at_most_one(param, ("present", "exact", "regex"), reader, place):
            reader.problem(place, "matches nothing", "Add Present, Exact or Regex")
    seen: set[str] = set()
    for index, method in enumerate(match.methods):
        if method.upper() in seen:
            reader.problem(f"{joined(key, 'Methods')}[{index}]", f"repeats {method}", "Remove it")
        seen.add(method.upper())
    return by_path


def check(entry: ServiceRouter, reader: Reader, key: str) -> None:
    for index, route in enumerate(entry.routes):
        place = f"{joined(key, 'Routes')}[{index}]"
        by_path = check_match(route.match.http, reader, joined(place, "Match.HTTP"))
        destination = route.destination
        if destination.prefix_rewrite and not by_path:
            reader.problem(
                joined(place, "Destination.PrefixRewrite"),
                "needs a match by path",
                "Add PathPrefix or PathExact to Match.HTTP",
            )
        if destination.num_retries < 0:
            reader.problem(joined(place, "Destination.NumRetries"), "is negative")
        for at, code in enumerate(destination.retry_on_status_codes):
            if not 100 <= code <= 599:
                reader.problem(
                    f"{place}.Destination.RetryOnStatusCodes[{at}]", f"{code} is no HTTP status"
                )


KIND = EntryKind("service-router", ServiceRouter, check)
