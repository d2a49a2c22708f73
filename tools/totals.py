"""What several runs of pytest reported, in one line: `totals.py REPORT.xml...` (JUnit XML)."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter


def main(paths: list[str]) -> int:
    """A report that is missing is a run that ended before it had one: 1 then, and for failures."""
    counts: Counter[str] = Counter()
    missing = []
    for path in paths:
        try:
            suites = ET.parse(path).getroot().iter("testsuite")
        except (OSError, ET.ParseError):
            missing.append(path)
            continue
        for suite in suites:
            for name in ("tests", "failures", "errors", "skipped"):
                counts[name] += int(suite.get(name, "0"))
    failed = counts["failures"] + counts["errors"] + len(missing)
    passed = max(counts["tests"] - counts["failures"] - counts["errors"] - counts["skipped"], 0)
    for path in missing:
        print(f"no report: {path}")
    print(f"{passed} passed, {failed} failed, {counts['skipped']} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
