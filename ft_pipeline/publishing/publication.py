"""What a publication, or a rollback, has come to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.evaluation.request import Opponents
from ft_pipeline.publishing.alias import AliasState, JudgedModel
from ft_pipeline.publishing.history import SHOWN_CHARS
from ft_pipeline.summary import Scalar

_SHOWN_EVENTS = 10


@dataclass(frozen=True)
class Judgement:
    """What a report says of a model.

    Attributes:
        report: Fingerprint of the `evaluation_report`.
        opponents: Whom it compares the model with.
        score: What the gate is about.
        is_best: The model is at least as good as the best champion ever, on the same rows.
    """

    report: str
    opponents: Opponents
    score: float | None
    is_best: bool


@dataclass(frozen=True)
class Publication:
    """What was done, and why.

    Attributes:
        published: Whether the champion is another one now.
        reason: Why, or why not.
        champion: The champion now.
        score: Of the model that competed; after a rollback, of the champion.
        previous_score: Of who was champion when the model competed.
        folder: Where other programs find the champion.
        gguf: Its gated file there.
        modelfile: Ollama's, if there is one.
        deliveries: What each receiver has, a sentence each.
        history: The last events, newest first.
        removed: What retention has removed.
        freed_bytes: What that has freed.
    """

    published: bool
    reason: str
    champion: JudgedModel | None = None
    score: float | None = None
    previous_score: float | None = None
    folder: Path | None = None
    gguf: Path | None = None
    modelfile: Path | None = None
    deliveries: tuple[str, ...] = ()
    history: tuple[dict[str, Scalar], ...] = ()
    removed: tuple[str, ...] = ()
    freed_bytes: int = 0


def list_events(state: AliasState, shown: int | None = _SHOWN_EVENTS) -> tuple[dict[str, Scalar], ...]:
    """The history as the rows of a table, newest first.

    Args:
        state: The recipe's.
        shown: How many; None: all.
    """
    return tuple(
        {
            "at": event.at.isoformat(sep=" ", timespec="seconds"),
            "what": event.kind.replace("_", " "),
            "model": event.model.gguf_model[:SHOWN_CHARS],
            "score": event.model.score,
            "against": event.model.against[:SHOWN_CHARS] if event.model.against else None,
            "run": event.run,
            "reason": event.reason,
        }
        for event in [*reversed(state.history)][:shown]
    )
