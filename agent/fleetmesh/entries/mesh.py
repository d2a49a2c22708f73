"""mesh: settings of the whole mesh."""

from __future__ import annotations

from typing import Any

from fleetmesh.entries.shape import Entry, EntryKind, Shape, no_rules


class MeshTransparentProxy(Shape, frozen=True):
    mesh_destinations_only: bool = False


class Mesh(Entry, frozen=True):
    """Consul names the one entry `mesh` itself."""

    name: str = "mesh"
    transparent_proxy: MeshTransparentProxy = MeshTransparentProxy()
    allow_enabling_permissive_mutual_tls: bool = False
    tls: dict[str, Any] = {}
    http: dict[str, Any] = {}
    peering: dict[str, Any] = {}
    validate_clusters: bool = False


KIND = EntryKind("mesh", Mesh, no_rules)
