"""llama.cpp through llama-cpp-python's C functions: calls that can be cancelled, their log, and a GGUF's vocabulary."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Thread, local
from typing import Any, TypeVar

from ft_pipeline.errors import ConversionError

T = TypeVar("T")
_POLL_SECONDS = 0.2

_this_thread = local()


class _Log:
    """What llama.cpp logs during one call, in pieces of lines, and who hears of each line as it ends."""

    def __init__(self, on_line: Callable[[str], None] | None) -> None:
        self.on_line = on_line
        self.error: Exception | None = None
        self._pieces: list[str] = []
        self._open_line = ""

    def add(self, text: str) -> None:
        """Take the next piece."""
        self._pieces.append(text)
        *lines, self._open_line = (self._open_line + text).split("\n")
        for line in lines:
            self._tell(line)

    def lines(self) -> list[str]:
        """All that was logged."""
        return "".join(self._pieces).splitlines()

    def _tell(self, line: str) -> None:
        if self.on_line is None:
            return
        try:
            self.on_line(line)
        except Exception as err:  # noqa: BLE001 - handed to the waiting thread: ctypes would swallow it
            self.on_line, self.error = None, err


def call_llama(function: Callable[[], T], on_line: Callable[[str], None] | None = None) -> tuple[T, list[str]]:
    """Run a call into llama.cpp in a thread of its own.

    Python runs signal handlers in the main thread only, never inside a C function, and ctypes swallows what is raised
    in a callback such as the log's. With the main thread free, a request to stop gets through while the call goes on.

    Args:
        function: The call.
        on_line: Hears each line that llama.cpp logs when the line is whole, in llama.cpp's thread. What it raises ends
            the hearing, and is raised here when the call is over.

    Returns:
        What the function returns, and the lines that llama.cpp logged meanwhile.
    """
    _install_log()
    log = _Log(on_line)
    future: Future[T] = Future()

    def work() -> None:
        _this_thread.log = log
        try:
            future.set_result(function())
        except Exception as err:  # noqa: BLE001 - handed to the waiting thread
            future.set_exception(err)

    Thread(target=work, name="llama.cpp", daemon=True).start()
    try:
        # A signal that comes just before a wait is seen when the wait ends.
        while not wait([future], _POLL_SECONDS).done:
            pass
        result = future.result()
    finally:
        log.on_line = None  # after a request to stop, the call goes on without a listener
    if log.error:
        raise log.error
    return result, log.lines()


class Vocabulary:
    """The tokenizer and metadata of an open GGUF file."""

    def __init__(self, model: Any) -> None:
        import llama_cpp

        self._model = model
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self.bos_id: int = llama_cpp.llama_vocab_bos(self._vocab)
        self.eos_id: int = llama_cpp.llama_vocab_eos(self._vocab)
        self.adds_bos: bool = llama_cpp.llama_vocab_get_add_bos(self._vocab)
        self.adds_eos: bool = llama_cpp.llama_vocab_get_add_eos(self._vocab)

    @property
    def name(self) -> str | None:
        """The metadata's general.name."""
        import llama_cpp

        buffer = ctypes.create_string_buffer(1024)
        length = llama_cpp.llama_model_meta_val_str(self._model, b"general.name", buffer, len(buffer))
        return None if length < 0 else buffer.value.decode("utf-8")

    @property
    def chat_template(self) -> str | None:
        """The metadata's tokenizer.chat_template."""
        import llama_cpp

        template: bytes | None = llama_cpp.llama_model_chat_template(self._model, None)
        return None if template is None else template.decode("utf-8")

    def tokenize(self, text: str, *, add_special: bool = False) -> list[int]:
        """Ids of a text; special tokens in it are read as such.

        Args:
            text: Of a prompt.
            add_special: Add BOS and EOS where the file asks for it; else none.
        """
        import llama_cpp

        data = text.encode("utf-8")
        room = len(data) + 8  # a token takes a byte at least; a blank comes in front, BOS and EOS around
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, room, add_special, True)
        if count < 0:
            tokens = (llama_cpp.llama_token * -count)()
            count = llama_cpp.llama_tokenize(self._vocab, data, len(data), tokens, -count, add_special, True)
        return list(tokens[:count])

    def text(self, token: int) -> str:
        """How a token is spelled in the vocabulary; empty for no token (-1)."""
        import llama_cpp

        return "" if token < 0 else str(llama_cpp.llama_vocab_get_text(self._vocab, token).decode("utf-8"))

    def ends_generation(self, token: int) -> bool:
        """Whether llama.cpp stops at this token by itself."""
        import llama_cpp

        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))


@contextmanager
def open_vocabulary(path: Path) -> Iterator[Vocabulary]:
    """Open a GGUF for its vocabulary and metadata only.

    Raises:
        ConversionError: llama.cpp does not load it.
    """
    with _open_model(path, vocab_only=True) as model:
        yield Vocabulary(model)


def load_fully(path: Path) -> int:
    """Load a GGUF with all of its tensors on the CPU, their values checked by llama.cpp.

    Returns:
        The number of its weights.

    Raises:
        ConversionError: llama.cpp does not load it.
    """
    import llama_cpp

    with _open_model(path, vocab_only=False) as model:
        return int(llama_cpp.llama_model_n_params(model))


@contextmanager
def _open_model(path: Path, *, vocab_only: bool) -> Iterator[Any]:
    import llama_cpp

    _install_log()
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = vocab_only
    parameters.n_gpu_layers = 0  # the device belongs to whoever holds its lease
    parameters.check_tensors = not vocab_only
    # Weights in another order for the processor would be a copy of them all.
    parameters.use_extra_bufts = False
    model, log = call_llama(lambda: llama_cpp.llama_model_load_from_file(str(path).encode(), parameters))
    if not model:
        raise ConversionError(f"llama.cpp must load what was written; it refuses {path}: {' | '.join(log[-3:])}")
    try:
        yield model
    finally:
        llama_cpp.llama_model_free(model)


@cache
def _install_log() -> Any:
    """Start llama.cpp and keep what it logs: in the log of the call whose thread logs.

    A call that was left by a request to stop goes on, and its lines are not those of the next call.

    Returns:
        The callback: llama.cpp holds the bare pointer to it for as long as the process lives.
    """
    import llama_cpp

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def keep(_level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
        if log := getattr(_this_thread, "log", None):
            log.add(text.decode("utf-8", errors="replace"))

    llama_cpp.llama_log_set(keep, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return keep
