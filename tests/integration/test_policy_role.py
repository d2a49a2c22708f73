"""Role fleetmesh_policy, as `ansible-playbook` runs it, against a real Consul 1.8.7 server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.support.collection import ROOT
from tests.support.consul import ConsulServer

pytestmark = pytest.mark.consul

FIRST = {
    "config_entries": [
        {"Kind": "service-router", "Name": "api", "Routes": [{"Destination": {"NumRetries": 1}}]},
        {"Kind": "service-defaults", "Name": "api", "Protocol": "http"},
        {"Kind": "service-resolver", "Name": "api", "ConnectTimeout": "1500ms"},
    ],
    "intentions": [
        {"source": "*", "destination": "*", "action": "deny"},
        {"source": "web", "destination": "api", "action": "allow"},
    ],
}
SECOND = {
    "config_entries": [{"Kind": "service-defaults", "Name": "api", "Protocol": "tcp"}],
    "intentions": [{"source": "web", "destination": "api", "action": "deny"}],
}


class Control:
    """A control node with an inventory of its own."""

    def __init__(self, directory: Path, consul: ConsulServer) -> None:
        self.directory = directory
        self.consul = consul
        link = directory / "collections/ansible_collections/fleetmesh"
        link.mkdir(parents=True)
        (link / "mesh").symlink_to(ROOT)
        (directory / "policies").mkdir()
        host = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "fleetmesh_policy_consul_address": consul.address,
        }
        inventory = {"consul_servers": {"hosts": {"here": host}}}
        (directory / "hosts.yml").write_text(yaml.safe_dump(inventory))

    def policy(self, **files: dict[str, Any]) -> None:
        for old in (self.directory / "policies").iterdir():
            old.unlink()
        for name, content in files.items():
            (self.directory / "policies" / f"{name}.yml").write_text(yaml.safe_dump(content))

    def play(self, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [Path(sys.executable).parent / "ansible-playbook", "-i", self.directory / "hosts.yml",
             ROOT / "playbooks/policy.yml", "--diff", *options],
            env={
                **os.environ,
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
                "ANSIBLE_COLLECTIONS_PATH": str(self.directory / "collections"),
                "ANSIBLE_LOCAL_TEMP": str(self.directory / "tmp"),
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    def held(self) -> tuple[list[str], list[str]]:
        """Entries and intentions in Consul, as sentences."""
        kinds = ("service-defaults", "service-resolver", "service-router")
        found = [item for kind in kinds for item in self.consul.get(f"/v1/config/{kind}")]
        entries = [f"{item['Kind']}/{item['Name']} {item.get('Protocol', '')}" for item in found]
        intentions = [
            f"{item['Action']} {item['SourceName']} => {item['DestinationName']}"
            for item in self.consul.get("/v1/connect/intentions")
        ]
        return [entry.strip() for entry in entries], sorted(intentions)


@pytest.fixture
def control(tmp_path: Path, consul_server: ConsulServer) -> Control:
    return Control(tmp_path, consul_server)


def changed(run: subprocess.CompletedProcess[str]) -> int:
    assert run.returncode == 0, run.stdout + run.stderr
    recap = re.search(r"changed=(\d+)", run.stdout)
    assert recap
    return int(recap[1])


def test_a_policy_is_applied_once_checked_and_purged(control: Control) -> None:
    everything = (
        ["service-defaults/api http", "service-resolver/api", "service-router/api"],
        ["allow web => api", "deny * => *"],
    )
    control.policy(one=FIRST)
    assert changed(control.play("--check")) == 2
    assert control.held() == ([], [])
    assert changed(control.play()) == 2
    assert control.held() == everything
    assert changed(control.play()) == 0

    # The router that goes forbids the protocol that comes, and the resolver is needed till then.
    control.policy(two=SECOND)
    purge = ("-e", json.dumps({"fleetmesh_policy_purge": True}))
    checked = control.play("--check", *purge)
    assert changed(checked) == 5
    assert control.held() == everything
    assert changed(control.play(*purge)) == 5
    assert control.held() == (["service-defaults/api tcp"], ["deny web => api"])
    assert "-    ConnectTimeout: 1.5s" in checked.stdout
    assert changed(control.play("--check", *purge)) == 0


def test_nothing_is_written_while_one_file_is_wrong(control: Control) -> None:
    before = control.held()
    wrong = {
        "config_entries": [{"Kind": "service-routr", "Name": "x"}],
        "intentions": [
            {"source": "web", "destination": "api", "action": "alow"},
            {"source": "*", "destination": "*", "action": "allow"},
        ],
    }
    control.policy(right=FIRST, wrong=wrong)
    run = control.play()
    assert run.returncode == 2
    said = run.stdout + run.stderr
    assert "Nothing was written" in said
    assert 'wrong.yml:2: config_entries[0].Kind: "service-routr" is no kind' in said
    assert "intentions[0].action: must be one of allow, deny" in said
    assert "intention * => * stands in" in said
    assert control.held() == before


def test_check_mode_before_consul_is_there_says_so(control: Control) -> None:
    control.policy(one=FIRST)
    run = control.play("--check", "-e", "fleetmesh_policy_consul_address=http://127.0.0.1:1")
    assert changed(run) == 0
    assert "Not checked any further" in run.stdout
    assert control.play("-e", "fleetmesh_policy_consul_address=http://127.0.0.1:1").returncode == 2
