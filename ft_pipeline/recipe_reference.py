"""docs/recipe.md, written from the recipe's models: `python -m ft_pipeline recipe-reference`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from annotated_types import Ge, Gt, Interval, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from ft_pipeline.datasets.checks import CHECKS
from ft_pipeline.recipe import Recipe

_BOUNDS: dict[type, tuple[str, str]] = {
    Ge: ("ge", "at least {}"),
    Gt: ("gt", "above {}"),
    Le: ("le", "at most {}"),
    Lt: ("lt", "below {}"),
    MinLen: ("min_length", "at least {} long"),
    MaxLen: ("max_length", "at most {} long"),
}
_HEAD = """\
# The recipe

Written from `ft_pipeline/recipe.py` by `python -m ft_pipeline recipe-reference`. A recipe is a YAML file in `recipes/`;
a field that is not listed here is an error. Paths are relative to the project.
"""


def render_reference() -> str:
    """The reference as Markdown: one table a section."""
    return "\n".join([_HEAD, *_sections(Recipe, ""), *_checks()]) + "\n"


def _sections(model: type[BaseModel], prefix: str) -> Iterator[str]:
    yield f"## {prefix.rstrip('.') or 'Top level'}\n"
    yield f"{(model.__doc__ or '').strip().splitlines()[0]}\n"
    yield "| field | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in model.model_fields.items():
        if _section_of(field) is None:
            yield f"| `{prefix}{name}` | {_type_of(field)} | {_default_of(field)} | {field.description or ''} |"
    yield ""
    for name, field in model.model_fields.items():
        if section := _section_of(field):
            yield from _sections(section, f"{prefix}{name}.")
        if item := _item_of(field):
            yield from _sections(item, f"{prefix}{name}[].")


def _checks() -> Iterator[str]:
    yield "## Reason codes of dataset.checks\n"
    yield "What is wrong with a row, and what that leads to. `fix` mends the row, `warn` keeps it and counts it.\n"
    yield "| code | rule | severity | default | may be |"
    yield "| --- | --- | --- | --- | --- |"
    for code, check in CHECKS.items():
        choices = ", ".join(check.choices) or "-"
        yield f"| `{code}` | {check.rule} | {check.severity} | {check.action} | {choices} |"


def _item_of(field: FieldInfo) -> type[BaseModel] | None:
    """The section that may stand as an item of a list field."""
    found = [part for part in _parts(field.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
    return found[0] if found and _section_of(field) is None and str(field.annotation).startswith("tuple") else None


def _parts(annotation: Any) -> Iterator[Any]:
    yield annotation
    for inner in get_args(annotation):
        yield from _parts(inner)


def _section_of(field: FieldInfo) -> type[BaseModel] | None:
    annotation = field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def _type_of(field: FieldInfo) -> str:
    annotation: Any = field.annotation
    name = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    for long, short in (("typing.", ""), ("ft_pipeline.recipe.", ""), ("NoneType", "None"), ("|", "or")):
        name = name.replace(long, short)
    if "Annotated" in name:
        name = name.split("[", 1)[0]
    bounds = ", ".join(text for rule in field.metadata if (text := _bound(rule)))
    return f"`{name}`" + (f", {bounds}" if bounds else "")


def _bound(rule: Any) -> str:
    if isinstance(rule, Interval):
        return " ".join(_bound(part) for part in rule)
    for kind, (attribute, text) in _BOUNDS.items():
        if isinstance(rule, kind):
            return text.format(getattr(rule, attribute))
    return ""


def _default_of(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined or value is None or value == "":
        return "none"
    return f"`{', '.join(map(str, value))}`" if isinstance(value, tuple) else f"`{value}`"
