"""What an alert says. Its words may come from data, models and libraries: no secret or control character gets in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ft_pipeline.datasets.sources.redaction import hide_credentials
from ft_pipeline.text_marks import show_plain

AlertKind = Literal["failure", "promotion", "rejection"]
_MAX_CHARS = 1000


@dataclass(frozen=True)
class Alert:
    """A message to people.

    Attributes:
        kind: What it is about.
        title: One line.
        lines: What follows it.
    """

    kind: AlertKind
    title: str
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """All of it as plain text."""
        return "\n".join([self.title, *self.lines])


@dataclass(frozen=True)
class Fault:
    """A step or a check that failed, and what it said; empty: it was neither."""

    step: str
    message: str


@dataclass(frozen=True)
class Verdict:
    """What a run's `published_model` came to.

    Attributes:
        score: Of the model that competed.
        previous: Score of the champion before.
        report: The evaluation report's file.
    """

    published: bool
    reason: str
    score: float | None = None
    previous: float | None = None
    report: str | None = None


def tell_failure(
    recipe: str, run: str, faults: list[Fault], reports: Sequence[str] = (), *, canceled: bool = False
) -> Alert:
    """A run that has ended without what it was for, and where more is said of it."""
    what = "was canceled" if canceled else "failed"
    lines = [f"{clean(fault.step)}: {clean(fault.message)}" if fault.step else clean(fault.message) for fault in faults]
    lines += [f"report: {clean(report)}" for report in reports]
    return Alert("failure", f"ft_pipeline: a run of {clean(recipe)} {what}", (*lines, f"run {clean(run)}"))


def tell_verdict(recipe: str, run: str, verdict: Verdict) -> Alert:
    """A model that is champion now, or was not let in."""
    kind: AlertKind = "promotion" if verdict.published else "rejection"
    what = "has a new champion" if verdict.published else "keeps its champion"
    figures = [f"score {verdict.score:.4g}"] if verdict.score is not None else []
    figures += [f"the champion before {verdict.previous:.4g}"] if verdict.previous is not None else []
    lines = [clean(verdict.reason), *([", ".join(figures)] if figures else [])]
    lines += [f"report: {clean(verdict.report)}"] if verdict.report else []
    return Alert(kind, f"ft_pipeline: {clean(recipe)} {what}", (*lines, f"run {clean(run)}"))


def clean(text: str) -> str:
    """The text on one line, without secrets, control characters and what is beyond a thousand characters."""
    shown = show_plain(" ".join(hide_credentials(text).split()))
    return shown if len(shown) <= _MAX_CHARS else f"{shown[: _MAX_CHARS - 1]}…"
