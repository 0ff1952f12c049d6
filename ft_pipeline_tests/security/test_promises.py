from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

_NAMED = re.compile(r"`(ft_pipeline_tests/[\w/]+\.py)(?:::(\w+))?`")


@pytest.mark.parametrize("page", ["docs/security.md", "docs/alerts.md"])
def test_every_test_that_a_page_names_exists(project: Path, page: str) -> None:
    named = _NAMED.findall((project / page).read_text(encoding="utf-8"))
    assert named
    missing = [f"{path}::{test}" for path, test in named if not _exists(project / path, test)]
    assert missing == []


def test_every_promise_names_a_test(project: Path) -> None:
    rows = [line for line in (project / "docs/security.md").read_text(encoding="utf-8").splitlines() if "|" in line]
    promises = [row for row in rows if row.count("|") == 4 and not row.startswith(("| ---", "| promise"))]
    assert len(promises) > 15
    assert [row for row in promises if not _NAMED.search(row)] == []


def test_every_file_that_a_promise_names_exists(project: Path) -> None:
    rows = re.findall(r"^\|[^|]+\|([^|]+)\|[^|]+\|$", (project / "docs/security.md").read_text("utf-8"), re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([\w/]+\.py)`", row)}
    assert named
    assert [name for name in named if not list((project / "ft_pipeline").rglob(name))] == []


def _exists(path: Path, test: str) -> bool:
    if not path.is_file():
        return False
    functions = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    return not test or test in functions
