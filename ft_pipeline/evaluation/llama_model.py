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
from ft_pipeline.evaluation.gguf_facts import GgufFacts, read_gguf_facts
from ft_pipeline.evaluation.llama_log import LlamaLog
from ft_pipeline.quantization.llama_library import Vocabulary

# Assumed: what `is_small` is asked for was measured with 4M weights.
_SMALL_WEIGHTS = 2**24


def require_file(path: Path) -> None:
    """Raise `EvaluationError` unless there is a file at `path`."""
    if not path.is_file():
        raise EvaluationError(f"a contestant's GGUF must exist; {path} does not. Build or restore its artifact.")


class LlamaModel:
    """A model in memory, for as long as the context lasts.

    Args:
        path: The GGUF file; the first of its parts if it was split.
        n_gpu_layers: Layers on the GPU whose lease the caller holds, in llama.cpp's count; 0: the CPU alone, also where
            llama.cpp was built for a GPU.

    Attributes:
        vocabulary: Its tokenizer and chat template, while the context lasts.

    Raises:
        EvaluationError: on entering: there is no such file, or llama.cpp refuses it.
    """

    vocabulary: Vocabulary

    def __init__(self, path: Path, *, n_gpu_layers: int = 0) -> None:
        import llama_cpp

        self._llama: Any = llama_cpp
        self.path = path
        self.n_gpu_layers = n_gpu_layers
        self.log = LlamaLog()
        self.load_seconds = 0.0

    def __enter__(self) -> LlamaModel:
        require_file(self.path)
        with ExitStack() as stack:
            stack.enter_context(self.log)
            self._llama.llama_backend_init()
            self.handle = self._load()
            stack.callback(self._llama.llama_model_free, self.handle)
            self._tokens = self._llama.llama_model_get_vocab(self.handle)
            self.vocabulary = Vocabulary(self.handle)
            self._exit = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exit.close()

    def _load(self) -> Any:
        params = self._llama.llama_model_default_params()
        params.n_gpu_layers = self.n_gpu_layers
        # One GPU, the one that is held.
        params.split_mode = self._llama.LLAMA_SPLIT_MODE_NONE
        if not self.n_gpu_layers:
            # An empty list of devices: a context would take memory of each that is there, with no layer on it either.
            no_devices = (ctypes.c_void_p * 1)(None)
            params.devices = ctypes.cast(no_devices, ctypes.c_void_p)
        # A damaged tensor is found at loading, not as an odd score.
        params.check_tensors = True
        started = time.perf_counter()
        with self.log.listen():
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
        return int(self._llama.llama_vocab_n_tokens(self._tokens))

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Bytes of one token; of a control token only if `special`."""
        room = 256
        buffer = ctypes.create_string_buffer(room)
        count = self._llama.llama_token_to_piece(self._tokens, token, buffer, room, 0, special)
        if count < 0:
            buffer = ctypes.create_string_buffer(-count)
            count = self._llama.llama_token_to_piece(self._tokens, token, buffer, -count, 0, special)
        return buffer.raw[:count]

    def decode_text(self, tokens: Sequence[int]) -> str:
        """The text that a user of llama.cpp or Ollama would see: without control tokens, U+FFFD for invalid bytes."""
        return b"".join(self.piece(token) for token in tokens).decode("utf-8", errors="replace")

    # -- metadata ----------------------------------------------------------------------------------------------------

    @cached_property
    def facts(self) -> GgufFacts:
        """What the file's header says about its shape."""
        return read_gguf_facts(self.path)

    def has_key(self, name: str) -> bool:
        """Whether the metadata have this key."""
        buffer = ctypes.create_string_buffer(1)
        return int(self._llama.llama_model_meta_val_str(self.handle, name.encode(), buffer, len(buffer))) >= 0

    @cached_property
    def context_tokens(self) -> int:
        """Tokens that the model was trained to see at once."""
        return int(self._llama.llama_model_n_ctx_train(self.handle))

    @cached_property
    def weights(self) -> int:
        """How many weights it has."""
        return int(self._llama.llama_model_n_params(self.handle))

    @property
    def is_small(self) -> bool:
        """It runs on the CPU, and its weights are so few that attention takes more of a step's time than they do."""
        return self.weights <= _SMALL_WEIGHTS and not self.n_gpu_layers

    @cached_property
    def layers(self) -> int:
        """Decoder layers."""
        return int(self._llama.llama_model_n_layer(self.handle))

    @cached_property
    def can_rewind(self) -> bool:
        """Its memory can forget its last tokens alone: no layer is recurrent."""
        is_recurrent, is_hybrid = self._llama.llama_model_is_recurrent, self._llama.llama_model_is_hybrid
        return not (is_recurrent(self.handle) or is_hybrid(self.handle))
