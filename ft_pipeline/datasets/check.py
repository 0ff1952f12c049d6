"""One chunk of a raw part becomes one chunk of checked rows. Nothing here looks at another chunk."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from ft_pipeline.datasets.checked import CHECKED_SCHEMA
from ft_pipeline.datasets.checks import CHECKS, choose_actions
from ft_pipeline.datasets.checks.prose import find_other_languages, find_refusals
from ft_pipeline.datasets.checks.text import TEXT_CHECKS, find_texts
from ft_pipeline.datasets.columns import id_column, list_column
from ft_pipeline.datasets.contract import IGNORED, TokenContract
from ft_pipeline.datasets.conversation import Message, unpack
from ft_pipeline.datasets.near_duplicates import BANDS, Shingler, band_keys, shingle_texts
from ft_pipeline.datasets.parallel import without_cycle_search
from ft_pipeline.datasets.readers.batch import MAX_SHOWN_CHARS, show_row
from ft_pipeline.datasets.schema import find_breaches, row_schema, state_facts
from ft_pipeline.datasets.split import conversation_key, describe_rows, split_hash
from ft_pipeline.recipe import DatasetSection

# Tokens of so many rows are in memory as Python's lists.
_ROWS_AT_ONCE = 2000


@dataclass(frozen=True)
class CheckPiece:
    """What a process is given: a raw chunk, and where its checked one goes.

    Attributes:
        base: Folder of the base model; None: tokens are left out.
    """

    raw: Path
    checked: Path
    settings: DatasetSection
    base: Path | None


@dataclass
class _Findings:
    """What is known of each conversation of the chunk so far, by its position."""

    reasons: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    details: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    fixes: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))
    warnings: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def breach(self, row: int, code: str, action: str, detail: str = "") -> None:
        """Note a breach that was not mended."""
        if action == "warn":
            self.warnings[row].append(code)
        elif action != "off":
            self.reasons[row].append(code)
            self.details[row].append(detail or CHECKS[code].rule)


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens of a row, in a tenth of the memory of lists."""

    ids: NDArray[np.int32]
    labels: NDArray[np.int32]
    truncated: bool


def check_chunk(piece: CheckPiece) -> int:
    """Check, mend, tokenize and hash the rows of one chunk.

    Returns:
        The number of rows.
    """
    raw = pl.read_parquet(piece.raw)
    readable = raw.filter(pl.col("reason").is_null())
    with without_cycle_search():
        checked = _check(readable, piece.settings, piece.base)
    broken = raw.filter(pl.col("reason").is_not_null()).select(
        "line",
        "column",
        reasons=pl.concat_list("reason"),
        detail="detail",
        text="text",
        fixes=pl.lit([], pl.List(pl.String)),
        warnings=pl.lit([], pl.List(pl.String)),
    )
    rows = pl.concat([checked, broken], how="diagonal").sort("line", maintain_order=True)
    rows.select(CHECKED_SCHEMA.names()).write_parquet(piece.checked, compression="zstd", compression_level=1)
    return raw.height


def _check(frame: pl.DataFrame, settings: DatasetSection, base: Path | None) -> pl.DataFrame:
    actions = choose_actions(settings.checks)
    findings = _Findings()
    turns = _to_turns(frame)
    turns, found = _look_at_texts(turns, actions, settings, findings)
    if frame.height:
        facts = state_facts(turns, found, frame.height)
        for row, code in find_breaches(facts, row_schema(settings.max_message_chars)):
            findings.breach(row, code, actions[code])
    mended = turns.group_by("row", maintain_order=True).agg(pl.struct("role", "content").alias("messages"))
    if frame.height:
        frame = frame.with_columns(mended["messages"])
    conversations: list[list[Message]] = frame["messages"].to_list()
    tokens = _tokenize(conversations, frame["extra"].to_list(), settings, base, findings)
    columns = [
        frame.select("line", "messages", "extra", "group"),
        _hash(turns, frame, settings),
        _state(conversations, frame["extra"].to_list(), tokens, findings),
    ]
    return pl.concat(columns, how="horizontal")


def _to_turns(frame: pl.DataFrame) -> pl.DataFrame:
    """All turns, one below the other; a turn that calls a tool may be empty."""
    turns = frame.select(pl.int_range(pl.len(), dtype=pl.UInt32).alias("row"), "messages").explode("messages")
    turns = turns.unnest("messages").with_columns(
        pl.int_range(pl.len(), dtype=pl.UInt32).over("row").alias("turn"), may_be_empty=pl.lit(value=False)
    )
    with_extra = frame.select(pl.arg_where(pl.col("extra").is_not_null())).to_series()
    callers = [
        (row, int(turn))
        for row, extra in zip(with_extra, frame["extra"].gather(with_extra), strict=True)
        for turn, fields in json.loads(extra).get("turns", {}).items()
        if fields.get("tool_calls")
    ]
    if not callers:
        return turns
    marks = pl.DataFrame(callers, schema={"row": pl.UInt32, "turn": pl.UInt32}, orient="row").with_columns(
        calls=pl.lit(value=True)
    )
    marked = turns.join(marks, on=["row", "turn"], how="left", maintain_order="left")
    return marked.with_columns(may_be_empty=pl.col("calls").fill_null(value=False)).drop("calls")


def _look_at_texts(
    turns: pl.DataFrame, actions: dict[str, Any], settings: DatasetSection, findings: _Findings
) -> tuple[pl.DataFrame, dict[str, dict[int, int]]]:
    """Mend what is to be mended, and count what is left by reason code and conversation."""
    found: dict[str, dict[int, int]] = {}
    rows = turns["row"]
    # What is out for its length is not searched for minutes.
    limit = settings.max_message_chars if actions["message_too_long"] == "quarantine" else None
    is_out = None if limit is None else turns["content"].str.len_chars() > limit
    for code, check in TEXT_CHECKS.items():
        if actions[code] == "off" or not (hits := find_texts(turns, check, is_out)):
            continue
        if actions[code] == "fix" and check.mend:
            mended = [check.mend(text) for text in turns["content"].gather(hits)]
            turns = turns.with_columns(turns["content"].scatter(hits, mended))
            for row in sorted({rows[hit] for hit in hits}):
                findings.fixes[row].append(code)
        else:
            found[code] = _count(rows, hits)
    if actions["refusal"] != "off":
        found["refusal"] = _count(rows, find_refusals(turns))
    if settings.language and actions["wrong_language"] != "off":
        texts = turns.group_by("row", maintain_order=True).agg(pl.col("content").str.join("\n").alias("text"))
        found["wrong_language"] = dict.fromkeys(find_other_languages(texts, settings.language), 1)
    return turns, found


def _count(rows: pl.Series, hits: Iterable[int]) -> dict[int, int]:
    counts: dict[int, int] = defaultdict(int)
    for hit in hits:
        counts[rows[hit]] += 1
    return counts


def _tokenize(
    conversations: Sequence[list[Message]],
    extras: Sequence[str | None],
    settings: DatasetSection,
    base: Path | None,
    findings: _Findings,
) -> dict[int, _Tokens]:
    """Tokens of the rows that have no breach so far."""
    if base is None:
        return {}
    actions = choose_actions(settings.checks)
    contract = open_contract(base, settings)
    rows = [row for row in range(len(conversations)) if row not in findings.reasons]
    found: dict[int, _Tokens] = {}
    for some in _in_batches(rows, _ROWS_AT_ONCE):
        for row, tokens in zip(some, contract.tokenize([(conversations[i], extras[i]) for i in some]), strict=True):
            for code, detail in tokens.faults:
                findings.breach(row, code, actions[code], detail)
            if tokens.truncated:
                findings.fixes[row].append("too_many_tokens")
            ids, labels = np.array(tokens.input_ids, np.int32), np.array(tokens.labels, np.int32)
            found[row] = _Tokens(ids, labels, tokens.truncated)
    return found


def open_contract(base: Path, settings: DatasetSection) -> TokenContract:
    """The token contract of a recipe, made once in a process."""
    truncate = choose_actions(settings.checks)["too_many_tokens"] == "fix"
    return _open_contract(base, settings.loss_on, settings.max_row_tokens, truncate)


@lru_cache(maxsize=1)
def _open_contract(base: Path, loss_on: Any, max_row_tokens: int, truncate: bool) -> TokenContract:
    return TokenContract(base, loss_on=loss_on, max_row_tokens=max_row_tokens, truncate=truncate)


def _hash(turns: pl.DataFrame, frame: pl.DataFrame, settings: DatasetSection) -> pl.DataFrame:
    """What the passes over all rows go by."""
    described = describe_rows(turns)
    keys = [conversation_key(text, extra) for text, extra in zip(described["text"], frame["extra"], strict=True)]
    hashes = [
        split_hash(prompt if group is None else f"group\x00{group}", settings.split_salt)
        for prompt, group in zip(described["prompt"], frame["group"], strict=True)
    ]
    bands: Any = [None] * frame.height
    if settings.near_duplicates.enabled and frame.height:
        bands = band_keys(shingle_texts(frame["messages"]), Shingler(settings.near_duplicates.shingle_words))
    return pl.DataFrame(
        [
            pl.Series("key", keys, pl.Binary),
            pl.Series("prompt", [key for key, _ in hashes], pl.UInt64),
            pl.Series("position", [position for _, position in hashes], pl.Float64),
            pl.Series("bands", bands, pl.Array(pl.UInt64, BANDS)),
        ]
    )


def _state(
    conversations: Sequence[list[Message]],
    extras: Sequence[str | None],
    tokens: dict[int, _Tokens],
    findings: _Findings,
) -> pl.DataFrame:
    """What was found, and the tokens of the rows that stay."""
    numbers = range(len(conversations))
    kept = [None if row in findings.reasons else tokens.get(row) for row in numbers]
    shown = [
        _show(messages, extra) if row in findings.reasons else None
        for row, (messages, extra) in enumerate(zip(conversations, extras, strict=True))
    ]
    return pl.DataFrame(
        [
            pl.Series("column", [0] * len(conversations), pl.Int64),
            list_column("reasons", findings.reasons, len(conversations)),
            pl.Series("detail", ["; ".join(findings.details.get(row, [])) for row in numbers], pl.String),
            pl.Series("text", shown, pl.String),
            list_column("fixes", findings.fixes, len(conversations)),
            list_column("warnings", findings.warnings, len(conversations)),
            id_column("input_ids", [row.ids if row else None for row in kept]),
            id_column("labels", [row.labels if row else None for row in kept]),
            pl.Series("learned", [np.count_nonzero(row.labels != IGNORED) if row else 0 for row in kept], pl.UInt32),
            pl.Series("truncated", [row is not None and row.truncated for row in kept], pl.Boolean),
        ]
    )


def _show(messages: list[Message], extra: str | None) -> str:
    turns, tools = unpack(messages, extra)
    return show_row({"messages": turns} | ({"tools": tools} if tools else {}))[:MAX_SHOWN_CHARS]


def _in_batches(rows: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    yield from (rows[at : at + size] for at in range(0, len(rows), size))
