from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.cards import CARDS
from ft_pipeline.finetuning.plan_table import find_config
from ft_pipeline.finetuning.planner import RowLengths, plan_training
from ft_pipeline.recipe_file import load_recipe

_RECIPES = Path(__file__).parent.parent / "recipes"
_FOR_CARDS = sorted(path for path in _RECIPES.glob("*.yaml") if path.name.split("-")[0] in CARDS)
_LARGER = [
    (path, name)
    for path in _FOR_CARDS
    for name, card in CARDS.items()
    if card.is_runnable and card.vram_bytes > CARDS[path.stem.split("-")[0]].vram_bytes
]
_FAMILIES = {"llama-3.1-8b", "qwen2.5-7b", "mistral-7b", "llama-2-13b"}


@pytest.mark.parametrize("path", _FOR_CARDS, ids=lambda path: path.stem)
def test_each_recipe_is_planned_and_fits_its_card(path: Path, project: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    card = CARDS[path.stem.split("-")[0]]
    architecture = read_architecture(find_config(recipe.base_model, project))
    assert recipe.dataset.max_row_tokens <= architecture.context_tokens
    lengths = RowLengths.assumed(recipe.dataset.max_row_tokens)
    plan = plan_training(architecture, recipe.training, lengths, card.usable_bytes, "gpu", card)
    assert plan.memory.total_bytes <= card.usable_bytes
    assert not plan.notes


@pytest.mark.parametrize("path", _FOR_CARDS, ids=lambda path: path.stem)
def test_no_recipe_carries_a_revision_that_nobody_recorded(path: Path) -> None:
    assert load_recipe(path).base_model.revision is None
    assert f"make pin RECIPE={path.stem}" in path.read_text(encoding="utf-8")


def test_every_single_card_of_the_guide_and_every_family_has_a_recipe() -> None:
    names = [path.stem for path in _FOR_CARDS]
    assert {name.split("-")[0] for name in names} == {name for name, card in CARDS.items() if card.is_runnable}
    assert all(any(name.endswith(family) for name in names) for family in _FAMILIES)


@pytest.mark.parametrize(("path", "name"), _LARGER, ids=lambda value: value.stem if isinstance(value, Path) else value)
def test_any_recipe_fits_a_larger_card_too(path: Path, name: str, project: Path) -> None:
    recipe, card = load_recipe(path), CARDS[name]
    architecture = read_architecture(find_config(recipe.base_model, project))
    lengths = RowLengths.assumed(recipe.dataset.max_row_tokens)
    plan = plan_training(architecture, recipe.training, lengths, card.usable_bytes, "gpu", card)
    assert plan.memory.total_bytes <= card.usable_bytes
