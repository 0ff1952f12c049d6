"""A few kept rows as conversations, with what the loss sees of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ft_pipeline.datasets.conversation import TEXT_ROLE
from ft_pipeline.datasets.report.findings import place
from ft_pipeline.datasets.validated import TRAIN_FILE

COUNT = 5
_MASKED = -100
_LEARNED_ROLES = ("assistant", TEXT_ROLE)


@dataclass(frozen=True)
class Stretch:
    """Tokens in a row that are learned, from `start` up to, not including, `stop`."""

    start: int
    stop: int


@dataclass(frozen=True)
class Sample:
    """One training row.

    Attributes:
        extra: Tools and what else the template saw, as JSON.
        stretches: What is learned, in order.
        ends_turn: The end-of-turn token is the last that is learned; None if the base has no such token.
    """

    place: str
    messages: tuple[dict[str, Any], ...]
    extra: str | None
    tokens: int
    stretches: tuple[Stretch, ...]
    ends_turn: bool | None

    @property
    def learned(self) -> int:
        """Tokens that the loss sees."""
        return sum(stretch.stop - stretch.start for stretch in self.stretches)

    @property
    def learned_turns(self) -> dict[int, int]:
        """Position of a message to its learned tokens, where stretches and answers can be paired for certain."""
        answers = [at for at, message in enumerate(self.messages) if message["role"] in _LEARNED_ROLES]
        if len(self.stretches) == 1:
            answers = answers[-1:]
        if len(answers) != len(self.stretches):
            return {}
        return {at: part.stop - part.start for at, part in zip(answers, self.stretches, strict=True)}

    @property
    def description(self) -> str:
        """What is learned, in words."""
        if not self.stretches:
            return f"None of its {self.tokens:,} tokens is learned."
        if self.learned == self.tokens:
            words = f"All {self.tokens:,} tokens are learned"
        else:
            shown = ", ".join(f"{part.start + 1:,}–{part.stop:,}" for part in self.stretches[:8])
            more = f" and {len(self.stretches) - 8} more stretches" if len(self.stretches) > 8 else ""
            words = f"{self.learned:,} of {self.tokens:,} tokens are learned: {shown}{more}"
        if self.ends_turn is None:
            return f"{words}."
        return f"{words}; the last of them {'is' if self.ends_turn else 'is not'} the end-of-turn token."


def choose_samples(folder: Path, end_of_turn_id: int | None) -> list[Sample]:
    """The training rows with the smallest keys. Keys are hashes: as good as drawn by lot, and always the same."""
    scan = pl.scan_parquet(folder / TRAIN_FILE, glob=False)
    numbers = scan.select("key").with_row_index("row").bottom_k(COUNT, by=["key", "row"]).collect(engine="streaming")
    columns = ("source_file", "source_line", "messages", "extra", "input_ids", "labels")
    # A slice at a time: a filter would read all ids to find five rows of them.
    frames = [
        scan.select(columns).slice(row, 1).collect(engine="streaming")
        for row in numbers.sort("key", "row")["row"].to_list()
    ]
    return [_to_sample(frame.row(0, named=True), end_of_turn_id) for frame in frames]


def _to_sample(row: dict[str, Any], end_of_turn_id: int | None) -> Sample:
    labels: list[int] = row["labels"]
    is_learned = [False, *(label != _MASKED for label in labels), False]
    edges = [at for at in range(len(labels) + 1) if is_learned[at] != is_learned[at + 1]]
    stretches = tuple(Stretch(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True))
    ends_turn = labels[stretches[-1].stop - 1] == end_of_turn_id if stretches and end_of_turn_id is not None else None
    return Sample(
        place=place(row["source_file"], row["source_line"]),
        messages=tuple(row["messages"]),
        extra=row["extra"],
        tokens=len(row["input_ids"]),
        stretches=stretches,
        ends_turn=ends_turn,
    )
