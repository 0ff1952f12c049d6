from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

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


def test_no_packages_at_all_are_no_audit() -> None:
    assert _audit.judge([])[1] == 1


@pytest.mark.parametrize(
    "tool",
    [
        "raise ModuleNotFoundError('No module named pip_audit')",
        "import sys; sys.exit('pip-audit: error: unrecognized arguments: --disable-pip')",
        "print('{}')",
        "",
    ],
)
def test_an_audit_that_cannot_run_fails(
    root: Path, tool: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (root / "pip_audit.py").write_text(tool)
    monkeypatch.setenv("PYTHONPATH", str(root))
    assert _audit.main(root) == 1
    assert "not audited: pip-audit must run, and does not" in capsys.readouterr().out


@pytest.mark.slow
def test_an_audit_passes_where_pypi_is_not_to_be_reached(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "")
    assert _audit.main(root) == 0
    assert "not audited: PyPI's list of known faults is not to be had" in capsys.readouterr().out


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project with one package, which nobody has asked about before."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/audit-ignore.txt").write_text("")
    (tmp_path / "constraints.txt").write_text("ft-pipeline-is-on-no-index==0\n")
    return tmp_path


def test_every_fault_that_is_ignored_has_a_reason(project: Path, tmp_path: Path) -> None:
    path = project / "scripts/audit-ignore.txt"
    lines = [line.split() for line in path.read_text().splitlines() if line.strip() and not line.startswith("#")]
    assert all(len(words) > 3 for words in lines)
    (tmp_path / "ignore.txt").write_text("# why\n\nPYSEC-1 we never call it\n")
    assert _audit.read_ignored(tmp_path / "ignore.txt") == ["PYSEC-1"]
