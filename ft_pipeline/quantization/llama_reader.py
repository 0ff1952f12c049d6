"""A GGUF's chat template and vocabulary, as llama.cpp's server applies them."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from ft_pipeline.quantization.llama_library import Vocabulary
from ft_pipeline.quantization.llama_template import SERVER_VARIABLES, LlamaTemplate
from ft_pipeline.quantization.trained_tokenizer import Conversation

# For what a template writes around each message.
_BUILT_IN_ROOM = 1024


class LlamaReader:
    """Renders with a GGUF's template in llama.cpp's own engine, and tokenizes with its vocabulary.

    Raises:
        EnvironmentMismatch: on entering: the engine is missing or of another version than the library.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self._bos, self._eos = vocabulary.text(vocabulary.bos_id), vocabulary.text(vocabulary.eos_id)
        self._template = LlamaTemplate(vocabulary.chat_template or "", self._bos, self._eos)

    def __enter__(self) -> Self:
        self._template.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._template.close()

    def render(
        self,
        messages: Conversation,
        *,
        add_generation_prompt: bool,
        variables: Mapping[str, Any] = SERVER_VARIABLES,
    ) -> str:
        """A conversation by the GGUF's own template.

        Raises:
            ConversionError: llama.cpp cannot read the template, or not render this conversation.
        """
        return self._template.render(messages, add_generation_prompt=add_generation_prompt, variables=variables)

    def render_built_in(self, messages: Conversation, *, add_generation_prompt: bool) -> str | None:
        """A conversation by the template in llama.cpp's own list that it takes the GGUF's for; None: it knows none.

        That list is for programs that have no Jinja (`llama_chat_apply_template`).
        """
        import llama_cpp

        template = (self.vocabulary.chat_template or "").encode()
        texts = [(message["role"].encode(), message["content"].encode()) for message in messages]
        chat = (llama_cpp.llama_chat_message * len(texts))(*(llama_cpp.llama_chat_message(*text) for text in texts))
        room = sum(len(text) for pair in texts for text in pair) + _BUILT_IN_ROOM * (len(texts) + 1)
        buffer = ctypes.create_string_buffer(room)
        length = llama_cpp.llama_chat_apply_template(template, chat, len(texts), add_generation_prompt, buffer, room)
        return buffer.raw[: min(length, room)].decode("utf-8", errors="replace") if length >= 0 else None

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered conversation, with what the vocabulary adds.

        A BOS or EOS that the template wrote and the vocabulary adds too is taken off first (common/chat.cpp).
        """
        vocabulary = self.vocabulary
        if vocabulary.adds_bos:
            text = text.removeprefix(self._bos)
        if vocabulary.adds_eos:
            text = text.removesuffix(self._eos)
        return vocabulary.tokenize(text, add_special=True)
