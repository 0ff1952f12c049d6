"""Where llama.cpp renders the trained template otherwise than training does, whatever is done to a model folder.

As with ids, a difference counts as known only if it goes away with exactly what a known reason is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.llama_reader import LlamaReader
from ft_pipeline.quantization.llama_template import SERVER_VARIABLES
from ft_pipeline.quantization.references import Reference
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer

_DATE_VARIABLES = ("date_string", "datetime")
# What C's isspace knows, by which common/jinja/string.cpp strips.
_ASCII_BLANKS = " \t\n\v\f\r"


@dataclass(frozen=True)
class _Case:
    """What a template is given."""

    messages: tuple[Mapping[str, str], ...]
    variables: Mapping[str, Any]


@dataclass(frozen=True)
class _Cause:
    """Something that llama.cpp does otherwise.

    Attributes:
        rewrite: Takes what it is about out of a case.
        keeps_trained: It is about what leaves training's text as it is.
        is_for_built_in: It excuses adversarial conversations alone: in the data set's own it can be mended.
    """

    reason: str
    rewrite: Callable[[_Case], _Case]
    keeps_trained: bool
    is_for_built_in: bool = False


class RenderingDifferences:
    """Tells what llama.cpp's template engine and server do otherwise from another template.

    Args:
        trained: The template as trained.
        reader: The GGUF's.
    """

    def __init__(self, trained: TrainedTokenizer, reader: LlamaReader) -> None:
        self._trained = trained
        self._reader = reader

    def explain(self, reference: Reference) -> str | None:
        """Why llama.cpp renders a conversation otherwise; None: for no reason that is known."""
        causes = [cause for cause in _CAUSES if reference.is_built_in or not cause.is_for_built_in]
        if not self._agrees(reference, causes):
            return None
        for cause in _CAUSES:  # those that are not needed
            rest = [other for other in causes if other is not cause]
            causes = rest if self._agrees(reference, rest) else causes
        return "; and ".join(cause.reason for cause in causes)

    def _agrees(self, reference: Reference, causes: Sequence[_Cause]) -> bool:
        case, text = _Case(tuple(reference.messages), SERVER_VARIABLES), reference.text
        prompt = reference.add_generation_prompt
        try:
            for cause in causes:
                rewritten, written = cause.rewrite(case), text
                if rewritten.messages != case.messages:
                    written = self._trained.render(rewritten.messages, add_generation_prompt=prompt)
                if written == text or not cause.keeps_trained:
                    case, text = rewritten, written
            found = self._reader.render(case.messages, add_generation_prompt=prompt, variables=case.variables)
        except ConversionError:
            return False
        return text == found


def _leave_date(case: _Case) -> _Case:
    kept = {name: value for name, value in case.variables.items() if name not in _DATE_VARIABLES}
    return _Case(case.messages, kept)


def _think_not(case: _Case) -> _Case:
    return _Case(case.messages, {**case.variables, "enable_thinking": False})


def _leave_system(case: _Case) -> _Case:
    return _Case(tuple(message for message in case.messages if message["role"] != "system"), case.variables)


def _make_blanks_plain(case: _Case) -> _Case:
    rewritten = tuple({**message, "content": _plain(message["content"])} for message in case.messages)
    return _Case(rewritten, case.variables)


def _plain(text: str) -> str:
    return "".join(" " if char.isspace() and char not in _ASCII_BLANKS else char for char in text)


_CAUSES = (
    _Cause(
        "llama.cpp's server tells the template today's date, which training left to the template",
        _leave_date,
        keeps_trained=True,
    ),
    _Cause(
        "llama.cpp's server sets enable_thinking, which training left unset: start it with --reasoning off",
        _think_not,
        keeps_trained=True,
    ),
    _Cause(
        "the template leaves the system message out, llama.cpp writes it before the user's",
        _leave_system,
        keeps_trained=True,
        is_for_built_in=True,
    ),
    _Cause(
        "the template strips a text of all of Unicode's blanks, llama.cpp's engine of ASCII's alone",
        _make_blanks_plain,
        keeps_trained=False,
    ),
)
