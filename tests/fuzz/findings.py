"""What a fuzzer's run found: the shortest input of each kind, on disk at once."""

from __future__ import annotations

import hashlib
import sys
import traceback
from pathlib import Path

from tests.fuzz.target import run
from tests.support.http_judge import DivergenceError
from tests.support.http_known import known


class Findings:
    """`kinds` are the findings by where and how; `known` counts those of the list."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.executions = 0
        self.through = 0
        self.known: dict[str, int] = {}
        self.kinds: dict[str, bytes] = {}

    def run(self, data: bytes) -> None:
        """One execution; never raises."""
        self.executions += 1
        try:
            self.through += run(data)
        except Exception as error:
            row = known(str(error)) if isinstance(error, DivergenceError) else None
            if row is not None:
                self.known[row.title] = self.known.get(row.title, 0) + 1
            else:
                self._keep(data, error)

    def _keep(self, data: bytes, error: Exception) -> None:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        kind = f"{type(error).__name__} {Path(frame.filename).name}:{frame.lineno}"
        shortest = self.kinds.get(kind)
        if shortest is not None and len(shortest) <= len(data):
            return
        self.kinds[kind] = data
        self._directory.mkdir(parents=True, exist_ok=True)
        file = self._directory / f"finding-{hashlib.sha256(kind.encode()).hexdigest()[:8]}"
        file.write_bytes(data)
        print(f"\n{kind}: {file} {data!r}\n{error}", file=sys.stderr)

    def report(self) -> str:
        again = sum(self.known.values())
        lines = [f"{self.executions} executions, {self.through} messages went through"]
        lines += [f"{len(self.kinds)} kinds of findings, {again} times a known one"]
        lines += [f"  known: {count} x {title}" for title, count in self.known.items()]
        lines += [f"  FOUND: {kind}: {data!r}" for kind, data in self.kinds.items()]
        return "\n".join(lines)
