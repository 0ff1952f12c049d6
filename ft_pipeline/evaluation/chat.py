"""From a conversation to token ids, by the template and the tokenizer that a GGUF carries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ft_pipeline.datasets.conversation import Message
from ft_pipeline.errors import ConversionError, EvaluationError
from ft_pipeline.evaluation.agreement import count_agreed
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.rows import EvaluationRow
from ft_pipeline.quantization.llama_reader import LlamaReader


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

    The template is rendered by llama.cpp's own engine, in a process that lasts as long as the context. BOS and EOS go
    by llama.cpp's rule: the vocabulary's own, where it adds any, in place of one that the template wrote. Text that
    looks like a control token is read as one, in training too.

    Args:
        model: The loaded file.

    Raises:
        EvaluationError: on entering: the file has no chat template.
        EnvironmentMismatch: on entering: llama.cpp's template engine is not set up.
    """

    def __init__(self, model: LlamaModel) -> None:
        self._model = model

    def __enter__(self) -> Self:
        if not self._model.vocabulary.chat_template:
            raise EvaluationError(
                f"a contestant's GGUF must carry a chat template; {self._model.path} has none. "
                "Give the base model one and build the GGUF again."
            )
        self._reader = LlamaReader(self._model.vocabulary)
        self._reader.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reader.__exit__(kind, error, trace)

    def encode(self, row: EvaluationRow) -> EncodedChat:
        """Ids of the prompt and of the reference answer.

        The completion is what follows the prompt's ids in the ids of the whole conversation. Where the tokenizer
        merges across that border, or the template renders an answered turn unlike an open one, the rest of the text is
        tokenized by itself instead: the border then lies where the model begins to write.

        Raises:
            EvaluationError: the template refuses the conversation, or leaves the answer out.
        """
        open_text = self._render(row.prompt, row, is_open=True)
        whole_text = self._render(row.messages, row, is_open=False)
        prompt = self._reader.encode(open_text)
        whole = self._reader.encode(whole_text)
        if whole[: len(prompt)] == prompt:
            completion = whole[len(prompt) :]
        else:
            completion = self._model.vocabulary.tokenize(self._cut_answer(open_text, whole_text, row))
        return EncodedChat(prompt, self._cut_after_turn(completion))

    def _render(self, messages: Sequence[Message], row: EvaluationRow, *, is_open: bool) -> str:
        try:
            conversation = [{"role": message["role"], "content": message["content"]} for message in messages]
            return self._reader.render(conversation, add_generation_prompt=is_open)
        except ConversionError as err:
            raise EvaluationError(
                f"{row.place}: the chat template of {self._model.path} must render every row; {err}"
            ) from err

    def _cut_answer(self, open_text: str, whole_text: str, row: EvaluationRow) -> str:
        if whole_text.startswith(open_text):
            return whole_text[len(open_text) :]
        # The answer begins where the text parts from that of another answer.
        other: Message = {"role": "assistant", "content": "1" if row.reference.lstrip().startswith("0") else "0"}
        other_text = self._render([*row.prompt, other], row, is_open=False)
        if whole_text == other_text:
            raise EvaluationError(
                f"{row.place}: the chat template of {self._model.path} must write the answer; it leaves it out"
            )
        return whole_text[count_agreed(whole_text, other_text) :]

    def _cut_after_turn(self, completion: list[int]) -> list[int]:
        ends = [index for index, token in enumerate(completion) if self._model.vocabulary.ends_generation(token)]
        # What the template writes after the turn (ChatML's line break) is never generated.
        return completion[: ends[-1] + 1] if ends else completion
