"""Consul's config-entry kinds. A kind exists because it is listed here."""

from __future__ import annotations

from fleetmesh.entries import (
    exported_services,
    ingress_gateway,
    jwt_provider,
    mesh,
    proxy_defaults,
    service_defaults,
    service_intentions,
    service_resolver,
    service_router,
    service_splitter,
    terminating_gateway,
)
from fleetmesh.entries.shape import EntryKind

KINDS: dict[str, EntryKind] = {
    module.KIND.name: module.KIND
    for module in (
        proxy_defaults,
        service_defaults,
        service_resolver,
        service_splitter,
        service_router,
        service_intentions,
        ingress_gateway,
        terminating_gateway,
        mesh,
        exported_services,
        jwt_provider,
    )
}
