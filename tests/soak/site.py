"""Two `fleetmesh dataplane`, web's and api's, and snapshots that change while they serve."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from tests.bench.running import family, free_ports, running, wait_for
from tests.support.ca import Authority
from tests.support.worker import deny, local_service, snapshot, upstream

from fleetmesh.edge.admin import without_keys
from fleetmesh.model.identity import Action
from fleetmesh.model.intention import Intention
from fleetmesh.model.traffic import Protocol, Upstream
from fleetmesh.process.snapshot_file import exported

SERVICES = {"api": Protocol.HTTP, "echo": Protocol.TCP}
CALLERS = ("web", "eve")
"""eve's calls are denied."""


@dataclass
class Site:
    """`entry` are the ports where web calls a service, or eve (`eve`) calls api. `applications` are
    two ports by service that lead to the same application: changes alternate between them."""

    directory: Path
    applications: dict[str, tuple[int, int]]
    entry: dict[str, int]
    sidecar: dict[str, int]
    authority: Authority
    roots: tuple[int, ...] = ()
    changes: int = 0

    @property
    def workers(self) -> list[int]:
        """Their pids; the controllers are `roots`."""
        return [pid for pid in family(list(self.roots)) if pid not in self.roots]

    def files(self) -> tuple[Path, Path]:
        return self.directory / "web.json", self.directory / "api.json"

    def change(self) -> None:
        """Publish other endpoints, other applications' ports and other intentions: connections
        that wait in a pool are closed, those at work go on."""
        self.changes += 1
        self.write()
        for pid in self.roots:
            os.kill(pid, signal.SIGHUP)

    def write(self) -> None:
        turn = self.changes % 2
        sources = [f"source{number}" for number in range(10 + turn)]
        calling = tuple(self._upstream(name, turn) for name in SERVICES)
        self._dump(
            self.files()[0],
            snapshot(
                self.authority,
                tuple(local_service(name, 1, None) for name in CALLERS),
                calling,
            ),
            CALLERS,
            [
                *(_outbound("web", name, self.entry[name]) for name in SERVICES),
                _outbound("eve", "api", self.entry["eve"]),
            ],
        )
        called = tuple(
            local_service(
                name,
                self.applications[name][turn],
                None,
                protocol=protocol,
                intentions=(
                    deny("eve", name),
                    *(Intention(source, name, Action.ALLOW, 9) for source in (*sources, "web")),
                ),
            )
            for name, protocol in SERVICES.items()
        )
        self._dump(
            self.files()[1],
            snapshot(self.authority, called, default_allow=False),
            tuple(SERVICES),
            [{"kind": "inbound", "service": n, "port": p} for n, p in self.sidecar.items()],
        )

    def _upstream(self, name: str, turn: int) -> Upstream:
        made = upstream(name, self.sidecar[name], protocol=SERVICES[name])
        (endpoint,) = made.target.endpoints
        renamed = msgspec.structs.replace(endpoint, id=f"node{turn}/{name}")
        target = msgspec.structs.replace(made.target, endpoints=(renamed,))
        return msgspec.structs.replace(made, target=target)

    def _dump(self, file: Path, what: Any, names: tuple[str, ...], listeners: list[Any]) -> None:
        document = msgspec.to_builtins(exported(without_keys(what)))
        document["certificates"] = {n: {"chain": f"{n}.pem", "key": f"{n}.key"} for n in names}
        document["listeners"] = listeners
        fresh = file.with_suffix(".new")
        fresh.write_text(json.dumps(document))
        fresh.replace(file)


def _outbound(service: str, to: str, port: int) -> dict[str, Any]:
    return {"kind": "outbound", "service": service, "upstream": to, "port": port}


@contextmanager
def site(
    directory: Path,
    applications: dict[str, tuple[int, int]],
    workers: int = 1,
    **variables: str,
) -> Iterator[Site]:
    """Both run and are ready. `variables` are added to their environment. Their logs are
    `directory`/web.log and api.log."""
    authority = Authority()
    for name in (*CALLERS, *SERVICES):
        leaf = authority.leaf(name)
        (directory / f"{name}.pem").write_text(leaf.chain)
        (directory / f"{name}.key").write_text(leaf.key or "")
    ports = free_ports(5)
    entry = dict(zip(("api", "echo", "eve"), ports, strict=False))
    made = Site(
        directory, applications, entry, dict(zip(SERVICES, ports[3:], strict=True)), authority
    )
    made.write()
    with ExitStack() as stack:
        program = str(Path(sys.executable).with_name("fleetmesh"))
        roots = []
        for file in made.files():
            command = [program, "dataplane", "--snapshot", str(file), "--workers", str(workers)]
            roots.append(stack.enter_context(running(file.stem, command, directory, **variables)))
        for file in made.files():
            log = file.with_suffix(".log")
            wait_for(f"fleetmesh {file.stem}", lambda log=log: "ready\n" in log.read_text())
        made.roots = tuple(roots)
        yield made
