"""llama.cpp's log: kept from the terminal, its last lines at hand for an error's message."""

from __future__ import annotations

import ctypes
from collections import deque
from types import TracebackType
from typing import Any

_KEPT_LINES = 40
# GGML_LOG_LEVEL_WARN, GGML_LOG_LEVEL_ERROR and GGML_LOG_LEVEL_CONT of ggml/include/ggml.h
_WARN, _ERROR, _CONTINUED = 3, 4, 5


class LlamaLog:
    """Takes llama.cpp's log, which is one for the whole process, while the context lasts."""

    def __init__(self) -> None:
        import llama_cpp

        self._llama: Any = llama_cpp
        self._complaints: deque[str] = deque(maxlen=_KEPT_LINES)
        self._level = 0

    def __enter__(self) -> LlamaLog:
        # llama.cpp keeps a bare pointer: these must live as long as it is set.
        self._callback = self._llama.llama_log_callback(self._take)
        self._former, self._former_data = self._llama.llama_log_callback(), ctypes.c_void_p()
        self._llama.llama_log_get(ctypes.byref(self._former), ctypes.byref(self._former_data))
        self._llama.llama_log_set(self._callback, ctypes.c_void_p())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._llama.llama_log_set(self._former, self._former_data)

    def explain(self) -> str:
        """The last warnings and errors in one line."""
        lines = " ".join("".join(self._complaints).split())
        return lines[-600:] or "llama.cpp gave no reason"

    def _take(self, level: int, text: bytes, _data: Any) -> None:
        self._level = self._level if level == _CONTINUED else level
        if self._level in (_WARN, _ERROR):
            self._complaints.append(text.decode("utf-8", errors="replace"))
