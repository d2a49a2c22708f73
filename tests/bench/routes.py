"""The fifty routes of the service that is called, the same for everyone who routes.

Twenty by exact path, twenty by prefix, five by regex, three by header field, two by method and
query; mixed, as a table that grew is. What the benchmark asks for is taken by the 46th to the 48th,
with every route before them passed over.
"""

from __future__ import annotations

from typing import Final

from fleetmesh.model.traffic import FieldMatch, Match, QueryMatch, Route

ELSEWHERE: Final = 10
"""So many services that are not `api` are led to."""

_ASKED: Final = ("/small/", "/4k/", "/64k/")
_PAGES: Final = ("cart", "checkout", "login", "logout", "health", "version", "about", "terms",
                 "search", "basket")  # fmt: skip
_PARTS: Final = ("orders", "users", "images", "static", "reports", "invoices", "payments", "stock",
                 "offers", "reviews", "admin", "partners", "exports", "imports", "audit", "events",
                 "hooks")  # fmt: skip
_REGEXES: Final = (
    "/v[0-9]+/catalogue/.*",
    "/users/[0-9]+/orders(/.*)?",
    r"/.*\.(css|js|png)",
    "/(de|en|fr)/help/[a-z-]+",
    "/orders/[0-9a-f]{8}-[0-9a-f]{4}",
)
_FIELDS: Final = (
    FieldMatch("x-canary", exact="yes"),
    FieldMatch("x-tenant", prefix="internal-"),
    FieldMatch("user-agent", regex=".*(Googlebot|bingbot).*"),
)


def routes() -> list[Route]:
    exact = [Match(path_exact=f"/{page}{end}") for page in _PAGES for end in ("", "/status")]
    prefixes = [Match(path_prefix=f"/{part}/") for part in _PARTS]
    regexes = [Match(path_regex=regex) for regex in _REGEXES]
    fields = [Match(headers=(field,)) for field in _FIELDS]
    methods = [
        Match(query=(QueryMatch("dry-run", present=True),), methods=("DELETE",)),
        Match(query=(QueryMatch("mode", exact="bulk"),), methods=("PUT", "PATCH")),
    ]
    matches: list[Match] = []
    for part in range(5):
        matches += exact[part * 4 : part * 4 + 4]
        matches += [regexes[part], *fields[part : part + 1], *methods[part : part + 1]]
        matches += prefixes[part * 3 : part * 3 + 3]
    matches += [Match(path_prefix=prefix) for prefix in _ASKED]
    matches += prefixes[15:]
    return [Route(f"route{number}", match) for number, match in enumerate(matches)]


def service(number: int) -> str:
    """Where the route of that number leads: what is asked for goes to `api`."""
    match = routes()[number].match
    return "api" if match.path_prefix in _ASKED else f"other{number % ELSEWHERE}"
