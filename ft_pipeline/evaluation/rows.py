"""Rows to score, and rows that were scored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from ft_pipeline.datasets.conversation import TEXT_ROLE, Message
from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.answer_check import AnswerCheck
from ft_pipeline.evaluation.rules import HELD_OUT

_COLUMNS = ("set", "messages", "source_file", "source_line")
# Of a validated data set; files without them are taken as they are.
_EXTRA, _ORDER, _TAGS = "extra", "position", "tags"


@dataclass(frozen=True)
class EvaluationRow:
    """A conversation whose last message is the answer that is wanted.

    Attributes:
        number: Position within its set, from 0.
        tags: What kind of row it is, by its data; the report breaks errors down by them.
        check: How its answer is judged where the reference is one of many right ones; None: by the metrics alone.
    """

    set_name: str
    number: int
    messages: tuple[Message, ...]
    source_file: str
    source_line: int
    tags: tuple[str, ...] = ()
    check: AnswerCheck | None = None

    @property
    def prompt(self) -> tuple[Message, ...]:
        """All that the model is given."""
        return self.messages[:-1]

    @property
    def reference(self) -> str:
        """The answer that is wanted."""
        return self.messages[-1]["content"]

    @property
    def place(self) -> str:
        """Where the row came from, as `file:line`."""
        return f"{self.source_file}:{self.source_line}"


@dataclass(frozen=True)
class Divergence:
    """How far a quantized model's distributions lie from the 16-bit model's, over the tokens of one reference.

    Attributes:
        tokens: Tokens that were compared.
        kl_sum: Sum of KL(16-bit || quantized), in nats.
        same_top: Tokens where both find the same token the most likely.
        logprob: Log-likelihood of the reference in the quantized model, in nats.
        reference_logprob: That in the 16-bit model.
        kl_max: The largest divergence of a token.
    """

    tokens: int
    kl_sum: float
    same_top: int
    logprob: float
    reference_logprob: float
    kl_max: float


@dataclass(frozen=True)
class ScoredRow:
    """What one contestant made of one row.

    Attributes:
        prediction: The greedy answer; bytes that are no UTF-8 are U+FFFD.
        n_tokens: Tokens of the answer, its end-of-generation token included.
        stopped: The answer ended by an end-of-generation token, within the limit.
        logprob: Log-likelihood of the reference's tokens given the prompt, in nats.
        reference_tokens: Number of those tokens, the end of the turn included.
        fault: Why the row could not be put to the model; then the answer is empty and counts as wrong.
        divergence: From the 16-bit model; None where it was not compared.
        user_scores: By the name of a user's metric; one that failed on the row is missing.
    """

    row: EvaluationRow
    prediction: str
    n_tokens: int
    stopped: bool
    logprob: float
    reference_tokens: int
    fault: str = ""
    divergence: Divergence | None = None
    user_scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """The answer is the reference, but for white space around it."""
        return not self.fault and self.prediction.strip() == self.row.reference.strip()


def read_rows(path: Path, max_rows_per_set: int) -> list[EvaluationRow]:
    """The first rows of every set: the held-out ones, then the test sets in the file's order.

    Raises:
        EvaluationError: a column is missing, no row is held out, or a row has no reference answer.
    """
    try:
        frame = _read_scorable(path)
    except (OSError, pl.exceptions.PolarsError) as err:
        raise EvaluationError(
            f"the rows to score must be a Parquet file with {', '.join(_COLUMNS)}; {path}: {err}"
        ) from err
    names = sorted(frame["set"].unique(maintain_order=True), key=lambda name: name != HELD_OUT)
    if HELD_OUT not in names:
        raise EvaluationError(
            f"at least one held-out row must be a conversation to score; {path} has none (sets with one: "
            f"{', '.join(names) or 'none'}). Plain text and calls of tools are not scored: add conversations, or raise "
            "dataset.held_out_share."
        )
    rows: list[EvaluationRow] = []
    for name in names:
        chosen = frame.filter(pl.col("set") == name).head(max_rows_per_set)
        rows += [_to_row(name, number, record) for number, record in enumerate(chosen.iter_rows(named=True))]
    return rows


def _read_scorable(path: Path) -> pl.DataFrame:
    """Rows in the order of their split hash; plain text and calls of tools are not scored."""
    rows = pl.scan_parquet(path, glob=False)
    names = rows.collect_schema().names()
    if _EXTRA in names:
        rows = rows.filter(pl.col(_EXTRA).is_null())
    if _ORDER in names:
        rows = rows.sort("set", _ORDER, "source_file", "source_line")
    is_text = pl.col("messages").list.first().struct.field("role") == TEXT_ROLE
    columns = [*_COLUMNS, _TAGS] if _TAGS in names else _COLUMNS
    return rows.filter(~is_text).select(columns).collect()


def _to_row(set_name: str, number: int, record: dict[str, Any]) -> EvaluationRow:
    messages = record["messages"]
    file, line = str(record["source_file"]), int(record["source_line"])
    if not isinstance(messages, list) or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise EvaluationError(
            f"{file}:{line}: a row to score must end with the assistant's reference answer to something. Drop the row."
        )
    turns = tuple(Message(role=turn["role"], content=turn["content"]) for turn in messages)
    return EvaluationRow(set_name, number, turns, file, line, tuple(record.get(_TAGS) or ()))
