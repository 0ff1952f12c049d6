"""A GGUF's chat template and vocabulary, as llama.cpp's users apply them."""

from __future__ import annotations

import ctypes

from ft_pipeline.datasets.rendering import TEMPLATE_DATE
from ft_pipeline.quantization.llama_library import Vocabulary
from ft_pipeline.quantization.trained_tokenizer import Conversation

# For what a template writes around each message.
_BUILT_IN_ROOM = 1024


class LlamaReader:
    """Renders with a GGUF's template, as llama-cpp-python does, and tokenizes with its vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        self.vocabulary = vocabulary
        self._formatters = {
            prompt: Jinja2ChatFormatter(
                template=vocabulary.chat_template or "",
                bos_token=vocabulary.text(vocabulary.bos_id),
                eos_token=vocabulary.text(vocabulary.eos_id),
                add_generation_prompt=prompt,
            )
            for prompt in (False, True)
        }
        for formatter in self._formatters.values():
            # As in training: a template that tells the date is compared on the same one.
            formatter.strftime_now = lambda _format: TEMPLATE_DATE

    def render(self, messages: Conversation, *, add_generation_prompt: bool) -> str:
        """A conversation by the GGUF's own template."""
        written = [dict(message) for message in messages]
        return str(self._formatters[add_generation_prompt](messages=written).prompt)

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
        """Ids of a rendered conversation."""
        ids = self.vocabulary.tokenize(text)
        bos = self.vocabulary.bos_id
        return [bos, *ids] if self.vocabulary.adds_bos and ids[:1] != [bos] else ids
