"""Asks PyPI for known faults of the packages in constraints.txt: `python scripts/audit.py`.

A fault fails, but for those in scripts/audit-ignore.txt (an id, then why). pip-audit takes a package that the index does
not tell of for one to skip, and ends well if it has skipped all of them: here it is counted, and said.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

_SECONDS = 300
_COMMAND = (
    *("--no-deps", "--disable-pip", "--vulnerability-service", "pypi", "--timeout", "15"),
    *("--progress-spinner", "off", "--format", "json"),
)
# How pip-audit ends where PyPI is not to be reached or is broken; any other end is its own fault, or ours.
_AWAY = re.compile(
    r"^requests\.exceptions\.(?:\w*Timeout|\w*ConnectionError|ProxyError|SSLError|ChunkedEncodingError|JSONDecodeError)\b"
    r"|^pip_audit\._service\.interface\.(?:ServiceError|ConnectionError)\b"
    r"|your network may be blocking this service"
)


def main(root: Path) -> int:
    """Audit, and say what came of it.

    Returns:
        The exit status: 1 for a fault or where pip-audit cannot run, 0 also where PyPI could not be asked.
    """
    ignored = read_ignored(root / "scripts/audit-ignore.txt")
    options = [word for fault in ignored for word in ("--ignore-vuln", fault)]
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(root / "constraints.txt"), *_COMMAND, *options]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        sys.stdout.write(f"not audited: PyPI has not answered within {_SECONDS} s\n")
        return 0
    try:
        found = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or ["nothing"])[-1]
        is_away = bool(_AWAY.search(last))
        why = "PyPI's list of known faults is not to be had" if is_away else "pip-audit must run, and does not"
        sys.stdout.write(f"not audited: {why}: it says {last[:300]!r}\n")
        return int(not is_away)
    sentences, status = judge(found)
    sys.stdout.write("".join(f"{sentence}\n" for sentence in sentences))
    return status


def read_ignored(path: Path) -> list[str]:
    """The ids of the faults that do not concern the project."""
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line.split()[0] for line in lines if line and not line.startswith("#")]


def judge(found: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What pip-audit's list means, in sentences, and the exit status."""
    skipped = [package["name"] for package in found if "skip_reason" in package]
    asked = len(found) - len(skipped)
    if not found:
        return ["not audited: pip-audit must be given packages, and names none"], 1
    if not asked:
        return [f"not audited: the package index tells no faults of any of the {len(found)} packages"], 0
    faults = [
        f"{package['name']} {package['version']}: {fault['id']}, mended in {', '.join(fault['fix_versions']) or 'none'}"
        for package in found
        for fault in package.get("vulns", [])
    ]
    counted = f"audited: {asked} of {len(found)} packages, {len(faults)} known faults that are not listed"
    left_out = [f"not audited: {', '.join(skipped)}"] if skipped else []
    return [*faults, counted, *left_out], int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent.parent))
