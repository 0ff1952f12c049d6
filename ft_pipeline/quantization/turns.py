"""The shape of a chat template, found by rendering it: what it writes between the texts of a conversation.

Works for every template that writes fixed texts between the messages (ChatML, Llama, Gemma, Mistral, ...), whatever its
Jinja source looks like. Templates that do more than that are refused, never approximated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from ft_pipeline.datasets.rendering import count_common, template_failures
from ft_pipeline.errors import ConversionError

Messages = Sequence[tuple[str, str]]

# What Python's str.strip, and so Jinja's trim, takes away.
_BLANKS = tuple(char for char in map(chr, range(0x3001)) if char.isspace())
# Key of `TurnFormat.trims` for the user's text that follows the system message.
AFTER_SYSTEM = "user after system"
_SYSTEM, _ASK, _ANSWER, _AGAIN = "zqsyj0", "zqasj1", "zqanj2", "zqagj3"
_ONE: Messages = (("user", _ASK),)
_DIALOGUE: Messages = (("user", _ASK), ("assistant", _ANSWER), ("user", _AGAIN))
_PROBES: tuple[Messages, ...] = (
    (("user", "one two"),),
    (("user", " \n one\n\ntwo\r\n \n"), ("assistant", "\n \nthree \n "), ("user", "four\n")),
    (
        ("user", "1"),
        ("assistant", "<s>[/INST]{{ 2 }}</s>"),
        ("user", '"3"'),
        ("assistant", "é👩‍🚀"),
        ("user", "<|im_end|>"),
    ),
    tuple((role, f"{role} {turn}") for turn in range(4) for role in ("user", "assistant"))[:-1],
)
_PROBE_SYSTEMS = ("seven\neight", "\n \nnine\n \n", '<|im_end|> {{ "ten" }}')
_SHOWN = 40
_THOUGHT = "<think>\nfirst\n</think>"


class TemplateShapeError(ValueError):
    """A chat template that is not fixed texts between the messages; the message says where."""


class Render(Protocol):
    """Renders messages with a chat template."""

    def __call__(self, messages: Sequence[Mapping[str, str]], *, add_generation_prompt: bool) -> str: ...


@dataclass(frozen=True)
class SystemFormat:
    """How a template writes the system message that a conversation begins with.

    Attributes:
        prefix: What the prompt begins with up to the system message.
        suffix: What stands between it and the user's text that follows it.
        after_answer: The system message stands before the last user's text, not the first's; this is what stands
            between the answer before that and it. None: it stands first.
        ignores_empty: An empty one counts as none.
    """

    prefix: str
    suffix: str
    after_answer: str | None = None
    ignores_empty: bool = False


@dataclass(frozen=True)
class Trim:
    """The blanks that a template takes away before and after a text, each kind as often as it comes."""

    left: str
    right: str

    def __call__(self, text: str) -> str:
        return text.lstrip(self.left).rstrip(self.right)


@dataclass(frozen=True)
class TurnFormat:
    """A chat template as plain strings, for conversations of user and assistant in turn, a user's message last.

    Texts of blanks alone are none that were trained: the data's check refuses them.

    Attributes:
        bos: BOS, if the template begins with it.
        start: What stands before the first user's text when there is no system message; begins with `bos`.
        user_to_assistant: Between a user's text and the answer.
        assistant_to_user: Between an answer and the next user's text.
        end: After the last user's text: the end of the turn and what makes the model answer.
        openings: What the model writes itself before the text of an answer: as earlier answers show it, and the last.
        system: None if the template takes no system message.
        drops_system: It leaves a system message out without a word.
        trims: By role: the blanks that the template strips from a text.
        forgets_thoughts: It leaves `<think>` blocks out of the answers before the last user's message. This is not
            `render`'s to do: Ollama hands over an answer without them.
    """

    bos: str
    start: str
    user_to_assistant: str
    assistant_to_user: str
    end: str
    system: SystemFormat | None
    openings: tuple[str, ...] = ()
    drops_system: bool = False
    trims: Mapping[str, Trim] = field(default_factory=dict)
    forgets_thoughts: bool = False

    def render(self, messages: Messages) -> str:
        """A conversation that ends with a user's message, as the model is asked to continue it."""
        text, asked = "", False
        system = self._find_system(messages)
        last = len(messages) - 1
        for number, (role, content) in enumerate(messages):
            if role == "assistant":
                text += self._trim(role, content)
            elif role == "user":
                before = self.assistant_to_user if asked else self.start
                if system is None or not self._writes_system(asked, is_last=number == last):
                    text += before + self._trim(role, content)
                else:
                    text += self._ask_with_system(system, content, asked)
                text += self.end if number == last else self.user_to_assistant
                asked = True
        return text

    def covers(self, messages: Messages) -> bool:
        """Whether a conversation is of those that this speaks of."""
        has_system = messages[0][0] == "system" and (self.system is not None or self.drops_system)
        roles = [role for role, _ in messages[has_system:]]
        if roles != [("user", "assistant")[turn % 2] for turn in range(len(roles))] or roles[-1:] != ["user"]:
            return False
        thinks = any("think>" in text for role, text in messages if role == "assistant")
        return all(text.strip() for _, text in messages) and not (thinks and self.forgets_thoughts)

    def _find_system(self, messages: Messages) -> str | None:
        role, content = messages[0]
        if role != "system" or self.system is None or (self.system.ignores_empty and not content):
            return None
        return self._trim(role, content)

    def _writes_system(self, asked: bool, *, is_last: bool) -> bool:
        assert self.system is not None  # noqa: S101 - asked for where there is one
        return not asked if self.system.after_answer is None else is_last

    def _ask_with_system(self, system: str, content: str, asked: bool) -> str:
        assert self.system is not None  # noqa: S101 - asked for where there is one
        before = self.system.after_answer if asked else self.system.prefix
        return (before or "") + system + self.system.suffix + self._trim(AFTER_SYSTEM, content)

    def _trim(self, role: str, content: str) -> str:
        return self.trims[role](content) if role in self.trims else content


def derive_turn_format(render: Render, bos: str, prompts: Iterable[Messages] = ()) -> TurnFormat:
    """Find a template's shape, and see that it reproduces the template on other conversations.

    Args:
        render: The chat template.
        bos: The BOS token's text, empty if there is none.
        prompts: Conversations that it must reproduce as well, as far as it speaks of them (`TurnFormat.covers`).

    Raises:
        TemplateShapeError: the template is not of this shape.
    """
    found = _derive(render, bos)
    found = _find_trims(found, render)
    found = replace(found, forgets_thoughts=_find_forgetting(found, render), openings=_find_openings(found, render))
    for probe in _PROBES:
        _require_same(found, render, probe)
        if found.system or found.drops_system:
            for system in _PROBE_SYSTEMS:
                _require_same(found, render, (("system", system), *probe))
    for prompt in prompts:
        if found.covers(prompt):
            _require_same(found, render, prompt)
    return found


def _derive(render: Render, bos: str) -> TurnFormat:
    start, end = _cut(_apply(render, _ONE), _ASK)
    first, user_to_assistant, assistant_to_user, last = _cut(_apply(render, _DIALOGUE), _ASK, _ANSWER, _AGAIN)
    if first != start:
        raise TemplateShapeError("it begins differently when a conversation has more turns")
    if last != end:
        raise TemplateShapeError("it ends differently when a conversation has more turns")
    found = TurnFormat(
        bos=bos if bos and start.startswith(bos) else "",
        start=start,
        user_to_assistant=user_to_assistant,
        assistant_to_user=assistant_to_user,
        end=end,
        system=None,
    )
    try:
        text = _apply(render, (("system", _SYSTEM), *_ONE))
    except TemplateShapeError:
        return found  # the template refuses system messages
    if _SYSTEM not in text:
        return replace(found, drops_system=True)
    system = _derive_system(render, text)
    if bos and system.prefix.startswith(bos) != start.startswith(bos):
        raise TemplateShapeError("it writes BOS only with a system message, or only without one")
    return replace(found, system=system)


def _derive_system(render: Render, text: str) -> SystemFormat:
    prefix, suffix, _ = _cut(text, _SYSTEM, _ASK)
    text = _apply(render, (("system", _SYSTEM), *_DIALOGUE))
    after_answer = None
    if text.find(_SYSTEM) > text.find(_ANSWER):
        after_answer = _cut(text, _ASK, _ANSWER, _SYSTEM, _AGAIN)[2]
    empty = _apply(render, (("system", ""), *_ONE))
    ignores_empty = empty == _apply(render, _ONE)
    if not ignores_empty and empty != _apply(render, (("system", _SYSTEM), *_ONE)).replace(_SYSTEM, ""):
        raise TemplateShapeError("it writes an empty system message otherwise than one with a text")
    return SystemFormat(prefix, suffix, after_answer, ignores_empty)


def _find_trims(found: TurnFormat, render: Render) -> TurnFormat:
    plain: dict[str, tuple[Messages, int]] = {"user": (_DIALOGUE, 0), "assistant": (_DIALOGUE, 1)}
    if found.system:
        told: Messages = (("system", _SYSTEM), *_ONE)
        plain |= {"system": (told, 0), AFTER_SYSTEM: (told, 1)}
    trims = {}
    for role, (messages, padded) in plain.items():
        sides = {blank: _stripped_sides(found, render, messages, padded, blank) for blank in _BLANKS}
        left = "".join(blank for blank, (before, _) in sides.items() if before)
        right = "".join(blank for blank, (_, after) in sides.items() if after)
        if left or right:
            trims[role] = Trim(left, right)
    return replace(found, trims=trims)


def _stripped_sides(
    found: TurnFormat, render: Render, messages: Messages, padded: int, blank: str
) -> tuple[bool, bool]:
    def pad(left: str, right: str) -> Messages:
        role, text = messages[padded]
        return [*messages[:padded], (role, left + text + right), *messages[padded + 1 :]]

    text = _apply(render, pad(blank, blank))
    for left, right in ((False, False), (True, True), (True, False), (False, True)):
        if text == found.render(pad("" if left else blank, "" if right else blank)):
            return left, right
    role = messages[padded][0]
    raise TemplateShapeError(f"it changes a text of the {role} that has blanks around it, other than stripping them")


def _find_forgetting(found: TurnFormat, render: Render) -> bool:
    answers = (f"{_THOUGHT}\n\nthen", "then", "\n\nthen")
    talks = [(("user", "a"), ("assistant", answer), ("user", "b")) for answer in answers]
    text = _apply(render, talks[0])
    if text == found.render(talks[0]):
        return False
    if text in (found.render(talks[1]), found.render(talks[2])):
        return True
    raise TemplateShapeError("it rewrites the <think> blocks of earlier answers, other than leaving them out")


def _find_openings(found: TurnFormat, render: Render) -> tuple[str, ...]:
    answered = _cut(_apply(render, _DIALOGUE[:2], asks=False), _ASK, _ANSWER)[1]
    openings = [text[count_common(text, found.end) :] for text in (found.user_to_assistant, answered)]
    return tuple(dict.fromkeys(opening for opening in openings if opening))


def _apply(render: Render, messages: Messages, *, asks: bool = True) -> str:
    failures: tuple[type[Exception], ...] = (ConversionError, *template_failures())
    try:
        return render([{"role": role, "content": text} for role, text in messages], add_generation_prompt=asks)
    except failures as err:
        raise TemplateShapeError(f"it does not render a plain conversation: {err}") from err


def _require_same(found: TurnFormat, render: Render, probe: Messages) -> None:
    ours, theirs = found.render(probe), _apply(render, probe)
    if ours != theirs:
        roles = ", ".join(role for role, _ in probe)
        place = count_common(ours, theirs)
        raise TemplateShapeError(
            f"it renders a conversation of {roles} otherwise than with fixed texts in between: "
            f"{theirs[place : place + _SHOWN]!r}, not {ours[place : place + _SHOWN]!r}"
        )


def _cut(text: str, *marks: str) -> list[str]:
    parts = []
    for mark in marks:
        before, found, text = text.partition(mark)
        if not found or mark in text:
            raise TemplateShapeError("it leaves a message out, writes one twice or changes their order")
        parts.append(before)
    return [*parts, text]
