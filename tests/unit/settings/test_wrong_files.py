"""Proof 10: wrong files each get one clear message, exit code 2, and nothing else happens."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from fleetmesh.cli import app


class Case(NamedTuple):
    """`message` follows `<file>:`."""

    name: str
    text: str
    message: str


def agent(name: str, text: str, message: str) -> Case:
    """A wrong agent.yaml whose first line is right."""
    return Case(name, f"address: 192.0.2.5\n{text}\n", message)


def service(name: str, text: str, message: str) -> Case:
    """A wrong service file whose first two lines are right."""
    return Case(name, f"name: web\nport: 8080\n{text}\n", message)


def entry(name: str, text: str, message: str) -> Case:
    """A policy file with one wrong entry, on line 2."""
    return Case(name, f"config_entries:\n  - {text}\n", f"2: config_entries[0]{message}")


def intention(name: str, text: str, message: str) -> Case:
    """A policy file with one wrong intention, on line 2."""
    return Case(name, f"intentions:\n  - {text}\n", f"2: intentions[0]{message}")


MANY_DIGITS = "8" * 5000

FILES = [
    Case("empty", "", "1: is empty. Write key: value lines"),
    Case("only a comment", "# later\n", "1: is empty. Write key: value lines"),
    Case("a list", "- address: 192.0.2.5\n", "1: must hold key: value lines"),
    Case(
        "an open bracket",
        "address: 192.0.2.5\nports: {plain: 15006\n",
        "3: is not YAML: expected ',' or '}', but got '<stream end>'. "
        "Check indentation, colons and quotes",
    ),
    Case(
        "two documents",
        "address: 192.0.2.5\n---\naddress: 192.0.2.6\n",
        "2: begins a second document. Keep one document per file",
    ),
    Case(
        "a tab",
        "address: 192.0.2.5\nports:\n\tplain: 15006\n",
        "3: is indented with a tab. Indent with spaces",
    ),
    Case(
        "a control character",
        "address: 192.0.2.5\n\x07\n",
        "2: holds a control character. Remove it",
    ),
    Case(
        "an alias",
        "address: &a 192.0.2.5\naddress6: *a\n",
        "2: aliases are not read. Write the value out",
    ),
    Case(
        "a tag",
        "address: !vault 192.0.2.5\n",
        "1: address: has the tag !vault. Write a plain value without a tag",
    ),
    Case(
        "a file of nobody",
        "hello: world\n",
        "1: is neither agent settings (address), a service (name, port) nor a policy "
        "(config_entries, intentions). Correct its keys, or say what it is by --kind",
    ),
]

AGENT = [
    Case("no address", "workers: 2\n", "1: address: is missing. Add address"),
    Case(
        "a name for an address",
        "address: web1\n",
        '1: address: must be an IP address, not "web1". Write the host\'s own address, 192.0.2.5',
    ),
    Case(
        "every address",
        "address: 0.0.0.0\n",
        "1: address: 0.0.0.0 is not the address of one host. "
        "Write the host's own address, 192.0.2.5",
    ),
    agent(
        "IPv4 for IPv6",
        "address6: 192.0.2.6",
        "2: address6: must be an IPv6 address, but 192.0.2.6 is IPv4. "
        "Write the host's own address, 2001:db8::5",
    ),
    agent("a misspelt key", "workerz: 2", '2: workerz: is not known here. Did you mean "workers"?'),
    agent(
        "a socket of Consul's without a path",
        "consul:\n  address: unix://run",
        '3: consul.address: "unix://run" does not name a Unix socket. '
        "Write unix:///run/consul/consul.sock",
    ),
    agent(
        "a client certificate without its key",
        "consul:\n  address: https://127.0.0.1:8501\n  cert_file: /etc/c.pem",
        "4: consul.cert_file: is set without key_file. A client certificate needs both files",
    ),
    agent(
        "CAs for http",
        "consul:\n  ca_file: /etc/ca.pem",
        "3: consul.ca_file: is set while consul.address is http://127.0.0.1:8500. "
        "Write https:// there, or remove the file",
    ),
    agent(
        "a misspelt inner key",
        "consul:\n  adress: http://127.0.0.1:8500",
        '3: consul.adress: is not known here. Did you mean "address"?',
    ),
    agent(
        "a key twice",
        "workers: 1\nworkers: 2",
        "3: workers: was set on line 2 already. Keep one of the two",
    ),
    agent(
        "too many workers",
        "workers: 1000",
        "2: workers: must be a number of workers, 0 (one per core) to 256, not 1000",
    ),
    agent(
        "more warmed than kept",
        "upstream:\n  warm_connections: 10\n  max_idle: 9",
        "3: upstream.warm_connections: is more than upstream.max_idle (9) lets live. "
        "Raise upstream.max_idle, or warm fewer",
    ),
    agent(
        "more warmed than allowed",
        "upstream:\n  warm_connections: 10\n  max_connections: 9",
        "3: upstream.warm_connections: is more than upstream.max_connections (9) lets live. "
        "Raise upstream.max_connections, or warm fewer",
    ),
    agent(
        "workers in words",
        "workers: two",
        '2: workers: must be a number of workers, 0 (one per core) to 256, not "two". '
        "Write a whole number",
    ),
    agent(
        "a key without a value",
        "log_level:",
        "2: log_level: has no value. Give it one or remove the line",
    ),
    agent(
        "a log level of another program",
        "log_level: trace",
        '2: log_level: must be one of debug, info, warning, error, not "trace"',
    ),
    agent(
        "a duration without a unit",
        'drain_timeout: "5 seconds"',
        '2: drain_timeout: must be a duration, not "5 seconds". '
        "Write seconds (5) or units (250ms, 5s, 1m30s)",
    ),
    agent(
        "a negative duration",
        "drain_timeout: -1",
        "2: drain_timeout: must not be negative, but is -1",
    ),
    agent(
        "a confirmation nobody can give in time",
        "capture:\n  confirm_timeout: 1s",
        '3: capture.confirm_timeout: must be between 5s and 3600s, not "1s"',
    ),
    agent(
        "yes for true",
        "mesh_destinations_only: yes",
        '2: mesh_destinations_only: must be true or false, not "yes"',
    ),
    agent(
        "a choice that is none",
        "on_stop: opne",
        '2: on_stop: must be one of open, closed, not "opne"',
    ),
    agent(
        "a relative path",
        "state_dir: var/lib",
        '2: state_dir: must be an absolute path, not "var/lib". Begin it with /',
    ),
    agent(
        "a Consul address without a scheme",
        "consul: {address: '127.0.0.1:8500'}",
        '2: consul.address: must be an http or https URL, not "127.0.0.1:8500". '
        "Write http://127.0.0.1:8500",
    ),
    agent(
        "a token in the open",
        "consul: {token: 00000000-1111-2222-3333-444444444444}",
        '2: consul.token: is not known here. Did you mean "token_file"?',
    ),
    agent(
        "a network with host bits",
        "capture:\n  exclude_cidrs:\n    - 192.0.2.0/24\n    - 198.51.100.7/24",
        "5: capture.exclude_cidrs[1]: 198.51.100.7/24 has bits set beyond its prefix. "
        "Did you mean 198.51.100.0/24?",
    ),
    agent(
        "a text where a list belongs",
        "capture: {exclude_ports: 25}",
        "2: capture.exclude_ports: must be a list. Write it as [a, b] or as lines beginning with -",
    ),
    agent(
        "port 0",
        "capture: {exclude_ports: [25, 0]}",
        "2: capture.exclude_ports[1]: must be a port, 1 to 65535, not 0",
    ),
    agent(
        "half a range",
        "ports: {outbound: [15100]}",
        "2: ports.outbound: must list 2 values, not 1",
    ),
    agent(
        "a range backwards",
        "ports: {sidecar: [21255, 21000]}",
        "2: ports.sidecar: begins at 21255 and ends at 21000. Write the lower first",
    ),
    agent(
        "ranges that overlap",
        "ports: {sidecar: [15200, 15500]}",
        "2: ports.sidecar: overlaps ports.outbound. Give the two ranges separate ports",
    ),
    agent(
        "a range over SSH",
        "ports: {outbound: [1, 100]}",
        "2: ports.outbound: contains 22, an SSH port (capture.ssh_ports). Choose other ports",
    ),
    agent(
        "a range over Consul",
        "ports:\n  outbound: [8400, 8600]",
        "3: ports.outbound: contains 8500, the port of consul.address. Choose other ports",
    ),
    agent(
        "plain connections to SSH",
        "ports: {plain: 2222}\ncapture: {ssh_ports: [22, 2222]}",
        "2: ports.plain: is the SSH port 2222. Choose another port",
    ),
    agent(
        "metrics without an address",
        "metrics_address: ':15020'",
        '2: metrics_address: must be an address and a port, not ":15020". Write 127.0.0.1:15020',
    ),
    agent(
        "services in agent.yaml",
        "services: []",
        "2: services: is not known here. Known keys: address, address6, workers, "
        "max_connections, on_stop, "
        "mesh_destinations_only, without_sidecar, drain_timeout, log_level, metrics_address, "
        "admin_socket, state_dir, consul, capture, dns, ports, http, tcp, upstream, "
        "tracing, access_log, on_demand",
    ),
    agent("a number for a section", "http: 5", "2: http: must hold key: value lines"),
]

SERVICE = [
    Case(
        "a port of thousands of digits",
        f"name: web\nport: {MANY_DIGITS}\n",
        f'2: port: must be a port, 1 to 65535, not "{MANY_DIGITS}". Write a whole number',
    ),
    Case(
        "an escaped control character",
        'name: web\nport: 80\nmeta: {a: "x\\0y"}\n',
        "3: meta.a: holds a control character. Remove it",
    ),
    Case(
        "half a character",
        'name: web\nport: 80\nmeta: {a: "\\ud800"}\n',
        "3: meta.a: holds a control character. Remove it",
    ),
    Case("no port", "name: web\n", "1: port: is missing. Add port"),
    Case(
        "a name with an underscore",
        "name: web_shop\nport: 8080\n",
        '1: name: "web_shop" is not a service name. Use 1 to 63 lower-case letters, digits and '
        "hyphens, beginning and ending with a letter or digit",
    ),
    Case(
        "a sidecar's name",
        "name: web-sidecar-proxy\nport: 8080\n",
        '1: name: "web-sidecar-proxy" is reserved. Choose another service name',
    ),
    Case(
        "a port out of range",
        "name: web\nport: 80800\n",
        "2: port: must be a port, 1 to 65535, not 80800",
    ),
    Case(
        "a port in quotes",
        'name: web\nport: "8080"\n',
        '2: port: must be a port, 1 to 65535, not "8080". Write a whole number',
    ),
    service(
        "root",
        "user: root",
        "3: user: root cannot be a service's user. Run the service under a user of its own",
    ),
    service(
        "the agent's user",
        "user: fleetmesh",
        "3: user: fleetmesh cannot be a service's user. Run the service under a user of its own",
    ),
    service(
        "user and unit",
        "user: web\nunit: web.service",
        "4: unit: is set beside user. Keep the one that runs the service",
    ),
    service(
        "half a unit name",
        "unit: web",
        '3: unit: "web" is not a systemd service unit. Write its full name: cart.service',
    ),
    service(
        "a protocol that is not understood",
        "protocol: grpc",
        '3: protocol: must be one of tcp, http, auto, not "grpc"',
    ),
    service(
        "a misspelt mode",
        "mode: permisive",
        '3: mode: must be one of strict, permissive, not "permisive"',
    ),
    service(
        "a number as meta",
        "meta:\n  version: 1.10",
        '4: meta.version: must be text, not 1.10. Quote it: "1.10"',
    ),
    service(
        "a meta key that Consul refuses",
        "meta: {'a b': x}",
        "3: meta.a b: is not a key Consul takes. Use letters, digits, _ and -",
    ),
    service(
        "our own meta key",
        "meta: {managed-by: me}",
        "3: meta.managed-by: is reserved. Choose another key",
    ),
    service("a tag twice", "tags: [blue, blue]", '3: tags[1]: repeats "blue". Remove it'),
    service(
        "an upstream that is no name",
        "upstreams: [api, http://api]",
        '3: upstreams[1]: "http://api" is not a service name. Use 1 to 63 lower-case letters, '
        "digits and hyphens, beginning and ending with a letter or digit",
    ),
    service(
        "a sidecar on the application's port",
        "sidecar_port: 8080",
        "3: sidecar_port: is the application's own port 8080. Choose another port",
    ),
    service(
        "an outbound port without a user",
        "outbound_port: 15100",
        "3: outbound_port: is set without user or unit. Name who makes the calls",
    ),
    service("no weight", "weight: 0", "3: weight: must be a weight, 1 to 65535, not 0"),
    service(
        "a misspelt check key",
        "checks:\n  - http: http://127.0.0.1:8080/health\n    interval: 5s\n    timout: 1s",
        '6: checks[0].timout: is not a key of a check. Did you mean "timeout"?',
    ),
    service(
        "a check of nothing",
        "checks:\n  - name: alive\n    interval: 5s",
        "4: checks[0]: checks nothing. Add one of http, tcp, udp, grpc, h2ping, ttl, args, "
        "os_service, alias_service, alias_node",
    ),
    service(
        "a check of two things",
        "checks: [{http: 'http://127.0.0.1:8080/', tcp: '127.0.0.1:8080', interval: 5s}]",
        "3: checks[0]: has http and tcp. Keep one and make another check of the other",
    ),
    service(
        "a check without an interval",
        "checks: [{tcp: '127.0.0.1:8080'}]",
        "3: checks[0]: has no interval. Add interval: 10s",
    ),
    service(
        "a heartbeat with an interval",
        "checks: [{ttl: 30s, interval: 5s}]",
        "3: checks[0]: has an interval, which a ttl check does not use. Remove it",
    ),
    service(
        "a check of a path",
        "checks: [{http: /health, interval: 5s}]",
        '3: checks[0].http: must be a URL, not "/health". Write http://127.0.0.1:8080/health',
    ),
    service(
        "a check of a port alone",
        "checks: [{tcp: 8080, interval: 5s}]",
        "3: checks[0].tcp: must be text, not 8080. Write it in quotes",
    ),
    service(
        "a check too often",
        "checks: [{tcp: '127.0.0.1:8080', interval: 100ms}]",
        '3: checks[0].interval: must be at least 1s, not "100ms"',
    ),
    service(
        "a reaper too quick",
        "checks: [{ttl: 10s, deregister_critical_service_after: 5s}]",
        '3: checks[0].deregister_critical_service_after: must be at least 60s, not "5s"',
    ),
    service(
        "a key in two spellings",
        "checks: [{TTL: 10s, ttl: 20s}]",
        "3: checks[0].ttl: repeats ttl in another spelling. Keep one",
    ),
]

POLICY = [
    entry(
        "an unknown kind",
        "{Kind: service-default, Name: api}",
        '.Kind: "service-default" is no kind. Did you mean "service-defaults"?',
    ),
    entry("no name", "{Kind: service-defaults}", ".Name: is missing. Add Name"),
    entry("no kind", "{Name: api, Protocol: http}", ".Kind: is missing. Add Kind"),
    entry(
        "snake case",
        "{Kind: service-defaults, Name: api, protocol: http}",
        '.protocol: is not known here. Did you mean "Protocol"?',
    ),
    entry(
        "a protocol Consul lacks",
        "{Kind: service-defaults, Name: api, Protocol: https}",
        '.Protocol: must be one of tcp, http, http2, grpc, not "https"',
    ),
    entry(
        "a proxy-defaults of one service",
        "{Kind: proxy-defaults, Name: api}",
        '.Name: is "api". It can only be global',
    ),
    entry(
        "weights that do not sum to 100",
        "{Kind: service-splitter, Name: api, Splits: [{Weight: 90}, {Weight: 9, Service: b}]}",
        ".Splits: has weights that sum to 99, not 100. Make the sum 100",
    ),
    entry(
        "the same split twice",
        "{Kind: service-splitter, Name: api, Splits: [{Weight: 50}, {Weight: 50, Service: api}]}",
        ".Splits[1]: splits to the same as Splits[0]. Join the two",
    ),
    entry(
        "redirect and failover",
        "{Kind: service-resolver, Name: a, Redirect: {Service: b}, Failover: {'*': {Service: c}}}",
        ".Redirect: is set beside Failover. Keep one of the two",
    ),
    entry(
        "a default subset that is not there",
        "{Kind: service-resolver, Name: a, DefaultSubset: v3, Subsets: {v1: {}, v2: {}}}",
        '.DefaultSubset: "v3" is not one of Subsets. Known subsets: v1, v2',
    ),
    entry(
        "a failover to nowhere",
        "{Kind: service-resolver, Name: a, Failover: {'*': {}}}",
        ".Failover.*: leads nowhere. Add Service, ServiceSubset or Datacenters",
    ),
    entry(
        "a timeout in nanoseconds",
        "{Kind: service-resolver, Name: a, ConnectTimeout: 5000000000}",
        '.ConnectTimeout: must be a duration with a unit, not 5000000000. Write "5s" or "250ms"',
    ),
    entry(
        "two path matches",
        "{Kind: service-router, Name: a, "
        "Routes: [{Match: {HTTP: {PathExact: /a, PathPrefix: /b}}}]}",
        ".Routes[0].Match.HTTP: sets PathExact and PathPrefix. Keep one",
    ),
    entry(
        "a rewrite without a path",
        "{Kind: service-router, Name: a, Routes: [{Destination: {PrefixRewrite: /}}]}",
        ".Routes[0].Destination.PrefixRewrite: needs a match by path. "
        "Add PathPrefix or PathExact to Match.HTTP",
    ),
    entry(
        "a header match of nothing",
        "{Kind: service-router, Name: a, Routes: [{Match: {HTTP: {Header: [{Name: x}]}}}]}",
        ".Routes[0].Match.HTTP.Header[0]: matches nothing. "
        "Add Present, Exact, Prefix, Suffix or Regex",
    ),
    entry(
        "a source that says nothing",
        "{Kind: service-intentions, Name: a, Sources: [{Name: b}]}",
        ".Sources[0]: has neither Action nor Permissions. Keep exactly one of the two",
    ),
    entry(
        "several services on tcp",
        "{Kind: ingress-gateway, Name: a, "
        "Listeners: [{Port: 80, Services: [{Name: a}, {Name: b}]}]}",
        ".Listeners[0]: has several services on tcp. Make Protocol http, or keep one",
    ),
    entry(
        "half a certificate",
        "{Kind: terminating-gateway, Name: a, Services: [{Name: b, CAFile: /c, CertFile: /d}]}",
        ".Services[0]: has one of CertFile and KeyFile. Set both or neither",
    ),
    entry(
        "a text for an entry",
        "service-defaults",
        ": must hold key: value lines. Write Kind, Name and the entry's keys",
    ),
    intention(
        "a misspelt action",
        "{source: web, destination: api, action: alow}",
        '.action: must be one of allow, deny, not "alow"',
    ),
    intention("no action", "{source: web, destination: api}", ".action: is missing. Add action"),
    intention(
        "a pattern",
        "{source: 'web*', destination: api, action: allow}",
        '.source: "web*" is not a service name. Write "*" for every service',
    ),
    intention(
        "Consul's own keys",
        "{SourceName: web, source: web, destination: api, action: allow}",
        '.SourceName: is not known here. Did you mean "source"?',
    ),
    Case(
        "the same intention twice",
        "intentions:\n  - {source: a, destination: b, action: allow}\n"
        "  - {source: a, destination: b, action: deny}\n",
        "3: intentions[1]: intention a => b stands in {file}:2 already. Keep one of the two",
    ),
    Case(
        "the same entry twice",
        "config_entries:\n  - {Kind: service-defaults, Name: a}\n"
        "  - {Kind: service-defaults, Name: a}\n",
        "3: config_entries[1]: service-defaults/a stands in {file}:2 already. Keep one of the two",
    ),
    Case(
        "another section",
        "intentions: []\npolicies: []\n",
        "2: policies: is not known here. Known keys: config_entries, intentions",
    ),
]

CASES = FILES + AGENT + SERVICE + POLICY


@pytest.mark.parametrize("case", CASES, ids=[case.name.replace(" ", "-") for case in CASES])
def test_a_wrong_file_gets_one_clear_message(case: Case, tmp_path: Path) -> None:
    """File, line, key, rule and remedy in one line on standard error; exit code 2."""
    path = tmp_path / "wrong.yaml"
    path.write_text(case.text)
    result = CliRunner().invoke(app, ["validate", str(path)])
    expected = case.message.replace("{file}", str(path))
    assert result.stderr.splitlines() == [f"{path}:{expected}"]
    assert result.stdout == ""
    assert result.exit_code == 2


def test_the_table_is_as_long_as_promised() -> None:
    assert len(CASES) >= 30
    assert len({case.name for case in CASES}) == len(CASES)
