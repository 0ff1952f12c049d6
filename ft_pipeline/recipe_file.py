"""From a YAML file to a `Recipe`; a wrong field is named with file, line, value, rule and the nearest right name."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ft_pipeline.datasets.sources.redaction import hide_credentials
from ft_pipeline.errors import RecipeError
from ft_pipeline.recipe import Recipe

_Location = tuple[str | int, ...]
_MOST_VALUES = 10_000


@dataclass(frozen=True)
class _Document:
    value: Any
    lines: Mapping[_Location, int]


class _Loader(yaml.SafeLoader):
    """YAML whose errors are all its own: PyYAML leaves those of a value that is none of its type to Python."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node."""
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int):
                str(value)  # refuses more digits than an error could show
        except (ValueError, LookupError, AttributeError, TypeError) as err:
            kind = node.tag.rpartition(":")[2]
            fault = f"{_shown(node.value)} is no {kind}"
            raise yaml.constructor.ConstructorError(None, None, fault, node.start_mark) from err
        return value


def list_recipe_files(root: Path) -> list[Path]:
    """The files of the recipes in `recipes/`; hidden ones are none."""
    return sorted(path for path in (root / "recipes").glob("*.yaml") if not path.name.startswith("."))


def place_recipe(name_or_path: str, root: Path) -> Path:
    """Where the file of a recipe must be: a name in `recipes/`, or a path to a YAML file, relative to the project."""
    is_path = name_or_path.endswith((".yaml", ".yml"))
    return root / name_or_path if is_path else root / "recipes" / f"{name_or_path}.yaml"


def find_recipe(name_or_path: str, root: Path) -> Path:
    """The file of a recipe, as of `place_recipe`.

    Raises:
        RecipeError: there is no such file; the message lists the recipes that are there.
    """
    path = place_recipe(name_or_path, root)
    if path.is_file():
        return path
    known = [path.stem for path in list_recipe_files(root)]
    near = difflib.get_close_matches(name_or_path, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise RecipeError(
        f"recipe '{name_or_path}' is not there: no file {path}.{hint} Recipes here: {', '.join(known) or 'none'}. "
        "Set FT_PIPELINE_RECIPE to one of them or to a path that ends in .yaml."
    )


def find_namesakes(paths: Iterable[Path]) -> dict[str, str]:
    """The names that more than one of some recipe files has, each with what is wrong. A link to a file is the same."""
    found: dict[str, dict[str, Path]] = {}
    for path in paths:
        with suppress(RecipeError):  # nothing is made of one that does not read
            value = _read(path).value
            if isinstance(value, dict) and isinstance(name := value.get("name"), str):
                found.setdefault(name, {}).setdefault(os.path.realpath(path), path)
    return {
        name: "a recipe's name must be its own, for by it is kept what was trained on and which model is the champion; "
        f"{name!r} is that of {' and '.join(map(str, files.values()))}"
        for name, files in found.items()
        if len(files) > 1
    }


def require_own_name(name: str, root: Path, *paths: Path) -> None:
    """Check that no two files of `recipes/` and some others have a recipe's name.

    Raises:
        RecipeError: they have.
    """
    if fault := find_namesakes([*paths, *list_recipe_files(root)]).get(name):
        raise RecipeError(f"{fault}. Give all but one of them another name.")


def load_recipe(path: Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: The YAML file.
        overrides: Values by dotted field name (`{"training.epochs": 2}`), which win over the file.

    Raises:
        RecipeError: the file is not YAML, or fields are wrong: all of them, one line each.
    """
    document = _read(path)
    if not isinstance(document.value, dict):
        raise RecipeError(f"{path}:1: a recipe must be a mapping of fields, got {_shown(document.value)}.")
    overrides = dict(overrides or {})
    value = document.value
    for name, override in overrides.items():
        value = _with_override(value, name, override)
    try:
        return Recipe.model_validate(value)
    except ValidationError as err:
        lines = [_describe(error, path, document.lines, overrides) for error in err.errors()]
        raise RecipeError("\n".join(["the recipe has wrong fields:", *lines])) from err


def _read(path: Path) -> _Document:
    try:
        loader = _Loader(path.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        lines: dict[_Location, int] = {}
        duplicates: list[str] = []
        if node is not None:
            _index(node, (), lines, duplicates)
        if duplicates:
            raise RecipeError("\n".join(f"{path}:{duplicate}" for duplicate in duplicates))
        return _Document(None if node is None else loader.construct_document(node), lines)
    except OSError as err:
        raise RecipeError(f"recipe {path} cannot be read: {err.strerror}.") from err
    except UnicodeDecodeError as err:
        raise RecipeError(f"recipe {path} must be UTF-8 text; byte {err.start} is not.") from err
    except RecursionError as err:
        raise RecipeError(f"{path}: a recipe must end; it is nested too deeply, or a part of it holds itself.") from err
    except yaml.YAMLError as err:
        mark = getattr(err, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"{path}:{line}: not valid YAML: {getattr(err, 'problem', None) or err}.") from err


def _index(node: yaml.Node, at: _Location, lines: dict[_Location, int], duplicates: list[str]) -> None:
    lines.setdefault(at, node.start_mark.line + 1)
    if len(lines) > _MOST_VALUES:  # aliases of aliases: a file of a kilobyte can stand for billions
        limit = f"a recipe holds at most {_MOST_VALUES:,} values, aliases counted as often as they stand; write fewer"
        raise yaml.constructor.ConstructorError(None, None, limit, node.start_mark)
    if isinstance(node, yaml.MappingNode):
        for key, child in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "a field's name is a word", key.start_mark)
            name, line = str(key.value), key.start_mark.line + 1
            if (*at, name) in lines:
                first = lines[(*at, name)]
                duplicates.append(f"{line}: field '{name}' stands twice (first in line {first}). Remove one.")
                continue
            lines[(*at, name)] = line
            _index(child, (*at, name), lines, duplicates)
    elif isinstance(node, yaml.SequenceNode):
        for i, child in enumerate(node.value):
            _index(child, (*at, i), lines, duplicates)


def _with_override(value: dict[str, Any], name: str, override: Any) -> dict[str, Any]:
    head, _, rest = name.partition(".")
    if not rest:
        return {**value, head: override}
    child = value.get(head)
    return {**value, head: _with_override(child if isinstance(child, dict) else {}, rest, override)}


def _describe(error: Any, path: Path, lines: Mapping[_Location, int], overrides: Mapping[str, Any]) -> str:
    location: _Location = tuple(error["loc"])
    name = ".".join(str(part) for part in location) or "recipe"
    overridden = any(name == o or name.startswith(f"{o}.") for o in overrides)
    place = "run config" if overridden else f"{path}:{_nearest_line(location, lines)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        known = _field_names(Recipe, location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.5)
        hint = f"did you mean '{near[0]}'?" if near else f"fields here: {', '.join(known)}."
        return f"{place}: {name}: there is no such field; {hint}"
    if error["type"] == "missing":
        return f"{place}: {name}: the field is missing and has no default. Add it."
    return f"{place}: {name}: {message} (got {_shown(error['input'])})"


def _nearest_line(location: _Location, lines: Mapping[_Location, int]) -> int:
    while location and location not in lines:
        location = location[:-1]
    return lines.get(location, 1)


def _field_names(model: type[BaseModel], location: _Location) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        annotation = field.annotation if field else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _shown(value: Any, limit: int = 80) -> str:
    text = hide_credentials(repr(value))
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
