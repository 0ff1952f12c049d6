from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline.gate_checks import ALWAYS, declare_checks

RECIPE = """
name: mine
base_model: {source: base}
dataset: {sources: [data/*.jsonl]}
evaluation:
  gate:
    tie: newer
    rules:
      - exact_match > champion
      - {rule: kld <= 0.08, on_failure: warn}
      - stop_rate >= 99 %
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "recipes").mkdir()
    monkeypatch.setenv("FT_PIPELINE_ROOT", str(tmp_path))
    monkeypatch.setenv("FT_PIPELINE_RECIPE", "mine")
    return tmp_path / "recipes" / "mine.yaml"


def test_each_rule_of_the_environments_recipe_is_a_check(recipe: Path) -> None:
    recipe.write_text(RECIPE)
    rules = {name: promise for name, promise in declare_checks().items() if name not in ALWAYS}
    assert rules == {
        "exact_match_vs_champion": (False, "exact_match > champion"),
        "exact_match_tie_bound": (False, "exact_match >= best - 0.02"),
        "kld_max": (False, "kld <= 0.08"),
        "stop_rate_min": (True, "stop_rate >= 99 %"),
    }


@pytest.mark.parametrize("text", ["{", "name: 5", RECIPE.replace("kld", "kldd")])
def test_a_recipe_that_does_not_load_leaves_the_checks_of_any(recipe: Path, text: str) -> None:
    recipe.write_text(text)
    assert declare_checks() == ALWAYS


def test_without_a_recipe_there_are_the_checks_of_any(recipe: Path) -> None:
    assert not recipe.exists()
    assert declare_checks() == ALWAYS
