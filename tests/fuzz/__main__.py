"""`python -m tests.fuzz --minutes 10`: framing and heads, until the time is over.

With atheris (`pip install atheris`) the choice of inputs is guided by the coverage of
`fleetmesh.core` and `fleetmesh.proxy`; without it, they are legal messages and accidents in them.
What is found is kept under build/fuzz, the shortest of each kind, and
`python -m tests.fuzz FILE` shows it again. The exit code is 1 when something was found.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from random import Random
from typing import Any

BUILD = Path(__file__).parents[2] / "build" / "fuzz"
REPORT_EVERY = 30.0  # seconds
SEEDS = 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="not guided, even with atheris")
    parser.add_argument("file", type=Path, nargs="*", help="run these inputs only")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    guided = not options.random and not options.file and find_spec("atheris") is not None
    with _instrumented() if guided else nullcontext():
        from tests.fuzz.findings import Findings  # brings in the mesh, to be instrumented
    findings = Findings(BUILD)
    if options.file:
        for file in options.file:
            findings.run(file.read_bytes())
        return _end(findings)
    print("guided by coverage" if guided else "not guided: random inputs", file=sys.stderr)
    watched = _watched(findings, time.monotonic() + 60 * options.minutes)
    if guided:
        _guided(watched, options.seed)
    _random(watched, options.seed)
    return 2  # `watched` ends the process


def _end(findings: Any) -> int:
    print(findings.report(), flush=True)
    return 1 if findings.kinds else 0


def _watched(findings: Any, end: float) -> Any:
    """One execution that knows the time; libFuzzer lets nobody else end the process in order."""
    said = time.monotonic()

    def run(data: bytes) -> None:
        nonlocal said
        findings.run(data)
        now = time.monotonic()
        if now > end:
            os._exit(_end(findings))
        if now - said > REPORT_EVERY:
            said = now
            print(findings.report(), file=sys.stderr, flush=True)

    return run


def _random(run: Any, seed: int) -> None:
    from tests.fuzz.target import seed as seeded

    while True:
        run(seeded(Random(seed)))
        seed += 1


def _instrumented() -> Any:
    import atheris

    return atheris.instrument_imports(include=["fleetmesh.core", "fleetmesh.proxy"])


def _guided(run: Any, seed: int) -> None:
    import atheris
    from tests.fuzz.target import CONTROL
    from tests.fuzz.target import seed as seeded
    from tests.support.http_grammar import SNIPPETS
    from tests.support.http_grammar import mutate as accident

    corpus = BUILD / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(SEEDS):
        (corpus / f"seed-{number}").write_bytes(seeded(Random(seed + number)))
    words = ("".join(f"\\x{byte:02x}" for byte in snippet) for snippet in SNIPPETS)
    dictionary = BUILD / "words"
    dictionary.write_text("".join(f'"{word}"\n' for word in words))

    def mutate(data: bytes, size: int, chance: int) -> bytes:
        """Half of the time an accident to a message, else what libFuzzer knows to do."""
        if chance % 2 and len(data) > CONTROL:
            return bytes(data[:CONTROL] + accident(Random(chance), data[CONTROL:]))[:size]
        mutated: bytes = atheris.Mutate(data, size)
        return mutated

    arguments = [f"-seed={seed}", f"-dict={dictionary}", f"-artifact_prefix={BUILD}/"]
    arguments += ["-max_len=2000", "-timeout=10", "-rss_limit_mb=2048", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], run, custom_mutator=mutate)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
