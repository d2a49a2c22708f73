"""The script that raises a kernel's limits, on a kernel of files."""

from __future__ import annotations

import doctest
import json
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest
from tests.support.netns import netns
from tests.unit.roles.test_scripts import ROOT, load

RESERVED = "net.ipv4.ip_local_reserved_ports"
WANTED = {
    "net.core.somaxconn": "4096",
    "net.ipv4.ip_local_port_range": "32768 60999",
    RESERVED: "15006,21000-21255",
    "net.netfilter.nf_conntrack_max": "262144",
}
FOUND = {
    "net/core/somaxconn": "128\n",
    "net/ipv4/ip_local_port_range": "1024\t50000\n",
    "net/ipv4/ip_local_reserved_ports": "8080\n",
    "net/netfilter/nf_conntrack_max": "524288\n",
}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return load("roles/fleetmesh_agent/files/tune_host.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, value in FOUND.items():
        path = tmp_path / "proc/sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value)
    return tmp_path


def kernel(root: Path) -> dict[str, str]:
    return {name: (root / "proc/sys" / name).read_text() for name in FOUND}


def files(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.glob("[eo]*/**/*") if path.is_file())


def test_its_examples(script: ModuleType) -> None:
    assert doctest.testmod(script).failed == 0
    assert doctest.testmod(script).attempted > 0


def test_values_are_raised_and_never_lowered(script: ModuleType, root: Path) -> None:
    outcome = script.main([json.dumps(WANTED), f"--root={root}"])
    assert outcome == {"changed": True, "told": []}
    assert kernel(root) == {
        "net/core/somaxconn": "4096\n",
        "net/ipv4/ip_local_port_range": "1024 60999\n",
        "net/ipv4/ip_local_reserved_ports": "8080,15006,21000-21255\n",
        "net/netfilter/nf_conntrack_max": "524288\n",
    }
    kept = (root / script.SYSCTL_FILE).read_text()
    assert "\n-net.core.somaxconn = 4096\n" in kept
    assert "conntrack" not in kept
    # Each is explained.
    assert kept.count("\n# ") == 3
    assert "net.core" in kept
    assert script.main([json.dumps(WANTED), f"--root={root}"])["changed"] is False


def test_undoing_restores_what_was_before(script: ModuleType, root: Path) -> None:
    """Also after a second rollout that wanted more."""
    script.main([json.dumps(WANTED), f"--root={root}"])
    script.main([json.dumps(WANTED | {"net.core.somaxconn": "8192"}), f"--root={root}"])
    assert kernel(root)["net/core/somaxconn"] == "8192\n"
    outcome = script.main(["--undo", f"--root={root}"])
    assert outcome == {"changed": True, "told": []}
    assert {name: value.split() for name, value in kernel(root).items()} == {
        name: value.split() for name, value in FOUND.items()
    }
    assert files(root) == []
    assert script.main(["--undo", f"--root={root}"]) == {"changed": False, "told": []}


def test_what_others_changed_since_is_left_to_them(script: ModuleType, root: Path) -> None:
    script.main([json.dumps(WANTED), f"--root={root}"])
    (root / "proc/sys/net/core/somaxconn").write_text("65535\n")
    assert script.main([json.dumps(WANTED), f"--root={root}"])["changed"] is False
    told = script.main(["--undo", f"--root={root}"])["told"]
    assert told == ["net.core.somaxconn is 65535, not what was set: it stays"]
    assert kernel(root)["net/core/somaxconn"] == "65535\n"


def test_a_container_is_told_and_no_failure(script: ModuleType, root: Path) -> None:
    """A value that cannot be written (here: its file is a directory), one that is not shown."""
    script.main([json.dumps({}), f"--root={root}"])
    assert files(root) == []
    refused = root / "proc/sys/net/core/somaxconn"

    def refuse(self: Path, text: str) -> int:
        raise OSError(30, "Read-only file system")

    (root / "proc/sys/net/netfilter/nf_conntrack_max").unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "write_text", refuse)
        outcome = script.main(
            [
                json.dumps({k: WANTED[k] for k in ("net.core.somaxconn",)}),
                f"--root={root}",
            ]
        )
    assert outcome == {
        "changed": False,
        "told": ["net.core.somaxconn cannot be written here: Read-only file system"],
    }
    assert refused.read_text() == "128\n"
    outcome = script.main([json.dumps(WANTED), f"--root={root}"])
    assert len(outcome["told"]) == 1
    assert "nf_conntrack_max is not there" in outcome["told"][0]


def test_check_mode_tells_and_changes_nothing(script: ModuleType, root: Path) -> None:
    assert script.main([json.dumps(WANTED), "--check", f"--root={root}"])["changed"]
    assert kernel(root) == FOUND
    assert files(root) == []


def test_check_mode_promises_nothing_that_a_host_does_not_let_be_written(
    script: ModuleType, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(script.os, "access", lambda *_: False)
    outcome = script.main([json.dumps(WANTED), "--check", f"--root={root}"])
    assert not outcome["changed"]
    assert "net.core.somaxconn cannot be written here: Read-only file system" in outcome["told"]


def test_conntrack_is_loaded_before_its_limit_is_set_at_boot(
    script: ModuleType, root: Path
) -> None:
    more = {"net.netfilter.nf_conntrack_max": "1048576"}
    script.main([json.dumps(more), f"--root={root}"])
    assert "\nnf_conntrack\n" in (root / script.MODULES_FILE).read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace: needs root")
def test_a_real_kernel_takes_it_and_gives_it_back(tmp_path: Path) -> None:
    """Of a namespace of its own, where the table of tracked connections is not ours to size."""
    (tmp_path / "proc").symlink_to("/proc")
    script = str(ROOT / "roles/fleetmesh_agent/files/tune_host.py")
    names = ["net.ipv4.ip_local_reserved_ports", "net.core.somaxconn"]
    with netns("tuned") as space:

        def values() -> list[str]:
            return [space.run("sysctl", "-n", name).strip() for name in names]

        def run(*arguments: str) -> dict[str, object]:
            shown = space.run(sys.executable, script, *arguments, "--root", str(tmp_path))
            outcome: dict[str, object] = json.loads(shown)
            return outcome

        before = values()
        wanted = json.dumps(WANTED | {"net.core.somaxconn": str(int(before[1]) + 1)})
        assert run(wanted)["changed"]
        assert values() == ["15006,21000-21255", str(int(before[1]) + 1)]
        assert not run(wanted)["changed"]
        assert run("--undo")["changed"]
        assert values() == before
