"""What a stage says while it runs. Stages get a `Reporter`; where its words go is the caller's affair."""

from __future__ import annotations

import logging
from typing import Protocol


class Reporter(Protocol):
    """Where a running stage sends its words and figures."""

    def info(self, message: str) -> None:
        """Something a person wants to read in the log."""

    def warning(self, message: str) -> None:
        """Something that works and is likely wrong; the message says what to do."""

    def progress(self, done: int, total: int, **figures: float) -> None:
        """`done` of `total` steps are finished; figures are named with their units."""


class LogReporter:
    """A reporter that writes to a standard logger."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, message: str) -> None:
        self._logger.info(message)

    def warning(self, message: str) -> None:
        self._logger.warning(message)

    def progress(self, done: int, total: int, **figures: float) -> None:
        shown = "  ".join(f"{name}={value:.4g}" for name, value in figures.items())
        self._logger.info("%d/%d  %s", done, total, shown)
