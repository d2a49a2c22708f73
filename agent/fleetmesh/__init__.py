"""fleetmesh: a service mesh for fleets of plain VMs.

The vocabulary, which every module keeps to:

- A *service* is what Consul calls one; a *local service* is declared on this host and runs under
  its own user. A *sidecar* is its `connect-proxy` registration: the port where peers dial it.
- *Downstream* is who calls us, *upstream* whom we call. *Outbound* traffic leaves a local
  service for an upstream; *inbound* traffic arrives at a local service's sidecar port; *plain*
  traffic arrives at the application's own port without the mesh.
- An *endpoint* is one instance of an upstream; a *target* is the set of endpoints (service,
  subset, datacenter) that a discovery chain ends in.
- An *identity* is a SPIFFE ID with the *leaf* certificate that proves it; an *intention* says
  which source may call which destination.
- The *controller* decides (watches Consul, compiles, owns nftables); *workers* carry traffic.
- A *snapshot* is the one immutable state that the controller publishes and workers serve,
  numbered by its *generation*; a *table* is a snapshot linked for lookups in a worker.
- A *refusal* is a request that the mesh ends, from a closed list of reasons; a *problem* is
  something wrong in configuration, with the path that it stands at.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("fleetmesh")
except PackageNotFoundError:  # a source tree that nobody installed
    __version__ = "0.0.0"
