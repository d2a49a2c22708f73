"""A real Consul 1.8.7 over HTTPS with client certificates, and over its Unix socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.support.agent import agent, inside
from tests.support.consul import ROOT, ConsulServer, consul_binary, free_ports, running_consul
from tests.support.netns import needs_root, netns

from fleetmesh.edge import consul_link
from fleetmesh.edge.consul import ConsulClient
from fleetmesh.edge.consul_http import ConsulError
from fleetmesh.edge.consul_probe import ConsulUnreachableError, probe
from fleetmesh.settings import ConsulSettings

pytestmark = [
    pytest.mark.consul,
    needs_root,
]


class Served(NamedTuple):
    """`home` holds Consul's own CA and certificates, and its socket."""

    server: ConsulServer
    home: Path
    https: str

    @property
    def unix(self) -> str:
        return f"unix://{self.home}/consul.sock"

    def files(self, **changed: str) -> dict[str, str]:
        own = {
            "ca_file": "consul-agent-ca.pem",
            "cert_file": "dc1-client-consul-0.pem",
            "key_file": "dc1-client-consul-0-key.pem",
        }
        return {key: str(self.home / name) for key, name in (own | changed).items() if name}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("tls")
    for command in (["ca", "create"], ["cert", "create", "-server"], ["cert", "create", "-client"]):
        subprocess.run(
            [consul_binary(), "tls", *command], cwd=home, check=True, capture_output=True
        )
    subprocess.run(
        [consul_binary(), "tls", "ca", "create", "-domain", "other"],
        cwd=home,
        check=True,
        capture_output=True,
    )
    with netns("link") as space, inside(space.name):
        port = free_ports(1)[0]
        config = {
            "ports": {"https": port},
            "addresses": {"http": f"127.0.0.1 unix://{home}/consul.sock"},
            "ca_file": str(home / "consul-agent-ca.pem"),
            "cert_file": str(home / "dc1-server-consul-0.pem"),
            "key_file": str(home / "dc1-server-consul-0-key.pem"),
            "verify_incoming_https": True,
        }
        with running_consul(tmp_path_factory.mktemp("consul"), config) as server:
            yield Served(server, home, f"https://127.0.0.1:{port}")


def ask(settings: ConsulSettings) -> int:
    """How many services Consul knows, asked twice: plainly and with an index."""

    async def asked() -> int:
        client = ConsulClient(settings.address, tls=consul_link.context(settings))
        try:
            first = await client.catalog()
            await client.roots(index=1)
            return len(first.value)
        finally:
            await client.close()

    return asyncio.run(asked())


def test_https_with_a_client_certificate(served: Served) -> None:
    settings = ConsulSettings(address=served.https, **served.files())
    assert ask(settings) >= 1
    found = probe(served.https, None, consul_link.context(settings))
    assert found.version == "1.8.7"


def test_unix_socket(served: Served) -> None:
    assert ask(ConsulSettings(address=served.unix)) >= 1
    assert probe(served.unix, None).version == "1.8.7"


@pytest.mark.parametrize(
    ("changed", "remedy"),
    [
        ({"ca_file": "other-agent-ca.pem"}, "name its CAs in consul.ca_file"),
        ({"ca_file": ""}, "name its CAs in consul.ca_file"),
        ({"cert_file": "", "key_file": ""}, "consul.cert_file"),
    ],
)
def test_what_tls_refuses_has_a_remedy(
    served: Served, changed: dict[str, str], remedy: str
) -> None:
    settings = ConsulSettings(address=served.https, **served.files(**changed))
    with pytest.raises(ConsulError, match=remedy):
        ask(settings)
    with pytest.raises(ConsulUnreachableError, match=remedy):
        probe(served.https, None, consul_link.context(settings))


def test_no_socket_there(served: Served, tmp_path: Path) -> None:
    with pytest.raises(ConsulError, match=f"{tmp_path}/none"):
        ask(ConsulSettings(address=f"unix://{tmp_path}/none"))


@pytest.mark.parametrize("way", ["https", "unix"])
def test_a_whole_agent(served: Served, tmp_path: Path, way: str) -> None:
    """Registers, has its certificate, and takes replaced files over by a reload."""
    consul = {"address": getattr(served, way), **(served.files() if way == "https" else {})}
    with agent(tmp_path / "agent", consul=consul) as mesh:
        mesh.declare("web", 8080, user="daemon")
        mesh.start()
        mesh.eventually(lambda: mesh.service("web")["registered"], "the registration")
        status = mesh.status()
        assert status["consul"]["error"] == ""
        assert status["consul"]["address"] == consul["address"]
        assert mesh.service("web")["identity"]["workers"] == 1
        assert mesh.ask("POST", "/v1/reload")[0] == 200


def test_unfit_files_refuse_the_start_and_are_named(served: Served, tmp_path: Path) -> None:
    consul = {"address": served.https, **served.files(ca_file="nowhere.pem")}
    with agent(tmp_path / "agent", consul=consul) as mesh:
        mesh.start(ready=False)
        assert mesh.process is not None
        assert mesh.process.wait(15) == 2
        mesh.process = None
        said = mesh.log()
        assert f"agent.yaml: consul.ca_file: {served.home}/nowhere.pem cannot be read" in said


@pytest.mark.parametrize("way", ["https", "unix", "http"])
def test_uninstalling_takes_out_what_is_ours(served: Served, way: str) -> None:
    """By every way that the agent may have registered it; what others registered stays."""
    for service_id, meta in (("mine", {"managed-by": "fleetmesh"}), ("theirs", {})):
        body = {"ID": service_id, "Name": "web", "Port": 80, "Meta": meta}
        served.server.put("/v1/agent/service/register", body)
    address = {"https": served.https, "unix": served.unix, "http": served.server.address}[way]
    files = dict.fromkeys(("ca_file", "cert_file", "key_file"), "")
    asked = {"address": address, "token": "", **files, **(served.files() if way == "https" else {})}

    def removed(check: bool) -> subprocess.CompletedProcess[str]:
        text = json.dumps({**asked, "check": check})
        command = [sys.executable, str(ROOT / "roles/fleetmesh_agent/files/registrations.py")]
        return subprocess.run(command, input=text, capture_output=True, text=True, check=False)

    found = json.loads(removed(True).stdout)["found"]
    assert ("mine" in found, "theirs" in found) == (True, False)
    assert "mine" in served.server.get("/v1/agent/services")
    assert json.loads(removed(False).stdout) == {"found": found, "left": []}
    assert set(served.server.get("/v1/agent/services")) == {"theirs"}
    asked["address"] = "http://127.0.0.1:1"
    assert "Consul cannot be asked at http://127.0.0.1:1" in removed(False).stderr
