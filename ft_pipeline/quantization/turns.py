"""The shape of a chat template, found by rendering it: what stands before and after each role's text.

Works for every template that writes prefix + content + suffix per role (ChatML, Llama 3, Gemma, Mistral, ...), whatever
its Jinja source looks like. Templates that do more than that are refused, never approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from jinja2 import TemplateError

_PROBES = (
    (("user", "one two"),),
    (("user", "one\n\ntwo"), ("assistant", "three"), ("user", "four")),
    (("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4 five"), ("user", "6")),
)
_SYSTEM = ("system", "seven\neight")


class TemplateShapeError(ValueError):
    """A chat template that is not prefix + content + suffix per role; the message says where."""


class Render(Protocol):
    """Renders messages with a chat template."""

    def __call__(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str: ...


@dataclass(frozen=True)
class Turn:
    """What a template writes around the text of one role."""

    prefix: str
    suffix: str


@dataclass(frozen=True)
class TurnFormat:
    """A chat template as plain strings.

    Attributes:
        bos: BOS in front of everything, if the template writes it.
        preamble: What comes after it when a conversation does not begin with a system message.
        system: Around a system message; None if the template has no such turn.
        system_separator: Without a system turn: what stands between a system message and the first user's text, inside
            the user's turn. None if the template does not take system messages.
        generation_prompt: What makes the model answer.
        trims: The template strips blanks around a text.
    """

    bos: str
    preamble: str
    system: Turn | None
    system_separator: str | None
    user: Turn
    assistant: Turn
    generation_prompt: str
    trims: bool = False

    def render(self, messages: Sequence[tuple[str, str]]) -> str:
        """A conversation that ends with a user's message, as the model is asked to continue it."""
        text = self.bos if messages[0][0] == "system" and self.system else self.bos + self.preamble
        pending = ""
        for role, content in messages:
            if role == "system" and self.system is None:
                pending = content + (self.system_separator or "")
                continue
            turn = {"system": self.system, "user": self.user, "assistant": self.assistant}[role]
            text += turn.prefix + pending + content + turn.suffix if turn else ""
            pending = ""
        return text + self.generation_prompt


def derive_turn_format(render: Render, bos: str) -> TurnFormat:
    """Find a template's shape, and see that it reproduces the template on other conversations.

    Args:
        render: The chat template.
        bos: The BOS token's text, empty if there is none.

    Raises:
        TemplateShapeError: the template is not of this shape.
    """
    try:
        found = _derive(render, bos)
        for probe in _PROBES:
            _require_same(found, render, probe)
            if found.system or found.system_separator is not None:
                _require_same(found, render, (_SYSTEM, *probe))
        padded = (("user", " one \n"),)
        trims = found.render(padded) != _apply(render, padded, prompt=True)
    except (TemplateError, TypeError) as err:
        raise TemplateShapeError(f"it does not render a plain conversation: {err}") from err
    return TurnFormat(**{**vars(found), "trims": trims})


def _derive(render: Render, bos: str) -> TurnFormat:
    user_suffix = _cut(_apply(render, (("user", "#U"),), prompt=False), "#U")[1]
    answered = _apply(render, (("user", "#U"), ("assistant", "#A")), prompt=False)
    assistant_suffix = _cut(answered, "#U", "#A")[2]
    dialogue = _apply(render, (("user", "#U"), ("assistant", "#A"), ("user", "#V")), prompt=True)
    start, answer, again, end = _cut(dialogue, "#U", "#A", "#V")
    user_prefix = _strip_start(again, assistant_suffix, "an answer ends differently when it is the last one")
    head = _strip_end(start, user_prefix, "the first user turn begins differently from a later one")
    if bos and bos in user_prefix:
        raise TemplateShapeError("it writes BOS in every turn")
    written_bos = bos if bos and head.startswith(bos) else ""
    user = Turn(user_prefix, user_suffix)
    assistant_prefix = _strip_start(answer, user_suffix, "a user turn ends differently before an answer")
    system, separator = _derive_system(render, written_bos, head, user)
    return TurnFormat(
        bos=written_bos,
        preamble=head.removeprefix(written_bos),
        system=system,
        system_separator=separator,
        user=user,
        assistant=Turn(assistant_prefix, assistant_suffix),
        generation_prompt=_strip_start(end, user_suffix, "a user turn ends differently before the generation prompt"),
    )


def _derive_system(render: Render, bos: str, head: str, user: Turn) -> tuple[Turn | None, str | None]:
    try:
        text = _apply(render, (("system", "#S"), ("user", "#U")), prompt=False)
    except (TemplateError, TypeError):
        return None, None  # the template refuses system messages
    if "#S" not in text:
        return None, None  # it drops them
    start, between, _ = _cut(text, "#S", "#U")
    if start == head + user.prefix:
        return None, between
    prefix = _strip_start(start, bos, "BOS is written only without a system message")
    return Turn(prefix, _strip_end(between, user.prefix, "a user turn begins differently after a system message")), None


def _apply(render: Render, messages: Sequence[tuple[str, str]], *, prompt: bool) -> str:
    return render([{"role": role, "content": text} for role, text in messages], add_generation_prompt=prompt)


def _require_same(found: TurnFormat, render: Render, probe: Sequence[tuple[str, str]]) -> None:
    if found.render(probe) != _apply(render, probe, prompt=True):
        roles = ", ".join(role for role, _ in probe)
        raise TemplateShapeError(f"it renders a conversation of {roles} otherwise than turn by turn")


def _cut(text: str, *marks: str) -> list[str]:
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise TemplateShapeError("it leaves out a message or writes one twice")
        parts.append(before)
    return [*parts, text]


def _strip_start(text: str, start: str, otherwise: str) -> str:
    return _strip(text, start, str.startswith, str.removeprefix, otherwise)


def _strip_end(text: str, end: str, otherwise: str) -> str:
    return _strip(text, end, str.endswith, str.removesuffix, otherwise)


def _strip(
    text: str, part: str, has: Callable[[str, str], bool], without: Callable[[str, str], str], otherwise: str
) -> str:
    if not has(text, part):
        raise TemplateShapeError(otherwise)
    return without(text, part)
