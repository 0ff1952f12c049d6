"""Conversations as trained, in text and ids: what a GGUF's own reading of them is compared with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ft_pipeline.quantization.adversarial import list_texts
from ft_pipeline.quantization.trained_tokenizer import Conversation, TrainedTokenizer


@dataclass(frozen=True)
class Reference:
    """A rendered conversation as trained.

    Attributes:
        is_built_in: It is one of the adversarial ones.
    """

    messages: Conversation
    add_generation_prompt: bool
    text: str
    ids: tuple[int, ...]
    is_built_in: bool = False


def build_references(trained: TrainedTokenizer, conversations: Iterable[Conversation]) -> list[Reference]:
    """Render and tokenize conversations, and the built-in adversarial ones, as in training.

    A conversation that ends with an answer is taken whole and as the prompt that asks for it. Of the built-in ones
    those are left out that the template refuses (an empty message, a system message).
    """
    given = [reference for conversation in conversations for reference in refer(trained, conversation)]
    built_in = [conversation for conversation in _adversarial(trained) if trained.accepts(conversation)]
    return given + [r for conversation in built_in for r in refer(trained, conversation, is_built_in=True)]


def refer(trained: TrainedTokenizer, messages: Conversation, *, is_built_in: bool = False) -> list[Reference]:
    """One conversation, whole and as a prompt.

    Raises:
        ConversionError: the template does not render it.
    """
    answered = messages[-1]["role"] == "assistant"
    wanted = [(messages, False), (messages[:-1], True)] if answered else [(messages, True)]
    references = []
    for part, prompt in wanted:
        text = trained.render(part, add_generation_prompt=prompt)
        references.append(Reference(part, prompt, text, tuple(trained.encode(text)), is_built_in))
    return references


def probe(trained: TrainedTokenizer) -> Reference:
    """The plainest conversation."""
    return refer(trained, [_message("user", "one"), _message("assistant", "two")])[0]


def _adversarial(trained: TrainedTokenizer) -> Iterator[list[dict[str, str]]]:
    for text in list_texts(trained.special_tokens):
        yield [_message("user", text), _message("assistant", text)]
    system = _message("system", " You are  terse.\n")
    question, answer = _message("user", "one"), _message("assistant", "two")
    yield [system, question, answer]
    yield [question, answer, _message("user", " three"), answer]


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
