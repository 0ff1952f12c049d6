"""From a conversation to text: the base's chat template, compiled once, and where the model's own words begin in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.datasets.template_limits import TimeLimit, require_size
from ft_pipeline.datasets.tokenizer import Tokenizer


class TemplateRefusal(ValueError):
    """The chat template does not render a conversation."""


@dataclass(frozen=True, slots=True)
class RenderedTurn:
    """An assistant's turn that may be learned.

    Attributes:
        prompt: The rendering that the model sees when it is to write this turn.
        begins_text: The conversation's rendering begins with the prompt.
        is_last: No message follows it.
        breach: Why the conversation's rendering is not what the model would see and write; None where it is.
        is_ended: The template writes the end-of-turn token after it.
    """

    prompt: str
    begins_text: bool
    is_last: bool
    breach: str | None
    is_ended: bool


# Templates that tell the model the date get this one: rows must not depend on the day on which they are made.
TEMPLATE_DATE = "01 Jan 2025"


def template_failures() -> tuple[type[Exception], ...]:
    """What a template may raise on a conversation that it was not written for."""
    from jinja2 import TemplateError

    return (
        TemplateError,
        SyntaxError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    )


class ChatRenderer:
    """Renders conversations in Jinja's sandbox, to the text that `apply_chat_template` gives.

    Args:
        tokenizer: The base's tokenizer, with a chat template.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._limit = TimeLimit(tokenizer.source)
        self._failures = template_failures()
        # With or without tools: a base may have a template of its own for each.
        self._templates: dict[bool, tuple[Any, dict[str, Any]]] = {}

    def render(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None, *, open_turn: bool) -> str:
        """The text of a conversation; with `open_turn` up to where the assistant is to write.

        Raises:
            TemplateRefusal: the template fails on it.
            BaseModelError: it takes too long, or writes too much.
        """
        with self._limit:
            text = self._render(messages, tools, open_turn=open_turn)
        require_size(text, self._tokenizer.source)
        return text

    def _render(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None, *, open_turn: bool) -> str:
        try:
            template, variables = self._templates.get(bool(tools)) or self._compile(tools)
            variables = {**variables, "messages": messages, "tools": tools, "add_generation_prompt": open_turn}
            variables["strftime_now"] = lambda _format: TEMPLATE_DATE
            # What Template.render does, less its copy of all globals for each row.
            text = "".join(template.root_render_func(template.new_context(variables, shared=True)))
            if tools or not text.isascii():
                # JSON may spell half a surrogate pair, which is no text: one such row would fail its whole batch.
                text.encode()
        except TemplateRefusal:
            raise
        except self._failures as err:
            raise TemplateRefusal(f"the chat template does not render it: {err}") from err
        return text

    def render_whole(self, messages: Sequence[dict[str, Any]], tools: list[Any] | None) -> str:
        """The text of a whole conversation, in which its tool calls stand.

        Raises:
            TemplateRefusal: the template fails on it, or leaves a tool call out.
        """
        text = self.render(messages, tools, open_turn=False)
        for turn, message in enumerate(messages):
            for call in message.get("tool_calls") or ():
                if (name := str((call.get("function") or call).get("name"))) not in text:
                    raise TemplateRefusal(
                        f"the chat template leaves out the call of {name!r} in message {turn}: it knows no tools"
                    )
        return text

    def render_turn(
        self, text: str, messages: Sequence[dict[str, Any]], tools: list[Any] | None, turn: int, end_of_turn: str
    ) -> RenderedTurn:
        """One assistant's turn of a conversation whose rendering is `text`.

        Raises:
            TemplateRefusal: the template does not render the conversation up to there, or the turn has a weight of 0.
        """
        if messages[turn].get("weight") == 0:
            raise TemplateRefusal(
                f"message {turn} has weight 0, and loss_on: all_answers learns it: weights are not supported yet. Drop "
                "the row, or use loss_on: last_answer"
            )
        is_last = turn == len(messages) - 1
        breach: str | None = None
        prompt = self.render(messages[:turn], tools, open_turn=True)
        if not text.startswith(prompt):
            breach = (
                f"the template renders the prompt of message {turn} differently once the conversation goes on, as do "
                f"templates that drop the reasoning of earlier turns: {_show_difference(prompt, text)}"
            )
            return RenderedTurn(prompt, False, is_last, breach, is_ended=True)
        if is_last:
            return RenderedTurn(prompt, True, is_last, breach=None, is_ended=text.find(end_of_turn, len(prompt)) >= 0)
        # Closed here, the turn's end is its own, not that of whatever the template writes next.
        closed = self.render(messages[: turn + 1], tools, open_turn=False)
        end = closed.find(end_of_turn, len(prompt))
        if end >= 0 and not text.startswith(closed[: end + len(end_of_turn)]):
            breach = (
                f"the template writes the answer of message {turn} differently once another message follows: "
                f"{_show_difference(closed, text)}"
            )
        return RenderedTurn(prompt, True, is_last, breach, is_ended=end >= 0)

    def _compile(self, tools: list[Any] | None) -> tuple[Any, dict[str, Any]]:
        # This module of the library alone does not import torch.
        from transformers.utils.chat_template_utils import _compile_jinja_template

        if (written := self._tokenizer.templates.get(bool(tools))) is None:
            raise TemplateRefusal(f"the base has no chat template for rows {'with' if tools else 'without'} tools")
        template = _compile_jinja_template(written)
        variables = {**template.globals, **self._tokenizer.special, "documents": None}
        self._templates[bool(tools)] = template, variables
        return template, variables


def count_common(left: Sequence[object], right: Sequence[object]) -> int:
    """How many items two sequences have in common before they part."""
    pairs = zip(left, right, strict=False)
    return next((place for place, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(left), len(right)))


def _show_difference(open_text: str, text: str) -> str:
    place = count_common(open_text, text)
    return f"{open_text[place : place + 40]!r} against {text[place : place + 40]!r} in the whole"
