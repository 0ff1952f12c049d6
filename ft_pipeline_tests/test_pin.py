from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from ft_pipeline.errors import BaseModelError, PipelineError, RecipeError, SourceError
from ft_pipeline.hub import RepositoryKind
from ft_pipeline.pin import Pin, pin, pin_recipe
from ft_pipeline.recipe_file import load_recipe
from ft_pipeline_tests.fake_hub import COMMIT, DATA, GATED, MODEL, HubContent, serve_hub

_RECIPE = """\
# A recipe.
name: mine

base_model:
  source: {source}
dataset:
  sources: [{data}] # rows
"""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubContent]:
    content = HubContent()
    with serve_hub(content, str(tmp_path / "cache"), monkeypatch):
        yield content


def _write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_bytes(text.encode())
    return path


def _resolve(name: str, of: RepositoryKind, revision: str | None, kind: type[PipelineError]) -> str:  # noqa: ARG001
    return revision or COMMIT


@pytest.mark.usefixtures("hub")
def test_the_commit_of_a_base_and_of_a_data_set_come_from_the_hub(tmp_path: Path) -> None:
    path = _write(tmp_path, _RECIPE.format(source=f"{MODEL} # gated?", data=DATA))
    path.chmod(0o640)
    assert pin_recipe(path, tmp_path) == [Pin(MODEL, COMMIT, 5, True), Pin(DATA, COMMIT, 7, True)]
    assert path.read_text() == _RECIPE.format(
        source=f"{MODEL} # gated?\n  revision: {COMMIT}", data=f"{{path: {DATA}, revision: {COMMIT}}}"
    )
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_commit_that_is_there_is_only_looked_up(tmp_path: Path, hub: HubContent) -> None:
    text = _RECIPE.format(source=f"{MODEL}\n  revision: {COMMIT}", data="data/*.jsonl")
    path = _write(tmp_path, text)
    assert pin_recipe(path, tmp_path) == [Pin(MODEL, COMMIT, 5, False)]
    assert path.read_text() == text
    assert hub.asked == [f"/api/models/{MODEL}/revision/{COMMIT}"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("base_model: {source: org/model}", "base_model: {source: org/model, revision: %s}"),
        ("base_model: {'source': \"org/model\"}", "base_model: {'source': \"org/model\", revision: %s}"),
        ("base_model:\n  source: org/model", "base_model:\n  source: org/model\n  revision: %s"),
        ("base_model:\n    revision:\n    source: org/model", "base_model:\n    revision: %s\n    source: org/model"),
        (
            "base_model:\n  revision: ~ # none\n  source: org/model",
            "base_model:\n  revision: %s # none\n  source: org/model",
        ),
        (
            "base_model: &b\n  source: org/model # é\n  # next",
            "base_model: &b\n  source: org/model # é\n  revision: %s\n  # next",
        ),
        ("base_model:\r\n  source: org/model", "base_model:\r\n  source: org/model\r\n  revision: %s"),
    ],
)
@pytest.mark.parametrize("ending", ["\n", ""])
@pytest.mark.parametrize("bom", ["", "\ufeff"])
def test_only_the_revision_is_written(tmp_path: Path, before: str, after: str, ending: str, bom: str) -> None:
    head = f"{bom}name: mine\ndataset: {{sources: [data/*.jsonl]}}\n"
    line_end = "\r\n" if "\r" in before and ending else ending
    path = _write(tmp_path, f"{head}{before}{line_end}")
    pin_recipe(path, tmp_path, _resolve)
    expected = f"{head}{after % COMMIT}{line_end}"
    assert path.read_bytes().decode().replace("\r\n", "\n") == expected.replace("\r\n", "\n")
    assert load_recipe(path).base_model.revision == COMMIT


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("- a/b # rows", "- {path: a/b, revision: %s} # rows"),
        ("- path: a/b\n  split: test", "- path: a/b\n  revision: %s\n  split: test"),
        ("- {path: a/b, split: test}", "- {path: a/b, revision: %s, split: test}"),
        ("- hf://datasets/a/b/c/*.jsonl", "- hf://datasets/a/b@%s/c/*.jsonl"),
        ("- 'hf://datasets/a/b@main'", "- 'hf://datasets/a/b@%s'"),
        ("- path: hf://datasets/a/b@main/c.csv", "- path: hf://datasets/a/b@%s/c.csv"),
        ("- path: hf://datasets/a/b/c.csv", "- path: hf://datasets/a/b/c.csv\n  revision: %s"),
    ],
)
@pytest.mark.parametrize(("head", "indent"), [("sources:", "  "), ("sources: [x.csv]\n  test_sets:\n    t:", "    ")])
def test_data_sets_are_pinned_where_they_are_named(
    tmp_path: Path, before: str, after: str, head: str, indent: str
) -> None:
    (tmp_path / "base").mkdir()
    text = f"base_model: {{source: base}}\nname: mine\ndataset:\n  {head}\n"
    path = _write(tmp_path, text + textwrap.indent(before, indent))

    def resolve(name: str, of: RepositoryKind, revision: str | None, _: type[PipelineError]) -> str:
        assert (name, of, revision) == ("a/b", "dataset", "main" if "@main" in before else None)
        return COMMIT

    assert [found.name for found in pin_recipe(path, tmp_path, resolve)] == ["a/b"]
    assert path.read_text() == text + textwrap.indent(after % COMMIT, indent)
    assert load_recipe(path)


def test_what_lies_in_the_project_is_not_looked_for_on_the_hub(tmp_path: Path, hub: HubContent) -> None:
    (tmp_path / "my/base").mkdir(parents=True)
    (tmp_path / "my/rows").mkdir()
    text = _RECIPE.format(source="my/base", data="my/rows, s3://bucket/a.csv")
    path = _write(tmp_path, text)
    assert pin_recipe(path, tmp_path) == []
    assert (path.read_text(), hub.asked) == (text, [])


@pytest.mark.parametrize(
    ("source", "data", "kind", "message"),
    [
        ("no/such", "a.csv", BaseModelError, "no/such must be a repository of the Hub that this account may see"),
        (MODEL, "no/such", SourceError, "no/such must be a repository of the Hub that this account may see"),
        (f"{MODEL}\n  revision: {'f' * 40}", "a.csv", BaseModelError, f"org/model has no commit {'f' * 40}"),
        (MODEL, f"hf://datasets/{DATA}@none/a.csv", SourceError, f"{DATA} has no commit none"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_the_hub_refuses_is_an_error_and_leaves_the_recipe_alone(
    tmp_path: Path, source: str, data: str, kind: type[PipelineError], message: str
) -> None:
    text = _RECIPE.format(source=source, data=data)
    path = _write(tmp_path, text)
    with pytest.raises(kind, match=message):
        pin_recipe(path, tmp_path)
    assert path.read_text() == text


@pytest.mark.usefixtures("hub")
def test_the_commit_of_a_gated_base_is_public(tmp_path: Path) -> None:
    path = _write(tmp_path, _RECIPE.format(source=GATED, data="a.csv"))
    assert pin_recipe(path, tmp_path) == [Pin(GATED, COMMIT, 5, True)]


def test_a_hub_that_names_no_commit_pins_nothing(tmp_path: Path, hub: HubContent) -> None:
    hub.commit = None
    text = _RECIPE.format(source=MODEL, data="a.csv")
    path = _write(tmp_path, text)
    with pytest.raises(BaseModelError, match="its answer names no commit but None"):
        pin_recipe(path, tmp_path)
    assert path.read_text() == text


def test_a_hub_that_cannot_be_reached_pins_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    text = _RECIPE.format(source=MODEL, data="a.csv")
    path = _write(tmp_path, text)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(BaseModelError, match=r"nor to be had from the Hub: .*Connection refused.*the network"):
        pin_recipe(path, tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(BaseModelError, match=r"nor to be had from the Hub: .*offline"):
        pin_recipe(path, tmp_path)
    assert path.read_text() == text


def test_yaml_that_is_not_edited_is_left_to_the_person(tmp_path: Path) -> None:
    text = _RECIPE.format(source=">-\n    org/model", data="a.csv")
    path = _write(tmp_path, text)
    with pytest.raises(RecipeError, match=f"mine.yaml:5: the revision of org/model must be written by hand.*{COMMIT}"):
        pin_recipe(path, tmp_path, _resolve)
    assert path.read_text() == text


@pytest.mark.usefixtures("hub")
def test_the_command_says_what_it_has_pinned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    path = _write(tmp_path / "recipes", _RECIPE.format(source=MODEL, data="a.csv"))
    monkeypatch.setenv("FT_PIPELINE_ROOT", str(tmp_path))
    assert CliRunner().invoke(pin, ["mine"]).output == f"{path}:5: org/model is now pinned to {COMMIT}\n"
    assert CliRunner().invoke(pin, ["mine"]).output == (
        f"{path}:5: org/model was pinned before, and the Hub has {COMMIT}\n"
    )
    (tmp_path / "base").mkdir()
    path.write_text(_RECIPE.format(source="base", data="a.csv"))
    assert "nothing is on the Hub" in CliRunner().invoke(pin, ["mine"]).output
