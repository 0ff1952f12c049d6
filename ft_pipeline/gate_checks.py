"""The gate's rules as promises of `evaluation_report`, which Dagster must know before a run has read its recipe."""

from __future__ import annotations

from ft_pipeline import environment
from ft_pipeline.errors import RecipeError
from ft_pipeline.evaluation.rules import BETTER, GATE
from ft_pipeline.recipe_file import find_recipe, load_recipe

# Of any recipe: a run whose configuration names another recipe than the environment has rules that nobody declared.
ALWAYS = {
    GATE: (True, "Every rule of the gate whose breach fails the run is kept."),
    BETTER: (False, "It is better than what runs today, by the rules of the gate that say in what."),
}


def declare_checks() -> dict[str, tuple[bool, str]]:
    """Name to whether it blocks and what it promises: those of any recipe, and the rules of the environment's.

    A recipe that does not load has no rules here; the run that reads it says what is wrong.
    """
    try:
        gate = load_recipe(find_recipe(environment.recipe_name(), environment.project_root())).evaluation.gate
    except RecipeError:
        return ALWAYS
    return ALWAYS | {rule.name: (rule.on_failure == "fail", rule.text) for rule in gate.parsed}
