"""Each card of the guide has a recipe for each of four bases, and every recipe fits its card: all without weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.cards import CARDS, Card
from ft_pipeline.finetuning.plan_table import find_config
from ft_pipeline.finetuning.planner import RowLengths, TrainingPlan, plan_training
from ft_pipeline.recipe import Recipe
from ft_pipeline.recipe_file import load_recipe

_RECIPES = Path(__file__).parent.parent / "recipes"
_FOR_CARDS = sorted(path for path in _RECIPES.glob("*.yaml") if path.name.split("-")[0] in CARDS)
_MODELS = {
    "llama-3.1-8b": "meta-llama/Llama-3.1-8B-Instruct",
    "qwen2.5-7b": "Qwen/Qwen2.5-7B-Instruct",
    "mistral-7b": "mistralai/Mistral-7B-Instruct-v0.3",
    "llama-2-13b": "meta-llama/Llama-2-13b-chat-hf",
}
_SINGLE = [card for card in CARDS.values() if card.is_runnable]
_LARGER = [
    (path, card)
    for path in _FOR_CARDS
    for card in _SINGLE
    if card.vram_bytes > CARDS[path.stem.split("-")[0]].vram_bytes
]


def name_case(value: object) -> str:
    return value.stem if isinstance(value, Path) else value.name if isinstance(value, Card) else str(value)


def plan_recipe(recipe: Recipe, card: Card, project: Path) -> TrainingPlan:
    architecture = read_architecture(find_config(recipe.base_model, project))
    assert recipe.dataset.max_row_tokens <= architecture.context_tokens
    lengths = RowLengths.assumed(recipe.dataset.max_row_tokens)
    return plan_training(architecture, recipe.training, lengths, card.usable_bytes, "gpu", card)


@pytest.mark.parametrize("model", _MODELS)
@pytest.mark.parametrize("card", _SINGLE, ids=name_case)
def test_each_card_of_the_guide_has_a_recipe_for_each_base_that_is_planned_and_fits(
    card: Card, model: str, project: Path
) -> None:
    gigabytes = card.label.split()[-2]
    recipe = load_recipe(_RECIPES / f"{card.name}-{gigabytes}gb-{model}.yaml")
    assert recipe.base_model.source == _MODELS[model]
    assert card.label in recipe.description
    plan = plan_recipe(recipe, card, project)
    assert plan.memory.total_bytes <= card.usable_bytes
    assert plan.time is not None


@pytest.mark.parametrize("path", _FOR_CARDS, ids=name_case)
def test_each_recipe_fits_the_card_that_it_is_named_after_without_remarks(path: Path, project: Path) -> None:
    recipe, card = load_recipe(path), CARDS[path.stem.split("-")[0]]
    assert recipe.name == path.stem
    plan = plan_recipe(recipe, card, project)
    assert plan.memory.total_bytes <= card.usable_bytes
    assert not plan.notes


@pytest.mark.parametrize("path", _FOR_CARDS, ids=name_case)
def test_no_comment_of_a_recipe_contradicts_its_fields(path: Path) -> None:
    recipe, text = load_recipe(path), path.read_text(encoding="utf-8")
    tokens, row_tokens = recipe.training.effective_batch_tokens, recipe.dataset.max_row_tokens
    assert f"{tokens} # {tokens // row_tokens} full rows of {row_tokens:,} tokens" in text
    assert f"make plan RECIPE={path.stem} CARD={path.stem.split('-')[0]}`" in text
    assert recipe.quantization.context_tokens >= row_tokens


@pytest.mark.parametrize("path", _FOR_CARDS, ids=name_case)
def test_no_recipe_carries_a_revision_that_nobody_recorded(path: Path) -> None:
    assert load_recipe(path).base_model.revision is None
    assert f"make pin RECIPE={path.stem}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "card"), _LARGER, ids=name_case)
def test_any_recipe_fits_a_larger_card_too(path: Path, card: Card, project: Path) -> None:
    plan = plan_recipe(load_recipe(path), card, project)
    assert plan.memory.total_bytes <= card.usable_bytes
