"""Shows on a running lab what the mesh does: the command an operator would type, and evidence.

Run by `make tour` with LAB in the environment. Exit status 1 when any evidence is not as expected,
2 when there is no lab.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.rule import Rule
from rich.text import Text

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.support.fleet import MANAGEMENT_TOKEN, Fleet
from tests.support.hosts import LABS, Answer, CommandError, NeverError, eventually
from tests.support.wire import NotTlsError, Wire, tls_records

WIDTH = 100
LIMIT = 2.0
MOST_CALLS = 400
"""Until both instances of api have answered one."""


def as_operator(command: str) -> str:
    """With the management token, where the lab has ACLs."""
    return (
        f"! [ -e {MANAGEMENT_TOKEN} ] || export CONSUL_HTTP_TOKEN_FILE={MANAGEMENT_TOKEN}; "
        + command
    )


class Tour:
    """Prints steps and keeps account of what was not as expected."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        piped = not sys.stdout.isatty()
        self._console = Console(width=WIDTH if piped else None, highlight=False)
        self._number = 0
        self.failures: list[str] = []

    def title(self, text: str) -> None:
        self._number += 1
        self._console.print()
        self._console.print(Rule(Text(f"{self._number}. {text}", style="bold"), align="left"))

    def say(self, text: str) -> None:
        self._console.print(text, markup=False)

    def command(self, host: str, command: str) -> None:
        """What an operator would type, as a shell on this host."""
        self._console.print(Text(f"\nroot@{host}# {command}", style="cyan"), soft_wrap=True)

    def output(self, text: str, lines: int = 60) -> None:
        shown = text.rstrip().splitlines()
        for line in shown[:lines]:
            self._console.print(Text(f"  {line}"), soft_wrap=True)
        if len(shown) > lines:
            self.say(f"  … {len(shown) - lines} more lines")

    def expect(self, holds: object, text: str) -> None:
        """One piece of evidence."""
        mark, style = ("✓", "green") if holds else ("✗ NOT SO:", "bold red")
        self._console.print(Text(f"  {mark} {text}", style=style), soft_wrap=True)
        if not holds:
            self.failures.append(text)

    def ask(self, host: str, user: str, url: str, note: str = "") -> Answer:
        """Show and run a plain curl of a service's user; show its answer, shortened."""
        self.command(host, f"runuser -u {user} -- curl -s {url}{note}")
        answer = self.fleet[host].curl(url, user=user)
        self.output(_shorten(answer))
        return answer

    def table(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            self._console.print(Text(line), soft_wrap=True)


def _shorten(answer: Answer) -> str:
    if answer.status != 200:
        return f"HTTP {answer.status} {answer.body}{answer.error}"
    document = answer.json()
    kept = {key: document[key] for key in ("instance", "method", "path")}
    certificate = answer.received("x-forwarded-client-cert")
    kept["headers"] = {"X-Forwarded-Client-Cert": certificate} if certificate else {}
    return json.dumps(kept)


def call(tour: Tour) -> None:
    """Case 2: plain curl, both instances, a proven identity."""
    fleet = tour.fleet
    api1 = fleet["api1"]
    web = fleet.spiffe_id("web")
    tour.title("A plain curl becomes mutual TLS")
    tour.say("web1 asks api by one instance's address. Neither program knows of the mesh.")
    first = tour.ask("web1", "web", api1.url(8000, "/hello"))
    tour.expect(first.caller == web, f"api was told who called: {web}")
    counts = Counter([first.instance])
    # The quicker of two is preferred: the other one's turn may take a moment.
    while counts.total() < 10 or (len(counts) < 2 and counts.total() < MOST_CALLS):
        counts[fleet["web1"].curl(api1.url(8000), user="web").instance] += 1
    shown = ", ".join(f"{instance} {count}" for instance, count in sorted(counts.items()))
    tour.expect(set(counts) == {"api1/api", "api2/api"}, f"{counts.total()} calls went to: {shown}")
    sixth = tour.ask("web1", "web", api1.url(8000, "/hello", family=6))
    tour.expect(sixth.caller == web, "the same over IPv6")


def names(tour: Tour) -> None:
    """Nothing is declared: the name is looked up, and from then on the service is watched."""
    fleet = tour.fleet
    url = "http://api.mesh/hello"
    tour.title("A name is enough")
    tour.say("web has declared no upstream. The agent answers DNS for its user, and for no other.")
    answer = tour.ask("web1", "web", url)
    tour.expect(answer.caller == fleet.spiffe_id("web"), f"{answer.instance} was told who called")
    command = f"fleetmesh explain http GET {url} --from web"
    tour.command("web1", command)
    explained = fleet["web1"].run(command, check=False)
    tour.output(explained.stdout)
    tour.expect(explained.returncode == 0, "why it goes there: from what is in force")


def wire(tour: Tour) -> None:
    """Case 2: TLS and nothing else between the hosts."""
    fleet = tour.fleet
    web1, api1 = fleet["web1"], fleet["api1"]
    secret, control = f"secret-{secrets.token_hex(6)}", f"control-{secrets.token_hex(6)}"
    tour.title("What passes on the network")
    tour.say("The same call with a secret in path and header, seen from web1's network cable.")
    tour.command(
        "web1", f"runuser -u web -- curl -s -H 'X-Secret: {secret}' {api1.url(8000, '/' + secret)}"
    )
    with Wire(fleet.netns("fabric"), "web1") as seen:
        answer = web1.curl(api1.url(8000, f"/{secret}"), "-H", f"X-Secret: {secret}", user="web")
        refused = web1.curl(api1.url(8000, f"/{control}"))
    records: Counter[str] = Counter()
    clear: list[str] = []
    for api in (api1, fleet["api2"]):
        for flow, data in seen.between(web1.address, api.address).items():
            try:
                records += tls_records(data)
            except NotTlsError:
                clear.append(str(flow))
    tour.output(
        f"{seen.frames} frames; TLS records: "
        + ", ".join(f"{count} {kind}" for kind, count in sorted(records.items()))
    )
    tour.expect(answer.status == 200, "the call was answered")
    tour.expect(not seen.said(secret), "the secret is not in any frame")
    tour.expect(records["application_data"] > 0, "what is in the frames are TLS records")
    tour.expect(
        seen.said(control) and refused.status == 403,
        "a call of root, who is no service, was seen in the clear, and refused: HTTP 403",
    )
    tour.expect(len(clear) <= 2, "nothing else went in the clear")


def neighbours(tour: Tour) -> None:
    """Case 3: several services of one host, each itself."""
    fleet = tour.fleet
    shop1, api1 = fleet["shop1"], fleet["api1"]
    tour.title("Two services on one VM, two identities")
    tour.say("shop1 runs cart and orders. An intention lets cart call api, another denies orders.")
    allowed = tour.ask("shop1", "cart", api1.url(8000))
    tour.expect(
        allowed.status == 200 and allowed.caller == fleet.spiffe_id("cart"),
        f"api saw {fleet.spiffe_id('cart')}",
    )
    denied = tour.ask("shop1", "orders", api1.url(8000))
    tour.expect(denied.status == 403, "orders is denied, and the answer says by which intention")
    tour.expect(denied.status == 403 and denied.json()["source"] == "orders", "as orders, by name")
    port = shop1.service("cart")["outbound_port"]
    tour.say("\nAnother user cannot borrow an identity: cart's outbound socket, dialled directly.")
    tour.command("shop1", f"runuser -u nobody -- curl -s http://127.0.0.1:{port}/")
    stolen = shop1.curl(f"http://127.0.0.1:{port}/", user="nobody", timeout=3)
    tour.output(_shorten(stolen))
    tour.expect(stolen.status in (0, 403), "nobody gets nothing")


def deny(tour: Tour) -> None:
    """Case 4: an intention that turns to deny ends what it forbids."""
    fleet = tour.fleet
    web1, api1 = fleet["web1"], fleet["api1"]
    tour.title("A deny means now")
    with fleet.intention("web", "api", "allow"):
        web1.curl_until(200, api1.url(8000), user="web")
        stream = web1.start("stream.py", "websocket", api1.url(8000, "/live"), user="web")
        opened = stream.until("open")
        while stream.until("echo")["number"] < 10:
            pass
        tour.say("web holds a WebSocket to api open; ten messages a second come back.")
        change = "consul intention create -replace -deny web api"
        tour.command("consul1", change)
        told = time.time()
        tour.output(fleet["consul1"].run(as_operator(change)).stdout)
        end = stream.until("end", timeout=10)
        echoes = sum('"echo"' in line for line in stream.lines)
        took = end["time"] - told
        tour.expect(
            took <= LIMIT,
            f"the stream, open for {end['time'] - opened['time']:.1f} s and {echoes} messages, "
            f"ended {took:.1f} s after the deny",
        )
        refused = tour.ask("web1", "web", api1.url(8000))
        tour.expect(refused.status == 403, "new calls are refused")
        change = "consul intention create -replace -allow web api"
        tour.command("consul1", change)
        tour.output(fleet["consul1"].run(as_operator(change)).stdout)
        again = eventually(
            lambda: (got := web1.curl(api1.url(8000), user="web")).status == 200 and got,
            LIMIT,
            "allow works again",
        )
        tour.expect(again.caller == fleet.spiffe_id("web"), "allow: served again")


def status(tour: Tour) -> None:
    tour.title("What an operator sees")
    tour.command("shop1", "fleetmesh status")
    tour.table(tour.fleet["shop1"].output(f"COLUMNS={WIDTH} fleetmesh status"))
    tour.command("shop1", "fleetmesh check")
    checked = tour.fleet["shop1"].run("fleetmesh check", check=False)
    tour.output(checked.stdout, lines=30)
    tour.expect(checked.returncode == 0, "the doctor is content: exit status 0")


STEPS: tuple[Callable[[Tour], None], ...] = (call, names, wire, neighbours, deny, status)


def main() -> int:
    lab = os.environ.get("LAB", "")
    if not lab or not (LABS / lab / "spec.json").exists():
        print(f"tour: lab {lab or '(LAB is not set)'} is not up: make demo", file=sys.stderr)
        return 2
    fleet = Fleet(lab)
    tour = Tour(fleet)
    for step in STEPS:
        try:
            step(tour)
        except (CommandError, NeverError, AssertionError) as error:
            tour.expect(False, f"{step.__name__}: {error}")
        finally:
            fleet.end_sessions()
    if tour.failures:
        tour.say(f"\n{len(tour.failures)} of the tour's findings were not as expected:")
        for failure in tour.failures:
            tour.say(f"  {failure}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
