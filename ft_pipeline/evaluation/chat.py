"""From a conversation to token ids, by the template and the tokenizer that a GGUF carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from ft_pipeline.datasets.conversation import Message
from ft_pipeline.datasets.rendering import TEMPLATE_DATE, template_failures
from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.rows import EvaluationRow


@dataclass(frozen=True)
class EncodedChat:
    """A conversation in tokens.

    Attributes:
        prompt: Ids up to where the assistant's answer begins.
        completion: Ids of the reference answer, up to and including the token that ends the turn.
    """

    prompt: list[int]
    completion: list[int]


class ChatEncoder:
    """Renders and tokenizes conversations as llama.cpp's server does for the same file.

    The template is rendered in Jinja's sandbox. BOS: as many as the file defines, none or one, whether the template
    writes it or leaves it to the tokenizer. Text that looks like a control token is read as one, in training too.

    Args:
        model: The loaded file.

    Raises:
        EvaluationError: the file has no chat template, or one that is no valid Jinja.
    """

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        template = model.chat_template
        if not template:
            raise EvaluationError(
                f"a contestant's GGUF must carry a chat template; {model.path} has none. "
                "Give the base model one and build the GGUF again."
            )
        try:
            self._render_prompt = _make_formatter(model, template, add_generation_prompt=True)
            self._render_all = _make_formatter(model, template, add_generation_prompt=False)
        except TemplateError as err:
            raise EvaluationError(f"a GGUF's chat template must be valid Jinja; that of {model.path}: {err}") from err

    def encode(self, row: EvaluationRow) -> EncodedChat:
        """Ids of the prompt and of the reference answer.

        The completion is what follows the prompt's ids in the ids of the whole conversation. Where the tokenizer
        merges across that border, or the template renders an answered turn unlike an open one, the rest of the text is
        tokenized by itself instead: the border then lies where the model begins to write.

        Raises:
            EvaluationError: the template refuses the conversation, or leaves the answer out.
        """
        open_text = self._render(self._render_prompt, row.prompt, row)
        whole_text = self._render(self._render_all, row.messages, row)
        prompt = self._tokenize_chat(open_text)
        whole = self._tokenize_chat(whole_text)
        if whole[: len(prompt)] == prompt:
            completion = whole[len(prompt) :]
        else:
            completion = self._model.tokenize(self._cut_answer(open_text, whole_text, row))
        return EncodedChat(prompt, self._cut_after_turn(completion))

    def _render(self, formatter: Any, messages: Sequence[Message], row: EvaluationRow) -> str:
        try:
            return str(formatter(messages=list(messages)).prompt)
        except template_failures() as err:
            raise EvaluationError(
                f"{row.place}: the chat template of {self._model.path} must render every row; it fails with: {err}"
            ) from err

    def _tokenize_chat(self, text: str) -> list[int]:
        ids = self._model.tokenize(text)
        bos = self._model.bos_token
        while bos is not None and ids[:2] == [bos, bos]:
            del ids[0]
        return [bos, *ids] if bos is not None and self._model.adds_bos and ids[:1] != [bos] else ids

    def _cut_answer(self, open_text: str, whole_text: str, row: EvaluationRow) -> str:
        if whole_text.startswith(open_text):
            return whole_text[len(open_text) :]
        start = whole_text.rfind(row.reference.strip())
        if start < 0:
            raise EvaluationError(
                f"{row.place}: the chat template of {self._model.path} must write the answer; it leaves it out"
            )
        return whole_text[start:]

    def _cut_after_turn(self, completion: list[int]) -> list[int]:
        ends = [index for index, token in enumerate(completion) if self._model.ends_generation(token)]
        # What the template writes after the turn (ChatML's line break) is never generated.
        return completion[: ends[-1] + 1] if ends else completion


def _make_formatter(model: LlamaModel, template: str, *, add_generation_prompt: bool) -> Any:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    class UndatedFormatter(Jinja2ChatFormatter):  # type: ignore[misc]
        """llama-cpp-python's sandboxed formatter on a day that stands still."""

        @staticmethod
        def strftime_now(_format: str) -> str:
            return TEMPLATE_DATE

    return UndatedFormatter(
        template=template,
        bos_token=_control_text(model, model.bos_token),
        eos_token=_control_text(model, model.eos_token),
        add_generation_prompt=add_generation_prompt,
    )


def _control_text(model: LlamaModel, token: int | None) -> str:
    return "" if token is None else model.piece(token, special=True).decode("utf-8", errors="replace")
