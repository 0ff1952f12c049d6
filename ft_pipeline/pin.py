"""Records the commit of a recipe's base and data sets on the Hub as their `revision`, in the recipe's own file.

Only these characters are written; comments and all else stay byte for byte. A commit comes from the Hub or not at all.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from ft_pipeline import environment
from ft_pipeline.base_model import is_on_hub
from ft_pipeline.datasets.sources.hub import is_hub_name
from ft_pipeline.durable import write_file
from ft_pipeline.errors import BaseModelError, PipelineError, RecipeError, SourceError
from ft_pipeline.hub import COMMIT, RepositoryKind, resolve_commit
from ft_pipeline.recipe import Recipe
from ft_pipeline.recipe_file import find_recipe, load_recipe

Resolve = Callable[[str, RepositoryKind, str | None, type[PipelineError]], str]
_URL = re.compile(r"(hf://datasets/([^/@]+/[^/@]+))(?:@([^/]+))?(?=/|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Pin:
    """A repository that a recipe names.

    Attributes:
        line: Where it is named.
        is_new: Whether the commit was written into the file just now.
    """

    name: str
    commit: str
    line: int
    is_new: bool


@dataclass(frozen=True)
class _Edit:
    """Characters `start` to `end` of the file become `text`."""

    start: int
    end: int
    text: str


@dataclass(frozen=True)
class _Place:
    """Where a recipe names a repository: a mapping with `source` or `path`, or a string in a list of sources."""

    name: str
    of: RepositoryKind
    node: yaml.Node
    key: str
    revision: str | None

    @property
    def error(self) -> type[PipelineError]:
        return BaseModelError if self.of == "model" else SourceError


def pin_recipe(path: Path, root: Path, resolve: Resolve = resolve_commit) -> list[Pin]:
    """Write the Hub's present commits into a recipe; a commit that it has already is only looked up.

    Args:
        path: The recipe's file.
        root: The project's folder: what lies there is not on the Hub.
        resolve: Asks the Hub.

    Raises:
        RecipeError: the recipe does not load, or its file is written in a way that is not edited here.
        BaseModelError: the Hub cannot be asked for the base, or refuses. The file stays as it is.
        SourceError: the same for a data set.
    """
    path = path.resolve()
    recipe = load_recipe(path)
    text = path.read_bytes().decode("utf-8")
    places = list(_find_places(text, recipe, root))
    pins, edits = [], set()
    for place in places:
        is_new = not COMMIT.fullmatch(place.revision or "")
        commit = resolve(place.name, place.of, place.revision, place.error)
        if is_new:
            edits.add(_write(place, commit, text, path))
        elif commit != place.revision:
            raise place.error(f"{place.name} at {place.revision} is {commit} on the Hub: the commit must name itself.")
        pins.append(Pin(place.name, commit, place.node.start_mark.line + 1, is_new))
    if edits:
        _replace(path, _apply(text, edits), root, {pin.commit for pin in pins})
    return pins


def _find_places(text: str, recipe: Recipe, root: Path) -> Iterator[_Place]:
    top = _fields(yaml.compose(text, Loader=yaml.SafeLoader))
    if is_on_hub(recipe.base_model, root):
        yield _Place(recipe.base_model.source, "model", top["base_model"], "source", recipe.base_model.revision)
    dataset = _fields(top["dataset"])
    lists = [dataset["sources"], *_fields(dataset.get("test_sets")).values()]
    for node in (node for listed in lists for node in listed.value):
        fields = _fields(node)
        path = fields["path"].value if "path" in fields else node.value if isinstance(node, yaml.ScalarNode) else ""
        url = _URL.match(path)
        is_name = "://" not in path and is_hub_name(path) and not os.path.lexists(root / path)
        if url or is_name:
            revision = url[3] if url and url[3] else _read_revision(fields)
            yield _Place(url[2] if url else path, "dataset", node, "path", revision)


def _read_revision(fields: dict[str, yaml.Node]) -> str | None:
    node = fields.get("revision")
    return None if node is None or node.tag == "tag:yaml.org,2002:null" else str(node.value)


def _fields(node: Any) -> dict[str, yaml.Node]:
    return {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}


def _write(place: _Place, commit: str, text: str, path: Path) -> _Edit:
    """The edit that gives a place its revision."""
    node, fields = place.node, _fields(place.node)
    named = fields.get(place.key, node)
    url = _URL.match(named.value) if isinstance(named, yaml.ScalarNode) else None
    start = text.find(url[0], named.start_mark.index, named.end_mark.index) if url else -1
    is_beyond_us = not isinstance(named, yaml.ScalarNode) or named.style in ("|", ">") or (url and start < 0)
    if is_beyond_us:
        raise RecipeError(
            f"{path}:{node.start_mark.line + 1}: the revision of {place.name} must be written by hand here: {commit}"
        )
    if url and (url[3] or named is node):
        return _Edit(start, start + len(url[0]), f"{url[1]}@{commit}")
    if named is node:
        start, end = node.start_mark.index, node.end_mark.index
        return _Edit(start, end, f"{{path: {text[start:end]}, revision: {commit}}}")
    if "revision" in fields:
        start, end = fields["revision"].start_mark.index, fields["revision"].end_mark.index
        return _Edit(start, end, commit if end > start else f" {commit}")
    return _insert_after(node, named, place.key, commit, text)


def _insert_after(node: yaml.Node, named: yaml.Node, key: str, commit: str, text: str) -> _Edit:
    """The edit that puts a `revision` behind the field that names the repository."""
    end = named.end_mark.index
    if isinstance(node, yaml.MappingNode) and node.flow_style:
        return _Edit(end, end, f", revision: {commit}")
    column = next(found.start_mark.column for found, _ in node.value if found.value == key)
    break_at = text.find("\n", end)
    if break_at < 0:
        return _Edit(len(text), len(text), f"\n{' ' * column}revision: {commit}")
    line_end = "\r\n" if text[break_at - 1] == "\r" else "\n"
    return _Edit(break_at + 1, break_at + 1, f"{' ' * column}revision: {commit}{line_end}")


def _apply(text: str, edits: set[_Edit]) -> str:
    for edit in sorted(edits, key=lambda edit: edit.start, reverse=True):
        text = text[: edit.start] + edit.text + text[edit.end :]
    return text


def _replace(path: Path, text: str, root: Path, commits: set[str]) -> None:
    shown = ", ".join(sorted(commits))
    try:
        with tempfile.TemporaryDirectory() as folder:
            draft = Path(folder, path.name)
            draft.write_bytes(text.encode())
            places = list(_find_places(text, load_recipe(draft), root))
    except RecipeError as err:
        raise RecipeError(f"{path}: the revisions must be written by hand, {shown}: {err}") from err
    if missing := [place.name for place in places if place.revision not in commits]:
        raise RecipeError(f"{path}: the revisions of {', '.join(missing)} must be written by hand: {shown}")
    mode = stat.S_IMODE(path.stat().st_mode)
    write_file(path, text)
    path.chmod(mode)


@click.command()
@click.argument("recipe", required=False)
def pin(recipe: str | None) -> None:
    """Record the Hub's present commits of a recipe's base and data sets (FT_PIPELINE_RECIPE, if none is named)."""
    root = environment.project_root()
    path = find_recipe(recipe or environment.recipe_name(), root)
    pins = pin_recipe(path, root)
    for found in pins:
        state = "is now pinned to" if found.is_new else "was pinned before, and the Hub has"
        click.echo(f"{path}:{found.line}: {found.name} {state} {found.commit}")
    if not pins:
        click.echo(f"{path}: nothing is on the Hub: no revision to pin")
