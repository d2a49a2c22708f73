"""One host of the lab, as the fleet tests and the tour reach it.

Commands run over SSH from the lab's control namespace, multiplexed on one connection per host.
"""

from __future__ import annotations

import contextlib
import json
import queue
import shlex
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from prometheus_client.parser import text_string_to_metric_families

LABS = Path("/var/lib/fleetmesh-lab")
GUEST = Path(__file__).with_name("guest")
_SPLIT = "\n--curl--"

T = TypeVar("T")


class CommandError(AssertionError):
    """A command that had to succeed did not; the message holds its output."""


class NeverError(AssertionError):
    """What had to become true in time did not."""


def eventually(
    condition: Callable[[], T | Literal[False] | None],
    timeout: float,
    why: str,
    every: float = 0.1,
) -> T:
    """The first true result of `condition`, asked every `every` seconds for `timeout` seconds.

    Assertion errors count as "not yet". Raises NeverError with the last one, and with `why`.
    """
    deadline = time.monotonic() + timeout
    last: object = None
    while True:
        try:
            result = condition()
            if result:
                return result
            last = result
        except (AssertionError, KeyError, IndexError) as error:
            last = error
        if time.monotonic() > deadline:
            raise NeverError(f"not within {timeout} s: {why}; last: {last!r}")
        time.sleep(every)


@dataclass(frozen=True)
class Answer:
    """What curl got. `status` is 0 and `error` says why when there was no HTTP answer at all."""

    status: int
    headers: dict[str, list[str]] = field(default_factory=dict)
    body: str = ""
    error: str = ""

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError as error:
            raise AssertionError(f"no JSON in {self}") from error

    @property
    def instance(self) -> str:
        """`host/service` of the application that answered."""
        assert self.status == 200, self
        return str(self.json()["instance"])

    @property
    def caller(self) -> str:
        """The SPIFFE id of the caller, as the application was told it; "" if it was not."""
        elements = parse_xfcc(self.received("x-forwarded-client-cert"))
        assert len(elements) == 1, elements
        return elements[0].get("URI", "")

    def received(self, header: str) -> str:
        """What the application got in this header, "" if it got none."""
        headers = self.json()["headers"]
        return ", ".join(value for name, value in headers.items() if name.lower() == header)


def parse_xfcc(value: str) -> list[dict[str, str]]:
    """The elements of an X-Forwarded-Client-Cert header: key=value;… , one element per comma."""
    elements: list[dict[str, str]] = [{}]
    token, quoted = "", False
    for character in f"{value};":
        if character == '"':
            quoted = not quoted
        elif character in ";," and not quoted:
            key, _, text = token.strip().partition("=")
            if key:
                elements[-1][key] = text
            token = ""
            if character == ",":
                elements.append({})
        else:
            token += character
    return elements


class Session:
    """A command that runs on a host while the test does other things; `lines` are its output."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._queue: queue.Queue[str | None] = queue.Queue()
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._queue.put(line.rstrip("\n"))
        self._queue.put(None)

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def next(self, timeout: float = 15.0) -> dict[str, Any]:
        """The next line, which is JSON. Raises AssertionError at the end or after `timeout` s."""
        try:
            line = self._queue.get(timeout=timeout)
        except queue.Empty:
            raise NeverError(f"no line within {timeout} s after {self.lines[-3:]}") from None
        assert line is not None, f"ended after {self.lines[-5:]}"
        self.lines.append(line)
        event: dict[str, Any] = json.loads(line)
        return event

    def until(self, name: str, timeout: float = 15.0) -> dict[str, Any]:
        """The next line whose `event` is `name`."""
        deadline = time.monotonic() + timeout
        while True:
            event = self.next(max(0.01, deadline - time.monotonic()))
            if event["event"] == name:
                return event

    def finish(self, timeout: float = 30.0) -> dict[str, Any]:
        """Wait for the end; the last line."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise NeverError(f"still running after {timeout} s: {self.lines[-3:]}") from None
        self._reader.join(5)
        while (line := self._queue.get(timeout=1)) is not None:
            self.lines.append(line)
        assert self.lines, f"no output, exit status {self._process.returncode}"
        last: dict[str, Any] = json.loads(self.lines[-1])
        return last

    def close_input(self) -> None:
        """Tell the program to end; `finish` then has what it says last."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def stop(self) -> None:
        """End the session; the program on the host sees its input close."""
        self.close_input()
        try:
            self._process.wait(3)
        except subprocess.TimeoutExpired:
            # The host may be gone, and with it the one who would say so.
            self._process.terminate()
            self._process.wait(10)


@dataclass(frozen=True)
class Host:
    """One host. `users` are its applications' users, by uid."""

    lab: str
    sessions: list[Session] = field(repr=False)
    name: str
    address: str
    address6: str
    users: dict[str, int]

    def url(self, port: int, path: str = "/", family: int = 4) -> str:
        host = self.address if family == 4 else f"[{self.address6}]"
        return f"http://{host}:{port}{path}"

    def run(
        self,
        command: str | list[str],
        user: str | None = None,
        check: bool = True,
        timeout: float = 60.0,
        stdin: str = "",
    ) -> subprocess.CompletedProcess[str]:
        """Run a command (a string goes through a shell) as root or `user`.

        Raises CommandError if `check` and it fails, or if it takes longer than `timeout` s.
        """
        argv = ssh(self.lab, self.name, _as_user(command, user))
        try:
            done = subprocess.run(
                argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"{self.name}: {command}: not done in {timeout} s") from error
        if check and done.returncode != 0:
            raise CommandError(
                f"{self.name}: {command}: exit status {done.returncode}\n{done.stdout}{done.stderr}"
            )
        return done

    def output(self, command: str | list[str], user: str | None = None) -> str:
        return self.run(command, user).stdout.strip()

    def start(
        self, script: str, *arguments: str, user: str | None = None, own_connection: bool = False
    ) -> Session:
        """Run a program of `guest/` on the host; it ends when its standard input does.

        With `own_connection` it gets an SSH connection that nothing else shares.
        """
        source = (GUEST / script).read_text()
        command = ["/usr/bin/python3", "-u", "-c", source, *arguments]
        process = subprocess.Popen(
            ssh(self.lab, self.name, _as_user(command, user), not own_connection),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None,
            text=True,
        )
        session = Session(process)
        self.sessions.append(session)
        return session

    def curl(self, url: str, *options: str, user: str | None = None, timeout: float = 10) -> Answer:
        """Ask `url` with a fresh curl; an answer with any status is an Answer."""
        done = self.run(
            [
                *("curl", "-sS", "-g", "--max-time", str(timeout)),
                *("-w", f"{_SPLIT}%{{http_code}} %{{header_json}}"),
                *options,
                url,
            ],
            user=user,
            check=False,
            timeout=timeout + 20,
        )
        body, separator, tail = done.stdout.rpartition(_SPLIT)
        if not separator:
            raise CommandError(f"{self.name}: curl {url}: {done.stderr}")
        code, _, headers = tail.partition(" ")
        if done.returncode != 0 and int(code) == 0:
            return Answer(0, error=done.stderr.strip())
        return Answer(int(code), json.loads(headers), body, done.stderr.strip())

    def curl_until(
        self, status: int, url: str, *options: str, user: str | None = None, within: float = 3.0
    ) -> Answer:
        """The first answer with this status. Raises NeverError when none comes in time."""

        def ask() -> Answer | None:
            answer = self.curl(url, *options, user=user)
            if answer.status == status:
                return answer
            raise AssertionError(answer)

        return eventually(ask, within, f"{user} on {self.name} gets {status} from {url}")

    def status(self) -> dict[str, Any]:
        """`fleetmesh status --json`."""
        shown: dict[str, Any] = json.loads(self.output("fleetmesh status --json"))
        return shown

    def service(self, name: str) -> dict[str, Any]:
        """A service of this host, out of its status. Raises KeyError."""
        services = {one["name"]: one for one in self.status()["services"]}
        service: dict[str, Any] = services[name]
        return service

    def metric(self, name: str, **labels: str) -> float:
        """The sum over the samples of this name that have all these labels; 0.0 without any."""
        page = self.output("curl -sS --max-time 5 http://127.0.0.1:15020/metrics")
        return sum(
            sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def journal(self, *matches: str, since: float = 0.0) -> list[dict[str, Any]]:
        """Entries of the agent's unit with these FIELD=value matches since an epoch time."""
        done = self.run(
            [
                *("journalctl", "-o", "json", "--no-pager", f"--since=@{int(since)}"),
                *("_SYSTEMD_UNIT=fleetmesh-agent.service", *matches),
            ],
            check=False,
        )
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    def ready(self) -> bool:
        """Whether the agent serves: active, published to every worker, capture as wanted."""
        probe = self.run(
            "systemctl is-active -q fleetmesh-agent && "
            "curl -fsS -o /dev/null --max-time 2 http://127.0.0.1:15020/readyz",
            check=False,
        )
        return probe.returncode == 0

    def wait_ready(self, timeout: float = 30.0) -> None:
        eventually(self.ready, timeout, f"{self.name}: the agent is ready", every=0.3)

    @contextlib.contextmanager
    def edited(self, path: str, edit: Callable[[dict[str, Any]], None]) -> Iterator[None]:
        """A YAML file of the host changed by `edit` and the agent reloaded; undone at the end."""
        before = self.run(["cat", path]).stdout
        document = yaml.safe_load(before)
        edit(document)
        self.run(f"cat > {path}", stdin=yaml.safe_dump(document))
        try:
            self.run("systemctl reload fleetmesh-agent")
            yield
        finally:
            self.run(f"cat > {path}", stdin=before)
            self.run("systemctl is-active -q fleetmesh-agent || exit 0; fleetmesh reload")


def ssh(lab: str, host: str, command: str, shared: bool = True) -> list[str]:
    """The argv that runs a shell command as root on a host, over the shared connection or not."""
    own = [] if shared else ["-o", "ControlMaster=no", "-o", "ControlPath=none"]
    return ["ssh", "-F", str(LABS / lab / "ssh_config"), *own, host, command]


def _as_user(command: str | list[str], user: str | None) -> str:
    text = command if isinstance(command, str) else shlex.join(command)
    if user is None:
        return text
    return f"runuser -u {user} -- sh -c {shlex.quote(text)}"
