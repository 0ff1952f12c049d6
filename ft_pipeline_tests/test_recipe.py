from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from ft_pipeline.errors import RecipeError
from ft_pipeline.recipe import Recipe
from ft_pipeline.recipe_file import find_recipe, load_recipe

GOOD = """\
name: mine
base_model: {source: data/base_model}
dataset:
  sources: [data/raw/*.jsonl]
training:
  lora:
    rank: 8
"""


def _multiply(holder: str) -> str:
    """Half a kilobyte of YAML that stands for 9 ** 9 values, each level in a list or a mapping of nine of the last."""
    levels = (f"f{i}: &a{i} {holder.format(', '.join([f'*a{i - 1} '] * 9))}" for i in range(1, 10))
    return "\n".join(["name: &a0 [x]", *levels, ""])


def _load(tmp_path: Path, text: str, overrides: dict[str, Any] | None = None) -> Recipe:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_recipe(path, overrides)


def test_a_recipe_needs_a_name_a_base_and_a_source_only(tmp_path: Path) -> None:
    recipe = _load(tmp_path, GOOD)
    assert recipe.training.lora.rank == 8
    assert recipe.quantization.types == ("Q4_K_M",)


def test_every_recipe_of_the_project_loads(project: Path) -> None:
    names = [path.stem for path in (project / "recipes").glob("*.yaml")]
    assert "demo" in names
    assert [load_recipe(find_recipe(name, project)).name for name in names] == names


def test_an_unknown_field_is_named_with_its_line_and_the_nearest_right_name(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"mine.yaml:8: training.learning_rte: there is no such field; did you mean 'learning_rate'\?"
    ):
        _load(tmp_path, GOOD + "  learning_rte: 1.0e-4\n")


def test_a_wrong_value_is_named_with_line_rule_and_value(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"mine.yaml:7: training.lora.rank: .* greater than or equal to 1 \(got 0\)"):
        _load(tmp_path, GOOD.replace("rank: 8", "rank: 0"))


@pytest.mark.parametrize(
    "source", ["s3://KEY:SECRETPART/SECRETPART@rows/a.jsonl", "https://x.test/a.jsonl?sig=SECRETPART"]
)
def test_a_wrong_source_is_shown_without_its_credentials(tmp_path: Path, source: str) -> None:
    with pytest.raises(RecipeError) as caught:
        _load(tmp_path, GOOD, {"dataset.sources": [{"path": source, "format": 7}, {"route": source}]})
    assert "format" in str(caught.value)
    assert "SECRETPART" not in str(caught.value)


def test_all_wrong_fields_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        _load(tmp_path, GOOD.replace("name: mine", "nme: mine").replace("rank: 8", "rank: eight"))
    text = str(caught.value)
    assert "mine.yaml:1: nme: there is no such field; did you mean 'name'?" in text
    assert "name: the field is missing" in text
    assert "got 'eight'" in text


def test_a_field_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"mine.yaml:8: field 'name' stands twice \(first in line 1\)"):
        _load(tmp_path, GOOD + "name: other\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a mapping"),
        ("- a\n", "must be a mapping"),
        ("name: [\n", "not valid YAML"),
        ("name: !!python/object/apply:os.system [ls]\n", "not valid YAML"),
        ("name: \x00\n", "not valid YAML"),
        ("name: mine\ndescription: 2026-02-30\n", r"mine.yaml:2: not valid YAML: '2026-02-30' is no timestamp"),
        ("description: 2026-01-01T25:00:00Z\n", "is no timestamp"),
        ("description: !!timestamp abc\n", "'abc' is no timestamp"),
        ("description: !!int abc\n", "'abc' is no int"),
        ("description: !!int\n", "'' is no int"),
        (f"description: {'9' * 5000}\n", r"'9{78}… is no int"),
        (f"description: 0x{'f' * 5000}\n", r"'0xf{76}… is no int"),
        ("description: !!float abc\n", "'abc' is no float"),
        ("description: !!bool abc\n", "'abc' is no bool"),
        ("description: &a [*a]\n", "nested too deeply, or a part of it holds itself"),
        (f"description: {'[' * 3000}{']' * 3000}\n", "nested too deeply, or a part of it holds itself"),
        (_multiply("[{}]"), "at most 10,000 values, aliases counted as often as they stand"),
        (_multiply("{{k: {}}}").replace(", *", ", k: *"), "field 'k' stands twice"),
        (_multiply("{{? [{}] : 1}}"), "a field's name is a word"),
    ],
)
def test_what_is_no_recipe_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        _load(tmp_path, text)


def test_text_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff\n")
    with pytest.raises(RecipeError, match="must be UTF-8 text; byte 6 is not"):
        load_recipe(path)


def test_an_override_wins_over_the_file(tmp_path: Path) -> None:
    recipe = _load(tmp_path, GOOD, {"training.lora.rank": 32, "evaluation.gate.tie": "newer"})
    assert recipe.training.lora.rank == 32
    assert recipe.evaluation.gate.tie == "newer"


def test_a_wrong_override_says_that_it_is_one(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"run config: training.lora.rnk: .* did you mean 'rank'\?"):
        _load(tmp_path, GOOD, {"training.lora.rnk": 32})


def test_an_unknown_recipe_lists_those_that_are_there(project: Path) -> None:
    with pytest.raises(RecipeError, match=r"Did you mean 'demo'\? Recipes here: .*demo"):
        find_recipe("dmo", project)


def test_an_unknown_quantization_type_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"mine.yaml:9: quantization.types: unknown quantization types: Q4 \(known: F16, "
    ):
        _load(tmp_path, GOOD + "quantization:\n  types: [Q4]\n")


def test_a_gate_cannot_name_a_test_set_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no set 'fresh' \(has: held_out, general\)"):
        _load(tmp_path, GOOD + "evaluation: {gate: {rules: [exact_match > champion, exact_match@fresh >= 0.5]}}\n")


def test_a_gate_that_names_an_unknown_measure_says_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"there is no measure 'exact_mach'. Did you mean exact_match\?"):
        _load(tmp_path, GOOD + "evaluation: {gate: {rules: [exact_mach > champion]}}\n")


def test_a_gate_must_compare_with_what_runs_today(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="a rule must say in what a challenger is to be better"):
        _load(tmp_path, GOOD + "evaluation: {gate: {rules: [stop_rate >= 0.99]}}\n")


def test_a_gate_may_name_the_users_own_metric(tmp_path: Path) -> None:
    text = "evaluation: {metric_files: [metrics/polite.py], gate: {rules: [polite > champion]}}\n"
    assert _load(tmp_path, GOOD + text).evaluation.gate.parsed[0].measure == "polite"


def test_a_rule_that_is_none_is_shown(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"evaluation.gate.rules.0.rule: .* got 'exact_match is good'"):
        _load(tmp_path, GOOD + "evaluation: {gate: {rules: [exact_match is good]}}\n")


@pytest.mark.parametrize(("pattern", "fault"), [("(", "regular expression"), ("(a)(b)", "one group")])
def test_the_pattern_of_an_answer_has_one_group(tmp_path: Path, pattern: str, fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        _load(tmp_path, GOOD + f"evaluation: {{answer_pattern: '{pattern}'}}\n")


def test_a_hub_revision_must_be_a_commit(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"base_model.revision"):
        _load(tmp_path, GOOD.replace("{source: data/base_model}", "{source: org/model, revision: main}"))


def test_a_recipe_cannot_be_changed_after_it_was_loaded(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        _load(tmp_path, GOOD).name = "other"  # type: ignore[misc]
