"""The verbs of the lab, for the role, for make and for tests."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fleetlab import lab as labs
from fleetlab import launcher
from fleetlab.image import ImageError, ensure_image
from fleetlab.state import Lab, LabError, LabSpec


def main(argv: list[str]) -> int:
    """Carry out one verb; 0 when done, 1 with a message when it cannot be.

    ``up``, ``down``, ``start``, ``stop`` and ``image`` print {"changed": bool}.
    """
    arguments = _parser().parse_args(argv)
    try:
        return _carry_out(arguments)
    except (LabError, ImageError) as error:
        print(f"fleetlab: {error}", file=sys.stderr)
        return 1


def _carry_out(arguments: argparse.Namespace) -> int:
    if arguments.verb == "image":
        return _report(ensure_image())
    lab = Lab(arguments.lab)
    match arguments.verb:
        case "up":
            spec = LabSpec.from_json(json.load(sys.stdin))
            return _report(labs.up(lab, spec))
        case "down":
            return _report(labs.down(lab))
        case "status":
            print(json.dumps(labs.status(lab), indent=2))
        case "start":
            return _report(labs.start(lab, _spec(lab), arguments.hosts))
        case "stop":
            labs.stop(lab, arguments.hosts)
            return _report(True)
        case "power-cut":
            for host in arguments.hosts:
                labs.cut_power(lab, host)
        case "wait":
            labs.wait(lab, _spec(lab), arguments.hosts)
        case _:
            return launcher.run(lab, arguments.host, arguments.image)
    return 0


def _spec(lab: Lab) -> LabSpec:
    spec = lab.spec()
    if spec is None:
        raise LabError(f"lab {lab.name} is not up")
    return spec


def _report(changed: bool) -> int:
    print(json.dumps({"changed": changed}))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fleetlab", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("image", help="build the hosts' image unless it is cached")
    of_lab = argparse.ArgumentParser(add_help=False)
    of_lab.add_argument("--lab", required=True, help="the lab's name")
    for verb, text in (
        ("up", "bring up what the specification on standard input lists"),
        ("down", "remove the lab and everything it made"),
        ("status", "print each host's launcher and PID 1, as JSON"),
    ):
        verbs.add_parser(verb, parents=[of_lab], help=text)
    for verb, text in (
        ("start", "start hosts that are off"),
        ("stop", "stop hosts in order"),
        ("power-cut", "turn hosts off at once"),
        ("wait", "wait until hosts answer"),
    ):
        with_hosts = verbs.add_parser(verb, parents=[of_lab], help=text)
        with_hosts.add_argument("hosts", nargs="+")
    launch = verbs.add_parser("launch", parents=[of_lab], help="keep one host running")
    launch.add_argument("--host", required=True)
    launch.add_argument("--image", required=True, type=Path)
    return parser
