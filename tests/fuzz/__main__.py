"""`python -m tests.fuzz --minutes 10`: framing and heads, until the time is over or it finds one.

With atheris (`pip install atheris`) the choice of inputs is guided by coverage of `fleetmesh.core`
and `fleetmesh.proxy`; without it, they are legal messages and accidents in them. What is found is
kept under build/fuzz, the shortest of each kind, and `python -m tests.fuzz FILE` shows it again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from pathlib import Path
from random import Random

from tests.fuzz.findings import Findings

BUILD = Path(__file__).parents[2] / "build" / "fuzz"
REPORT_EVERY = 30.0  # seconds


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--random", action="store_true", help="not guided, even with atheris")
    parser.add_argument("file", type=Path, nargs="*", help="run these inputs only")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    findings = Findings(BUILD)
    if options.file:
        for file in options.file:
            findings.run(file.read_bytes())
    elif options.random or not _guided(findings, options.minutes, options.seed):
        _random(findings, options.minutes, options.seed)
    print(findings.report())
    return 1 if findings.kinds else 0


def _random(findings: Findings, minutes: float, seed: int) -> None:
    from tests.fuzz.target import seed as seeded

    end = time.monotonic() + 60 * minutes
    said = time.monotonic()
    while time.monotonic() < end:
        findings.run(seeded(Random(seed)))
        seed += 1
        if time.monotonic() - said > REPORT_EVERY:
            said = time.monotonic()
            print(findings.report(), file=sys.stderr)


def _guided(findings: Findings, minutes: float, seed: int) -> bool:
    """False when atheris is not here."""
    try:
        import atheris
    except ImportError:
        print("atheris is not installed: inputs are random", file=sys.stderr)
        return False
    with atheris.instrument_imports(include=["fleetmesh.core", "fleetmesh.proxy"]):
        from tests.fuzz.target import seed as seeded

    corpus = BUILD / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for number in range(500):
        (corpus / f"seed-{number}").write_bytes(seeded(Random(seed + number)))
    dictionary = BUILD / "words"
    dictionary.write_text(_dictionary())

    def mutate(data: bytes, size: int, chance: int) -> bytes:
        """Half of the time an accident to a message, else what libFuzzer knows to do."""
        from tests.fuzz.target import CONTROL
        from tests.support.http_grammar import mutate as accident

        if chance % 2 and len(data) > CONTROL:
            return (data[:CONTROL] + accident(Random(chance), data[CONTROL:]))[:size]
        mutated: bytes = atheris.Mutate(data, size)
        return mutated

    atheris.Setup(
        [
            sys.argv[0],
            f"-max_total_time={int(60 * minutes)}",
            f"-seed={seed}",
            f"-dict={dictionary}",
            f"-artifact_prefix={BUILD}/",
            "-max_len=2000",
            "-timeout=10",
            "-rss_limit_mb=2048",
            "-verbosity=0",
            str(corpus),
        ],
        findings.run,
        custom_mutator=mutate,
    )
    # libFuzzer ends the process: what is to be said is said at its exit.
    findings.report_at_exit()
    atheris.Fuzz()
    return True


def _dictionary() -> str:
    from tests.support.http_grammar import SNIPPETS

    lines = ["".join(f"\\x{byte:02x}" for byte in snippet) for snippet in SNIPPETS]
    return "".join(f'"{line}"\n' for line in lines)


if __name__ == "__main__":
    sys.exit(main())
