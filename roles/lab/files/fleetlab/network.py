"""The lab's network: every host, and control, on one bridge in a namespace of its own.

Nothing leaves the namespaces that the lab made. Each host has a default route over control, which
answers "unreachable" for whatever is not in the lab.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from fleetlab.state import Lab, LabError, LabSpec

_RUN = Path("/run/netns")
_BRIDGE = "fabric"


def ensure_network(lab: Lab, spec: LabSpec) -> bool:
    """Make what is missing of namespaces and links; True if anything was. Raises LabError."""
    changed = _ensure_fabric(lab)
    if _join(
        lab,
        "control",
        f"{spec.control}/{spec.prefix}",
        f"{spec.control6}/{spec.prefix6}",
        ("route add unreachable default", "-6 route add unreachable default"),
    ):
        changed = True
        _sysctl(lab.control, "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
    for host in spec.hosts:
        changed |= _join(
            lab,
            host.name,
            f"{host.address}/{spec.prefix}",
            f"{host.address6}/{spec.prefix6}",
            (f"route add default via {spec.control}", f"-6 route add default via {spec.control6}"),
        )
    return changed


def remove_network(lab: Lab) -> None:
    """Delete every namespace that the lab recorded, and with it its links."""
    for name in lab.owned_netns():
        remove_netns(name)


def remove_netns(name: str) -> None:
    if is_netns(name):
        subprocess.run(["ip", "netns", "delete", name], check=True)
    else:
        (_RUN / name).unlink(missing_ok=True)


def flush_rules(netns: str) -> None:
    """Forget nftables rules: a namespace outlives the kernel that its guest believes to be."""
    if is_netns(netns):
        subprocess.run(["ip", "netns", "exec", netns, "nft", "flush", "ruleset"], check=True)


def is_netns(name: str) -> bool:
    """Whether a live namespace has this name; a bare file, as a machine's crash leaves, is none."""
    try:
        return (_RUN / name).stat().st_dev == os.stat("/proc/self/ns/net").st_dev
    except FileNotFoundError:
        return False


def processes_in(netns: str) -> list[int]:
    """Processes of this machine that run in the namespace."""
    if not is_netns(netns):
        return []
    listed = subprocess.run(
        ["ip", "netns", "pids", netns], check=True, capture_output=True, text=True
    )
    return [int(pid) for pid in listed.stdout.split()]


def _ensure_fabric(lab: Lab) -> bool:
    made = _ensure_netns(lab, lab.fabric)
    if not made and _shows(lab.fabric, f"link show up dev {_BRIDGE}"):
        return False
    if _shows(lab.fabric, f"link show dev {_BRIDGE}"):
        _ip(lab.fabric, f"link delete {_BRIDGE}")
    _sysctl(
        lab.fabric,
        "net.bridge.bridge-nf-call-iptables=0",
        "net.bridge.bridge-nf-call-ip6tables=0",
    )
    _ip(
        lab.fabric,
        f"link add {_BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
        f"link set {_BRIDGE} up",
    )
    return True


def _join(lab: Lab, port: str, address: str, address6: str, routes: tuple[str, str]) -> bool:
    """A namespace with an addressed eth0 on the bridge, whose port bears the host's name.

    The last of `routes` is made last, and its presence tells that nothing is missing.
    """
    netns = lab.netns(port)
    made = _ensure_netns(lab, netns)
    if (
        not made
        and _shows(netns, "-6 route show default")
        and _shows(lab.fabric, f"link show master {_BRIDGE} dev {port}")
    ):
        return False
    for place, link in ((netns, "eth0"), (lab.fabric, port)):
        if _shows(place, f"link show dev {link}"):
            _ip(place, f"link delete {link}")
    for family in ("", "-6 "):
        if _shows(netns, f"{family}route show default"):
            _ip(netns, f"{family}route flush default")
    _sysctl(netns, "net.ipv6.conf.default.accept_ra=0", "net.ipv6.conf.default.accept_dad=0")
    _ip(
        lab.fabric,
        f"link add {port} type veth peer name eth0 netns {netns}",
        f"link set {port} master {_BRIDGE} up",
    )
    _ip(
        netns,
        "link set lo up",
        "link set eth0 up",
        f"address add {address} dev eth0",
        f"-6 address add {address6} dev eth0 nodad",
        *routes,
    )
    return True


def _ensure_netns(lab: Lab, name: str) -> bool:
    owned = name in lab.owned_netns()
    if is_netns(name):
        if not owned:
            raise LabError(f"network namespace {name} exists, and lab {lab.name} did not make it")
        return False
    if owned:
        (_RUN / name).unlink(missing_ok=True)
    else:
        lab.own_netns(name)
    subprocess.run(["ip", "netns", "add", name], check=True)
    return True


def _shows(netns: str, question: str) -> bool:
    """Whether ip has anything to show."""
    shown = subprocess.run(
        ["ip", "-n", netns, *question.split()], capture_output=True, text=True, check=False
    )
    return shown.returncode == 0 and bool(shown.stdout.strip())


def _ip(netns: str, *commands: str) -> None:
    for command in commands:
        done = subprocess.run(
            ["ip", "-n", netns, *command.split()], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise LabError(f"ip -n {netns} {command}: {done.stderr.strip()}")


def _sysctl(netns: str, *settings: str) -> None:
    # -e: a kernel without the bridge filter has no such knob, and needs none.
    subprocess.run(["ip", "netns", "exec", netns, "sysctl", "-qew", *settings], check=True)
