"""All tests that need no GPU, those that take long among them, and their result file.

make test-all     # writes benchmarks/results/all_tests.json and all_tests.md
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import click
import pytest

from benchmarks.tables import RESULTS, write_results

_SLOWEST = 25
OUTCOMES = ("passed", "failed", "skipped")


@dataclass
class Recorder:
    """Collects what became of each test, from all processes."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    outcomes: dict[str, str] = field(default_factory=dict)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Set-up and tear-down count to the test; one of them that fails fails it."""
        self.seconds[report.nodeid] += report.duration
        if report.when == "call" or report.outcome != "passed":
            self.outcomes[report.nodeid] = report.outcome


def summarize(recorder: Recorder, wall_seconds: float) -> dict[str, Any]:
    """Counts and seconds by folder, what failed, what was skipped, and the slowest."""
    folders: dict[str, dict[str, float]] = {}
    for name, outcome in recorder.outcomes.items():
        parts = name.partition("::")[0].split("/")
        row = folders.setdefault(parts[1] if len(parts) > 2 else "(top)", dict.fromkeys([*OUTCOMES, "seconds"], 0))
        row[outcome] += 1
        row["seconds"] = round(row["seconds"] + recorder.seconds[name], 1)
    by_outcome = {one: sorted(n for n, found in recorder.outcomes.items() if found == one) for one in OUTCOMES}
    slowest = sorted(recorder.seconds.items(), key=lambda item: -item[1])[:_SLOWEST]
    return {
        "machine": {"cores": len(os.sched_getaffinity(0)), "python": platform.python_version()},
        "wall_seconds": round(wall_seconds),
        **{outcome: len(names) for outcome, names in by_outcome.items()},
        "folders": folders,
        "failed_tests": by_outcome["failed"],
        "skipped_tests": by_outcome["skipped"],
        "slowest": {name: round(seconds, 1) for name, seconds in slowest},
    }


def to_markdown(found: dict[str, Any]) -> str:
    """The summary for people."""
    lines = [
        "# All tests that need no GPU",
        "",
        f"{found['passed']} passed, {found['failed']} failed, {found['skipped']} skipped in {found['wall_seconds']} s "
        f"on {found['machine']['cores']} cores, Python {found['machine']['python']}.",
        "",
        "| folder | passed | failed | skipped | seconds, all processes together |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for name, row in sorted(found["folders"].items()):
        lines.append(f"| {name} | {row['passed']} | {row['failed']} | {row['skipped']} | {row['seconds']:.0f} |")
    lines += ["", "| slowest | seconds |", "| --- | ---: |"]
    lines += [f"| {name} | {seconds:.0f} |" for name, seconds in found["slowest"].items()]
    return "\n".join(lines) + "\n"


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def main(options: tuple[str, ...]) -> None:
    """Run them with these options of pytest, and write down what became of them."""
    recorder, started = Recorder(), time.monotonic()
    code = pytest.main(["-m", "not gpu", *options], plugins=[recorder])
    found = summarize(recorder, time.monotonic() - started)
    if code in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):  # not of a run that was broken off
        write_results(RESULTS, "all_tests", found, to_markdown(found))
    sys.exit(code)


if __name__ == "__main__":
    main()
