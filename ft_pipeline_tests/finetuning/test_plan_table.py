from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from ft_pipeline.__main__ import main
from ft_pipeline.errors import BaseModelError, MemoryBudgetError, PipelineError, ResourceError

_RECIPE = """\
name: mine
base_model: {source: %s}
dataset: {sources: [data/raw/*.jsonl], max_row_tokens: 1024}
training: {epochs: 2}
"""


def _run(*arguments: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Result:
    monkeypatch.chdir(root)
    return CliRunner().invoke(main, ["plan", *arguments])


def _write(folder: Path, source: str) -> str:
    path = folder / "mine.yaml"
    path.write_text(_RECIPE % source)
    return str(path)


def test_a_recipe_is_planned_on_every_card(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _write(tmp_path, "01-ai/Yi-34B-Chat")
    done = _run(recipe, root=project, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert "mine: 01-ai/Yi-34B-Chat, 34.39B parameters" in done.output
    assert "All rows taken for as long as dataset.max_row_tokens, 1024" in done.output
    assert "h for 2 x 10k rows" in done.output
    assert "RTX 3080 10 GB: what would fit: a base of " in done.output
    assert "2 x RTX 4090 24 GB: not runnable yet" in done.output
    for name in ("ROCm", "FP4", "Native Windows: WSL2 is fine"):
        assert name in done.output


def test_one_card_is_a_markdown_table(tmp_path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = _write(tmp_path, "meta-llama/Llama-3.1-8B")
    done = _run(recipe, "--card", "rtx3090", "--format", "markdown", root=project, monkeypatch=monkeypatch)
    rows = [line for line in done.output.splitlines() if line.startswith("|")]
    assert len(rows) == 6
    assert rows[2].startswith("| RTX 3090 24 GB | ")
    assert [row.count("|") for row in rows[:3]] == [rows[0].count("|")] * 3


def test_a_base_on_disk_is_read_from_there(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = _run("demo", "--card", "h200", root=project, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    assert re.search(r"^demo: data/base_model, \d\.\dM parameters, rank 16, 1024 tokens a step$", done.output, re.M)


@pytest.mark.parametrize(
    ("source", "card", "error", "words"),
    [
        ("meta-llama/Llama-3.1-70B", "rtx4090", MemoryBudgetError, "GiB short. What would fit: a base of 34.4B"),
        ("someone/unheard-of", "rtx4090", BaseModelError, "got 'someone/unheard-of'. Known: llama-3.2-1b"),
        ("meta-llama/Llama-3.1-8B", "rtx9090", ResourceError, "the card must be one of rtx3080"),
    ],
)
def test_what_cannot_be_planned_is_an_error_of_its_own(
    source: str,
    card: str,
    error: type[PipelineError],
    words: str,
    tmp_path: Path,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = _run(_write(tmp_path, source), "--card", card, root=project, monkeypatch=monkeypatch)
    assert isinstance(done.exception, error)
    assert words in str(done.exception)


def test_the_grid_has_every_card_and_size_and_is_what_the_docs_quote(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = _run("--all", "--format", "markdown", root=project, monkeypatch=monkeypatch)
    assert done.exit_code == 0, done.output
    quoted = (project / "docs/planner.md").read_text(encoding="utf-8")
    tables = [block for block in done.output.split("\n\n") if block.startswith("|")]
    assert [len(table.splitlines()) for table in tables] == [5 + 2, 9 + 2, 9 + 2]
    for table in tables:
        assert table.strip() in quoted, (
            "docs/planner.md is old: paste `python -m ft_pipeline plan --all --format markdown`"
        )
