from __future__ import annotations

from pathlib import Path

from ft_pipeline.recipe_reference import render_reference


def test_the_reference_in_docs_is_that_of_the_models(project: Path) -> None:
    assert (project / "docs/recipe.md").read_text() == render_reference()


def test_every_field_says_what_it_means() -> None:
    rows = [line for line in render_reference().splitlines() if line.startswith("| `")]
    assert len(rows) > 30
    assert [row for row in rows if row.endswith("|  |")] == []
