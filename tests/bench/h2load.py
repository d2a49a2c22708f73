"""A second caller at a fixed rate, not of our making: h2load, over HTTP/1.1.

All of its connections ask at the same instants, so that requests come in bursts; a latency counts
from when its request was sent. Paths differ, fields do not: h2load has no way to vary them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.contenders import Contender
from tests.bench.install import path
from tests.bench.running import FailedError

WARM_UP = 1
FIELDS = (
    "User-Agent: bench/1.0",
    "Accept: application/json",
    "Accept-Encoding: gzip, deflate",
    "X-Request-Id: 0123456789abcdef",
    "Cookie: session=0123456789abcdef; theme=dark",
    "Authorization: Bearer 0123456789abcdef0123456789abcdef",
)


def ask(
    contender: Contender, rate: int, burst: int, seconds: float, run: Callable[[list[str]], str]
) -> dict[str, float]:
    """What came back; `run` executes a command. Latencies are in microseconds.

    Raises FailedError.
    """
    with TemporaryDirectory(prefix="fleetmesh-h2load") as directory:
        urls, log = Path(directory, "urls"), Path(directory, "log")
        base = f"http://127.0.0.1:{contender.entry['api']}"
        urls.write_text("".join(f"{base}/small/{number}?page=1\n" for number in range(1000)))
        command = [path("h2load"), "--h1", "-t1", f"-c{burst}", f"--rps={rate / burst:g}"]
        command += [f"-D{max(1, round(seconds))}", f"--warm-up-time={WARM_UP}"]
        command += [f"--log-file={log}", f"--input-file={urls}"]
        for field in FIELDS:
            command += ["-H", field]
        run(command)
        rows = [line.split("\t") for line in log.read_text().splitlines()]
    taken = sorted(float(row[2]) for row in rows if row[1] == "200")
    if not taken:
        raise FailedError(f"{contender.name}: h2load: nothing was answered")
    return {
        "requests": len(taken),
        "errors": len(rows) - len(taken),
        "p50": taken[len(taken) // 2],
        "p99": taken[int(len(taken) * 0.99)],
    }
