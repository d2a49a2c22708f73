"""`fleetmesh explain`, `routes` and `endpoints`: where traffic goes, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

import typer

from fleetmesh.cli.options import (
    DEFAULT_AGENT,
    DEFAULT_SERVICES,
    AgentFile,
    Exit,
    Json,
    ServicesDir,
    Socket,
    client,
    end,
    tell,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import msgspec

    from fleetmesh.model.explanation import Explanation, Question
    from fleetmesh.model.snapshot import Snapshot

T = TypeVar("T", bound="msgspec.Struct")

app = typer.Typer(
    help="What becomes of one request or connection, step by step, and why.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
From = Annotated[
    str, typer.Option("--from", metavar="SERVICE", help="The service of this host that calls.")
]
Consul = Annotated[
    bool,
    typer.Option(
        "--consul",
        help="Compute the answer from Consul at this moment, and say where what the agent has in "
        "force differs. Works without a running agent, too.",
    ),
]
Service = Annotated[str, typer.Argument(metavar="SERVICE", help="An upstream, by its name.")]


@app.command()
def http(
    method: Annotated[str, typer.Argument(metavar="METHOD")],
    url: Annotated[
        str,
        typer.Argument(
            metavar="URL",
            help="As the application calls it: http://api.mesh/cart?x=1, or with an address.",
        ),
    ],
    source: From,
    headers: Annotated[
        list[str] | None,
        typer.Option("-H", metavar="'NAME: VALUE'", help="A header field. May be repeated."),
    ] = None,
    consul: Consul = False,
    as_json: Json = False,
    socket: Socket = None,
    agent_file: AgentFile = DEFAULT_AGENT,
    services_dir: ServicesDir = DEFAULT_SERVICES,
) -> None:
    """Explain an HTTP request: how its destination is found, the rule that takes it and why those
    before it do not, splits, endpoints, failover, the callee's intentions, certificates, timeouts,
    retries and header changes.

    Nothing is sent. Exit code 0 when the request would be served (or passes by the mesh), 1 when it
    would be denied or refused, all or in part, or nobody here can tell, and with --consul also
    when the answers differ; 2 when the question is wrong; 3 when no agent answers.
    """
    from fleetmesh.model.explanation import Question

    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme != "http" or not parts.hostname or port == 0:
        end(Exit.ERROR, f"{url}: is no URL of http; TLS of its own is explained by: explain tcp")
    target = parts.path or "/"
    question = Question(
        source,
        parts.hostname,
        port or 80,
        method,
        f"{target}?{parts.query}" if parts.query else target,
        tuple(_header(text) for text in headers or ()),
    )
    _explain(question, consul, as_json, socket, (agent_file, services_dir))


@app.command()
def tcp(
    destination: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="As the application dials it.")
    ],
    source: From,
    consul: Consul = False,
    as_json: Json = False,
    socket: Socket = None,
    agent_file: AgentFile = DEFAULT_AGENT,
    services_dir: ServicesDir = DEFAULT_SERVICES,
) -> None:
    """Explain a TCP connection, as `explain http` does a request. Nothing is sent.

    Exit codes are those of `fleetmesh explain http`.
    """
    from fleetmesh.model.explanation import Question

    host, colon, port = destination.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    valid = port.isascii() and port.isdecimal() and 0 < int(port) < 65536
    if not (colon and bare and valid) or (":" in bare and bare == host):
        end(Exit.ERROR, f"{destination}: is not HOST:PORT (an IPv6 address in brackets)")
    question = Question(source, bare, int(port))
    _explain(question, consul, as_json, socket, (agent_file, services_dir))


def routes(
    service: Service,
    consul: Consul = False,
    as_json: Json = False,
    socket: Socket = None,
    agent_file: AgentFile = DEFAULT_AGENT,
    services_dir: ServicesDir = DEFAULT_SERVICES,
) -> None:
    """Show the rules that requests to SERVICE are routed by, in order, with their splits.

    Exit code 0 when the upstream is known, 1 with --consul when the answers differ, 2 when it is
    not known, 3 when no agent answers.
    """
    from fleetmesh.cli import explain_text
    from fleetmesh.model.explanation import Routes

    answer = _Asked(socket, (agent_file, services_dir)).listing(
        f"/v1/routes/{service}", Routes, consul, service, lambda one: one.routes(service)
    )
    _show(answer, explain_text.routes, as_json, Exit.OK)


def endpoints(
    service: Service,
    consul: Consul = False,
    as_json: Json = False,
    socket: Socket = None,
    agent_file: AgentFile = DEFAULT_AGENT,
    services_dir: ServicesDir = DEFAULT_SERVICES,
) -> None:
    """Show the targets that SERVICE leads to with their endpoints, health and weight, and why any
    instance gets nothing.

    Exit code 0 when the upstream is known, 1 with --consul when the answers differ, 2 when it is
    not known, 3 when no agent answers.
    """
    from fleetmesh.cli import explain_text
    from fleetmesh.model.explanation import Endpoints

    answer = _Asked(socket, (agent_file, services_dir)).listing(
        f"/v1/endpoints/{service}", Endpoints, consul, service, lambda one: one.endpoints(service)
    )
    _show(answer, explain_text.endpoints, as_json, Exit.OK)


def _explain(
    question: Question,
    consul: bool,
    as_json: bool,
    socket: str | None,
    files: tuple[Path, Path],
) -> None:
    from fleetmesh.cli import explain_text
    from fleetmesh.model.explanation import Outcome

    answer = _Asked(socket, files).explanation(question, consul)
    best = answer[1] or answer[0]
    fine = best is not None and best.outcome in (Outcome.ALLOWED, Outcome.PASSES)
    _show(answer, explain_text.explanation, as_json, Exit.OK if fine else Exit.WARNING)


def _show(
    answer: tuple[T | None, T | None],
    lines: Callable[[T], list[str]],
    as_json: bool,
    code: Exit,
) -> None:
    """`answer` is what is in force and what Consul says, as far as each was asked."""
    import msgspec

    from fleetmesh.cli import explain_text
    from fleetmesh.plan.difference import differences

    in_force, consul = answer
    shown: Any = in_force if consul is None else consul
    found = differences(in_force, consul) if in_force and consul else ()
    if as_json:
        if consul is not None:
            shown = {"in_force": in_force, "consul": consul, "differences": found}
        typer.echo(msgspec.json.format(msgspec.json.encode(shown), indent=2).decode())
    else:
        for line in lines(shown):
            typer.echo(line)
        if consul is not None:
            for line in explain_text.compared(in_force is not None, found):
                typer.echo(line)
    raise typer.Exit(Exit.WARNING if found else code)


class _Asked:
    """Who is asked: the agent, and Consul as the agent would."""

    def __init__(self, socket: str | None, files: tuple[Path, Path]) -> None:
        self._agent = client(socket, files[0])
        self._files = files

    def explanation(
        self, question: Question, consul: bool
    ) -> tuple[Explanation | None, Explanation | None]:
        import msgspec

        from fleetmesh.model.explanation import Explanation

        body = msgspec.to_builtins(question)
        in_force = self._of_agent(
            lambda: self._agent.post("/v1/explain", body), Explanation, needed=not consul
        )
        if not consul:
            return in_force, None
        # An address is Consul's to find only where the agent does not know it.
        service = in_force.found.service if in_force is not None else ""
        asked = msgspec.structs.replace(question, service=service)
        return in_force, self._of_consul(service, lambda one: one.explanation(asked))

    def listing(
        self,
        path: str,
        kind: type[T],
        consul: bool,
        service: str,
        question: Callable[[Any], Any],
    ) -> tuple[T | None, T | None]:
        in_force = self._of_agent(lambda: self._agent.get(path), kind, needed=not consul)
        return in_force, self._of_consul(service, question) if consul else None

    def _of_agent(self, ask: Callable[[], Any], kind: type[T], needed: bool) -> T | None:
        import msgspec

        from fleetmesh.edge.admin_client import AgentRefusedError, AgentUnreachableError

        try:
            return msgspec.convert(ask(), kind)
        except (AgentRefusedError, AgentUnreachableError) as error:
            if needed:
                raise
            print(f"fleetmesh: in force: {error}", file=sys.stderr)
        except msgspec.ValidationError as error:
            end(Exit.ERROR, f"the agent's answer is of another version: {error}")
        return None

    def _of_consul(self, service: str, question: Callable[[Any], Any]) -> Any:
        from fleetmesh.edge.consul_http import ConsulError
        from fleetmesh.edge.consul_link import UnfitError
        from fleetmesh.process import inquiry
        from fleetmesh.settings import Settings
        from fleetmesh.settings.load import load

        settings = load(*self._files, None)
        if not isinstance(settings, Settings):
            tell(settings)
            raise typer.Exit(Exit.ERROR)
        try:
            found = inquiry.asked(settings, service, self._snapshot(), question)
        except ConsulError as error:
            end(Exit.ERROR, f"consul: {error}")
        except UnfitError as error:
            tell([error.of(self._files[0])])
            raise typer.Exit(Exit.ERROR) from None
        if isinstance(found, list):
            tell(found)
            raise typer.Exit(Exit.ERROR)
        return found

    def _snapshot(self) -> Snapshot | None:
        """What is in force, without keys: Consul is not asked for certificates again."""
        import msgspec

        from fleetmesh.edge.admin_client import AgentRefusedError, AgentUnreachableError
        from fleetmesh.model.snapshot import Snapshot

        try:
            return msgspec.convert(self._agent.get("/v1/snapshot"), Snapshot)
        except (AgentRefusedError, AgentUnreachableError, msgspec.ValidationError):
            return None


def _header(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        end(Exit.ERROR, f"-H {text}: is not NAME: VALUE")
    return name.strip(), value.strip()
