"""`fleetmesh validate`: files are checked before anything reads them in earnest."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fleetmesh.cli.options import Exit, Json, end, tell

if TYPE_CHECKING:
    from collections.abc import Iterable

    import yaml

    from fleetmesh.model.problem import Problem


class FileKind(enum.StrEnum):
    AGENT = "agent"
    SERVICE = "service"
    POLICY = "policy"


SPOKEN = {
    FileKind.AGENT: "agent settings",
    FileKind.SERVICE: "service",
    FileKind.POLICY: "policy",
}


def validate(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE",
            help="Files of any kind: each is recognised by what it holds.",
            show_default=False,
        ),
    ] = None,
    agent_file: Annotated[
        Path | None,
        typer.Option("--agent", metavar="FILE", help="The agent's settings.", show_default=False),
    ] = None,
    services_dir: Annotated[
        Path | None,
        typer.Option(
            "--services", metavar="DIR", help="A directory of services.", show_default=False
        ),
    ] = None,
    directories: Annotated[
        list[Path] | None,
        typer.Option(
            "--dir",
            metavar="DIR",
            help="A directory whose .yaml files are all checked. May be repeated.",
            show_default=False,
        ),
    ] = None,
    kind: Annotated[
        FileKind | None,
        typer.Option(help="Take every FILE for this kind.", show_default=False),
    ] = None,
    users: Annotated[
        bool | None,
        typer.Option(
            "--users/--no-users",
            help="Whether services' users must exist on this host. "
            "[default: with --services they must]",
            show_default=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check settings, service and policy files; change nothing.

    Files that are named together are checked together, as one host or one policy would have
    them. Each problem is one line on standard error: file, line, key, the rule and a remedy.
    Exit code 0 when all is valid, 2 otherwise.
    """
    from fleetmesh.model.problem import Problem
    from fleetmesh.settings.load import SUFFIX, list_dir

    paths = list(files or [])
    problems: list[Problem] = []
    for directory in directories or []:
        listing = list_dir(directory, (SUFFIX, ".yml"))
        paths += listing.files
        problems += listing.problems
    services: list[Path] = []
    if services_dir is not None:
        listing = list_dir(services_dir)
        services += listing.files
        problems += listing.problems
    if not (paths or agent_file or services_dir or directories):
        end(Exit.ERROR, "name a file, or --agent, --services or --dir; see fleetmesh validate -h")
    agents = [agent_file] if agent_file else []
    policies: list[Path] = []
    for path in dict.fromkeys(paths):
        is_a = kind or _recognise(path)
        if isinstance(is_a, Problem):
            problems.append(is_a)
        else:
            {FileKind.AGENT: agents, FileKind.SERVICE: services, FileKind.POLICY: policies}[
                is_a
            ].append(path)
    problems += _settings_problems(agents, services, services_dir is not None, users)
    problems += _policy_problems(policies)
    _conclude(problems, _spoken(agents, services, policies), as_json)


def _conclude(problems: list[Problem], valid: list[tuple[Path, str]], as_json: bool) -> None:
    if as_json:
        import msgspec

        typer.echo(json.dumps({"problems": msgspec.to_builtins(problems)}))
    else:
        tell(problems)
    if problems:
        raise typer.Exit(Exit.ERROR)
    if not as_json:
        for path, what in valid:
            typer.echo(f"{path}: valid ({what})")


def _spoken(
    agents: Iterable[Path], services: Iterable[Path], policies: Iterable[Path]
) -> list[tuple[Path, str]]:
    found = [(path, SPOKEN[FileKind.AGENT]) for path in agents]
    found += [(path, SPOKEN[FileKind.SERVICE]) for path in services]
    return found + [(path, SPOKEN[FileKind.POLICY]) for path in policies]


def _settings_problems(
    agents: list[Path], services: list[Path], whole_host: bool, users: bool | None
) -> list[Problem]:
    from fleetmesh.edge import users as users_of_host
    from fleetmesh.settings.load import read_files

    wanted = whole_host if users is None else users
    resolve = users_of_host.resolve if wanted else None
    problems: list[Problem] = []
    for extra in agents[1:]:
        problems += read_files(extra, []).problems
    return read_files(agents[0] if agents else None, services, resolve).problems + problems


def _policy_problems(paths: list[Path]) -> list[Problem]:
    from fleetmesh.entries.policy import check_together, read_policy
    from fleetmesh.model.problem import Problem
    from fleetmesh.settings.decode import Reader

    problems: list[Problem] = []
    policies = []
    for path in paths:
        node = _composed(path)
        if isinstance(node, Problem):
            problems.append(node)
        else:
            policies.append(read_policy(Reader(str(path)), node))
    check_together(policies)
    return problems + [found for policy in policies for found in policy.reader.problems]


def _recognise(path: Path) -> FileKind | Problem:
    """By its top-level keys, however wrong the rest of the file is."""
    import msgspec

    from fleetmesh.model.problem import Problem
    from fleetmesh.settings import ServiceSettings, Settings

    node = _composed(path)
    if isinstance(node, Problem):
        return node
    keys = {str(name.value) for name, _ in node.value}
    if keys & {"config_entries", "intentions", "Kind", "kind"}:
        return FileKind.POLICY
    if keys & {"name", "port"}:
        return FileKind.SERVICE
    if "address" in keys:
        return FileKind.AGENT
    known = {
        FileKind.AGENT: {field.name for field in msgspec.structs.fields(Settings)},
        FileKind.SERVICE: {field.name for field in msgspec.structs.fields(ServiceSettings)},
    }
    best = max(known, key=lambda kind: len(keys & known[kind]))
    if keys & known[best]:
        return best
    return Problem(
        f"{path}:1",
        "is neither agent settings (address), a service (name, port) nor a policy "
        "(config_entries, intentions)",
        "Correct its keys, or say what it is by --kind",
    )


def _composed(path: Path) -> yaml.MappingNode | Problem:
    from fleetmesh.model.problem import Problem
    from fleetmesh.settings import document

    text = document.read_text(path)
    return text if isinstance(text, Problem) else document.compose(text, str(path))
