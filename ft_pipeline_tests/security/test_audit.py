from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

# In scripts/, which is no package.
_audit: Any = import_module("audit")

_WHOLE = {"name": "a", "version": "1", "vulns": []}
_FAULTY = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
_SKIPPED = {"name": "c", "skip_reason": "Dependency not found on PyPI and could not be audited: c (1)"}


def test_packages_that_nobody_was_asked_about_are_not_audited() -> None:
    assert _audit.judge([_SKIPPED, _SKIPPED]) == (
        ["not audited: the package index tells no faults of any of the 2 packages"],
        0,
    )


def test_a_known_fault_fails_and_says_what_mends_it() -> None:
    sentences, status = _audit.judge([_WHOLE, _FAULTY, _SKIPPED])
    assert status == 1
    assert sentences == [
        "b 2: PYSEC-1, mended in 3",
        "audited: 2 of 3 packages, 1 known faults that are not listed",
        "not audited: c",
    ]


def test_whole_packages_pass() -> None:
    assert _audit.judge([_WHOLE]) == (["audited: 1 of 1 packages, 0 known faults that are not listed"], 0)


def test_every_fault_that_is_ignored_has_a_reason(project: Path, tmp_path: Path) -> None:
    path = project / "scripts/audit-ignore.txt"
    lines = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert all(len(words) > 3 for words in lines)
    (tmp_path / "ignore.txt").write_text("# why\n\nPYSEC-1 we never call it\n")
    assert _audit.read_ignored(tmp_path / "ignore.txt") == ["PYSEC-1"]
