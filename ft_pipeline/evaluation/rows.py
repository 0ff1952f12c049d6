"""Rows to score, and rows that were scored."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ft_pipeline.datasets.conversation import TEXT_ROLE, Message
from ft_pipeline.errors import EvaluationError

HELD_OUT = "held_out"
_COLUMNS = ("set", "messages", "source_file", "source_line")
# Of a validated data set; files without them are taken as they are.
_EXTRA, _ORDER = "extra", "position"


@dataclass(frozen=True)
class EvaluationRow:
    """A conversation whose last message is the answer that is wanted.

    Attributes:
        number: Position within its set, from 0.
    """

    set_name: str
    number: int
    messages: tuple[Message, ...]
    source_file: str
    source_line: int

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
class ScoredRow:
    """What one contestant made of one row.

    Attributes:
        prediction: The greedy answer; bytes that are no UTF-8 are U+FFFD.
        n_tokens: Tokens of the answer, its end-of-generation token included.
        stopped: The answer ended by an end-of-generation token, within the limit.
        logprob: Log-likelihood of the reference's tokens given the prompt, in nats.
        reference_tokens: Number of those tokens, the end of the turn included.
        fault: Why the row could not be put to the model; then the answer is empty and counts as wrong.
    """

    row: EvaluationRow
    prediction: str
    n_tokens: int
    stopped: bool
    logprob: float
    reference_tokens: int
    fault: str = ""

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
            f"at least one row must be held out to score on; {path} has none (sets: {', '.join(names) or 'none'}). "
            "Add data or raise dataset.held_out_share."
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
    return rows.filter(~is_text).select(_COLUMNS).collect()


def _to_row(set_name: str, number: int, record: dict[str, object]) -> EvaluationRow:
    messages = record["messages"]
    file, line = str(record["source_file"]), int(str(record["source_line"]))
    if not isinstance(messages, list) or len(messages) < 2 or messages[-1]["role"] != "assistant":
        raise EvaluationError(
            f"{file}:{line}: a row to score must end with the assistant's reference answer to something. Drop the row."
        )
    turns = tuple(Message(role=turn["role"], content=turn["content"]) for turn in messages)
    return EvaluationRow(set_name, number, turns, file, line)
