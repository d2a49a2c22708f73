"""A whole lab that is up: its hosts, make and playbooks, Consul's intentions."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from tests.support.hosts import LABS, CommandError, Host, Session

ROOT = Path(__file__).resolve().parents[2]
MANAGEMENT_TOKEN = "/etc/fleetmesh-lab/token"
"""Where the Consul server of a lab with ACLs has it."""
AGENT_TOKEN = "/etc/fleetmesh/consul.token"
_INTENTION_KEYS = ("SourceName", "DestinationName", "Action", "Description", "Meta")


def with_token(file: str) -> str:
    """Options of curl in a shell: the token in `file`, none where there is no such file, for curl
    leaves a header without a value out."""
    return f'-H "X-Consul-Token: $(cat {file} 2>/dev/null)"'


@dataclass
class Fleet:
    """A lab that is up."""

    lab: str
    sessions: list[Session] = field(default_factory=list)

    @cached_property
    def hosts(self) -> dict[str, Host]:
        spec = json.loads((LABS / self.lab / "spec.json").read_text())
        return {
            one["name"]: Host(
                self.lab,
                self.sessions,
                one["name"],
                one["address"],
                one["address6"],
                {user["name"]: user["uid"] for user in one["users"]},
            )
            for one in spec["hosts"]
        }

    def __getitem__(self, name: str) -> Host:
        return self.hosts[name]

    @property
    def mesh(self) -> list[Host]:
        """The hosts that run the agent."""
        return [self[name] for name in ("web1", "api1", "api2", "shop1")]

    def netns(self, name: str) -> str:
        return f"fm-{self.lab}-{name}"

    def make(self, *targets: str, log: Path, timeout: float = 900.0) -> str:
        """Run make for this lab, its output kept in `log`. Raises CommandError with its end."""
        log.parent.mkdir(parents=True, exist_ok=True)
        environment = {
            name: value
            for name, value in os.environ.items()
            if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
        }
        with log.open("w") as stream:
            done = subprocess.run(
                ["make", "--no-print-directory", *targets, f"LAB={self.lab}"],
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,  # Ansible refuses one that does not block
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
        text = log.read_text()
        if done.returncode != 0:
            raise CommandError(f"make {' '.join(targets)} failed, see {log}:\n{text[-6000:]}")
        return text

    def playbook(self, name: str, *options: str, log: Path, timeout: float = 600.0) -> str:
        """Run a playbook of this repository on this lab, with `options` after the lab's own
        inventory. Raises CommandError if it fails."""
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [
            str(ROOT / ".venv/bin/ansible-playbook"),
            *("-i", "inventories/lab", f"playbooks/{name}.yml", *options),
        ]
        with log.open("w") as stream:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env=os.environ
                | {
                    "LAB": self.lab,
                    "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                    "ANSIBLE_FORCE_COLOR": "0",
                },
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
        text = log.read_text()
        if done.returncode != 0:
            raise CommandError(f"{name}.yml failed, see {log}:\n{text[-6000:]}")
        return text

    def machine(self, verb: str, *hosts: str) -> None:
        """A verb of the lab itself: `power-cut`, `start`, `stop`, `wait`."""
        done = subprocess.run(
            ["python3", str(ROOT / "roles/lab/files/fleetlab"), verb, "--lab", self.lab, *hosts],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if done.returncode != 0:
            raise CommandError(f"fleetlab {verb} {hosts}: {done.stderr}")

    def consul(self, method: str, path: str, body: object = None) -> Any:
        """One call of the Consul server's API, with the management token where the lab has ACLs;
        its JSON, or None for an empty answer."""
        options = "" if body is None else "--data-binary @-"
        done = self["consul1"].run(
            f"curl -sS -f --max-time 10 -X {method} {with_token(MANAGEMENT_TOKEN)} {options} "
            + shlex.quote(f"http://127.0.0.1:8500{path}"),
            stdin="" if body is None else json.dumps(body),
        )
        return json.loads(done.stdout) if done.stdout.strip() else None

    @staticmethod
    def serials(hosts: Iterable[Host]) -> dict[str, str]:
        """Of the certificates of all services of `hosts`, by host and service."""
        return {
            f"{host.name}/{service['name']}": service["identity"]["serial"]
            for host in hosts
            for service in host.status()["services"]
        }

    @property
    def trust_domain(self) -> str:
        return str(self.consul("GET", "/v1/connect/ca/roots")["TrustDomain"])

    def spiffe_id(self, service: str) -> str:
        return f"spiffe://{self.trust_domain}/ns/default/dc/dc1/svc/{service}"

    def decide(self, source: str, destination: str, action: str) -> float:
        """Make the exact intention of this pair `allow` or `deny`; when Consul was told so."""
        exact = self._intention(source, destination) or {
            "SourceName": source,
            "DestinationName": destination,
        }
        return self._put_intention(exact | {"Action": action})

    @contextlib.contextmanager
    def intention(self, source: str, destination: str, action: str) -> Iterator[None]:
        """The exact intention of this pair for a while; what was there before comes back."""
        before = self._intention(source, destination)
        self.decide(source, destination, action)
        try:
            yield
        finally:
            if before is not None:
                self._put_intention(before)
            elif (now := self._intention(source, destination)) is not None:
                self.consul("DELETE", f"/v1/connect/intentions/{now['ID']}")

    def _put_intention(self, wanted: dict[str, Any]) -> float:
        body = {key: wanted[key] for key in _INTENTION_KEYS if key in wanted}
        now = self._intention(wanted["SourceName"], wanted["DestinationName"])
        told = time.time()
        if now is None:
            self.consul("POST", "/v1/connect/intentions", body)
        else:
            self.consul("PUT", f"/v1/connect/intentions/{now['ID']}", body)
        return told

    def _intention(self, source: str, destination: str) -> dict[str, Any] | None:
        for one in self.consul("GET", "/v1/connect/intentions"):
            if (one["SourceName"], one["DestinationName"]) == (source, destination):
                found: dict[str, Any] = one
                return found
        return None

    def rotate_ca(self) -> None:
        """A new root key for Consul's CA. Raises AssertionError unless there are two roots then."""
        configuration = self.consul("GET", "/v1/connect/ca/configuration")
        key = ec.generate_private_key(ec.SECP256R1()).private_bytes(
            Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()
        )
        configuration["Config"]["PrivateKey"] = key.decode()
        self.consul(
            "PUT",
            "/v1/connect/ca/configuration",
            {"Provider": "consul", "Config": configuration["Config"]},
        )
        assert len(self.consul("GET", "/v1/connect/ca/roots")["Roots"]) >= 2

    def end_sessions(self) -> None:
        for session in self.sessions:
            if session.running:
                session.stop()
        self.sessions.clear()
