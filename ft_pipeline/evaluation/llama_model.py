"""A GGUF file as llama.cpp reads it: weights, vocabulary, chat template."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.llama_log import LlamaLog

_NO_TOKEN = -1


def require_file(path: Path) -> None:
    """Raise `EvaluationError` unless there is a file at `path`."""
    if not path.is_file():
        raise EvaluationError(f"a contestant's GGUF must exist; {path} does not. Build or restore its artifact.")


class LlamaModel:
    """A model in memory, for as long as the context lasts. On the CPU alone: no lease is taken for it.

    Args:
        path: The GGUF file.

    Raises:
        EvaluationError: on entering: there is no such file, or llama.cpp refuses it.
    """

    def __init__(self, path: Path) -> None:
        import llama_cpp

        self._llama: Any = llama_cpp
        self.path = path
        self.log = LlamaLog()
        self.load_seconds = 0.0

    def __enter__(self) -> LlamaModel:
        require_file(self.path)
        with ExitStack() as stack:
            stack.enter_context(self.log)
            self._llama.llama_backend_init()
            self.handle = self._load()
            stack.callback(self._llama.llama_model_free, self.handle)
            self._vocabulary = self._llama.llama_model_get_vocab(self.handle)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def _load(self) -> Any:
        params = self._llama.llama_model_default_params()
        params.n_gpu_layers = 0
        # A damaged tensor is found at loading, not as an odd score.
        params.check_tensors = True
        started = time.perf_counter()
        handle = self._llama.llama_model_load_from_file(str(self.path).encode(), params)
        self.load_seconds = time.perf_counter() - started
        if not handle:
            raise EvaluationError(
                f"llama.cpp must load a contestant's GGUF; it refuses {self.path}: {self.log.explain()}"
            )
        return handle

    # -- vocabulary --------------------------------------------------------------------------------------------------

    @cached_property
    def vocabulary_size(self) -> int:
        return int(self._llama.llama_vocab_n_tokens(self._vocabulary))

    @cached_property
    def bos_token(self) -> int | None:
        """Id of the token that begins a text, if the vocabulary has one."""
        return _token_or_none(self._llama.llama_vocab_bos(self._vocabulary))

    @cached_property
    def eos_token(self) -> int | None:
        """Id of the token that ends a text, if the vocabulary has one."""
        return _token_or_none(self._llama.llama_vocab_eos(self._vocabulary))

    @cached_property
    def adds_bos(self) -> bool:
        """The file asks for a BOS before every text."""
        return self.bos_token is not None and bool(self._llama.llama_vocab_get_add_bos(self._vocabulary))

    def ends_generation(self, token: int) -> bool:
        """The token is one of those at which llama.cpp's programs stop: end of text, of turn, of message."""
        return bool(self._llama.llama_vocab_is_eog(self._vocabulary, token))

    def tokenize(self, text: str) -> list[int]:
        """Ids of a rendered chat: control tokens are read as such, none is added."""
        raw = text.encode()
        room = len(raw) + 8
        ids = (self._llama.llama_token * room)()
        count = self._llama.llama_tokenize(self._vocabulary, raw, len(raw), ids, room, False, True)
        if count < 0:
            raise EvaluationError(f"{self.path}: its tokenizer makes more tokens of a text than the text has bytes")
        return list(ids[:count])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Bytes of one token; of a control token only if `special`."""
        room = 256
        buffer = ctypes.create_string_buffer(room)
        count = self._llama.llama_token_to_piece(self._vocabulary, token, buffer, room, 0, special)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = self._llama.llama_token_to_piece(self._vocabulary, token, buffer, -count, 0, special)
        return buffer.raw[:count]

    def decode_text(self, tokens: Sequence[int]) -> str:
        """The text that a user of llama.cpp or Ollama would see: without control tokens, U+FFFD for invalid bytes."""
        return b"".join(self.piece(token) for token in tokens).decode("utf-8", errors="replace")

    # -- metadata ----------------------------------------------------------------------------------------------------

    @cached_property
    def chat_template(self) -> str | None:
        """The Jinja template that the file carries."""
        template = self._llama.llama_model_chat_template(self.handle, None)
        return None if template is None else template.decode("utf-8")

    @cached_property
    def context_tokens(self) -> int:
        """Tokens that the model was trained to see at once."""
        return int(self._llama.llama_model_n_ctx_train(self.handle))

    @cached_property
    def cache_bytes_per_token(self) -> int:
        """Bytes that one token takes in a 16-bit cache of keys and values, over all layers."""
        heads = int(self._llama.llama_model_n_head(self.handle)) or 1
        width = (
            int(self._llama.llama_model_n_embd(self.handle))
            * int(self._llama.llama_model_n_head_kv(self.handle))
            // heads
        )
        return 2 * 2 * width * int(self._llama.llama_model_n_layer(self.handle))


def _token_or_none(token: int) -> int | None:
    return None if token == _NO_TOKEN else int(token)
