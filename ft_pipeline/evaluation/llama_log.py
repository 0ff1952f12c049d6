"""llama.cpp's log: kept from the terminal, its last lines at hand for an error's message, its buffers counted."""

from __future__ import annotations

import ctypes
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

_KEPT_LINES = 40
# GGML_LOG_LEVEL_WARN, GGML_LOG_LEVEL_ERROR and GGML_LOG_LEVEL_CONT of ggml/include/ggml.h
_WARN, _ERROR, _CONTINUED = 3, 4, 5
# As src/llama-model.cpp, llama-context.cpp, llama-kv-cache.cpp and llama-memory-recurrent.cpp write them.
_BUFFER = re.compile(r"(\S+)\s+(model|KV|RS|output|compute) buffer size\s*=\s*([\d.]+) MiB")
_MIB = 2**20

_this_thread = threading.local()


# AMX: weights repacked for Intel's matrix instructions.
_HOST_PLACES = ("CPU", "AMX")


@dataclass(frozen=True)
class Buffer:
    """Memory that llama.cpp has taken.

    Attributes:
        place: ggml's name for where it is, such as CPU, CPU_Mapped, CUDA0 or CUDA_Host.
        kind: model (weights), KV, RS (state of recurrent layers), output or compute.
    """

    place: str
    kind: str
    bytes: int

    @property
    def is_on_gpu(self) -> bool:
        """It is in a GPU's own memory."""
        return not (self.place.startswith(_HOST_PLACES) or self.place.endswith("_Host"))


def count_buffers(buffers: Iterable[Buffer], *, on_gpu: bool) -> int:
    """Bytes of buffers in the host's memory or on the GPU; of compute buffers at one place the last is meant."""
    chosen = [buffer for buffer in buffers if buffer.is_on_gpu == on_gpu]
    compute = {buffer.place: buffer.bytes for buffer in chosen if buffer.kind == "compute"}
    return sum(compute.values()) + sum(buffer.bytes for buffer in chosen if buffer.kind != "compute")


class LlamaLog:
    """What llama.cpp logs of one model. Its log is one for the whole process; what no block listens to is dropped.

    Attributes:
        buffers: What llama.cpp said it has taken, in its order.
    """

    def __init__(self) -> None:
        self._heard = threading.local()
        self.buffers: list[Buffer] = []

    def __enter__(self) -> LlamaLog:
        _callback.hold()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _callback.let_go()

    @contextmanager
    def listen(self) -> Iterator[None]:
        """What this thread has llama.cpp do within the block is heard here; what was heard before is forgotten."""
        former = getattr(_this_thread, "log", None)
        self._heard.complaints = deque[str](maxlen=_KEPT_LINES)
        self._heard.level = 0
        _this_thread.log = self
        try:
            yield
        finally:
            _this_thread.log = former

    def explain(self) -> str:
        """The warnings and errors of this thread's last block, in one line."""
        lines = " ".join("".join(getattr(self._heard, "complaints", ())).split())
        return lines[-600:] or "llama.cpp gave no reason"

    def take(self, level: int, text: str) -> None:
        """Hear one piece of the log."""
        self._heard.level = self._heard.level if level == _CONTINUED else level
        if self._heard.level in (_WARN, _ERROR):
            self._heard.complaints.append(text)
        elif found := _BUFFER.search(text):
            self.buffers.append(Buffer(found[1], found[2], round(float(found[3]) * _MIB)))


class _Callback:
    """The process's one callback: set while any log is open, whatever the order in which they close."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._ours: Any = None

    def hold(self) -> None:
        import llama_cpp

        with self._lock:
            # llama.cpp keeps a bare pointer: the object must live as long as it is set.
            self._ours = self._ours or llama_cpp.llama_log_callback(_pass_on)
            if not self._holders:
                self._former, self._former_data = llama_cpp.llama_log_callback(), ctypes.c_void_p()
                llama_cpp.llama_log_get(ctypes.byref(self._former), ctypes.byref(self._former_data))
            self._holders += 1
            llama_cpp.llama_log_set(self._ours, ctypes.c_void_p())

    def let_go(self) -> None:
        import llama_cpp

        with self._lock:
            self._holders -= 1
            if not self._holders:
                llama_cpp.llama_log_set(self._former, self._former_data)


def _pass_on(level: int, text: bytes, _data: Any) -> None:
    if log := getattr(_this_thread, "log", None):
        log.take(level, text.decode("utf-8", errors="replace"))


_callback = _Callback()
