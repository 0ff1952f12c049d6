"""Reasons of quarantine, warnings and fixes: how many rows each has, and the first of them to look at."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ft_pipeline.datasets.checks.secrets import redact
from ft_pipeline.datasets.conversation import TEXT_ROLE
from ft_pipeline.datasets.validated import EVALUATION_FILE, QUARANTINE_FILE, TRAIN_FILE

_EXAMPLES = 3


@dataclass(frozen=True)
class Example:
    """One row that a finding is about.

    Attributes:
        place: File, line and, where it means something, column.
        detail: What the validation says of it; empty where it says nothing more.
        text: The row, cut.
    """

    place: str
    detail: str
    text: str


@dataclass(frozen=True)
class Finding:
    """One code, how many rows have it, and the first rows that do."""

    code: str
    rows: int
    examples: tuple[Example, ...]


def find_quarantined(folder: Path) -> list[Finding]:
    """Every reason of quarantine, the most frequent first. A row with two reasons counts in both."""
    scan = pl.scan_parquet(folder / QUARANTINE_FILE, glob=False)
    counts = scan.select(pl.col("reasons").explode()).group_by("reasons").len().collect(engine="streaming")
    columns = ("source_file", "source_line", "column", "detail", "row")
    findings = []
    for code, rows in _order(dict(counts.drop_nulls().iter_rows())):
        first = scan.filter(pl.col("reasons").list.contains(code)).select(columns).head(_EXAMPLES)
        examples = (
            Example(place(file, line, column), redact(detail or ""), redact(text or ""))
            for file, line, column, detail, text in first.collect(engine="streaming").iter_rows()
        )
        findings.append(Finding(code, rows, tuple(examples)))
    return findings


def find_marked(folder: Path, counts: Mapping[str, int]) -> list[Finding]:
    """Every code that kept rows can have, with the first rows whose `warnings` name it.

    Args:
        folder: A validated folder.
        counts: Code to number of rows.
    """
    return [Finding(code, rows, _find_examples(folder, code)) for code, rows in _order(counts) if rows]


def place(file: str, line: int, column: int = 0) -> str:
    """Where a row stands, such as `data/raw/a.jsonl:17`."""
    return f"{file}:{line}:{column}" if column else f"{file}:{line}"


def write_out(messages: list[dict[str, Any]]) -> str:
    """A conversation as one text without secrets: each turn after its role. Of a plain text the text alone."""
    if len(messages) == 1 and messages[0].get("role") == TEXT_ROLE:
        return redact(str(messages[0].get("content")))
    return redact("\n".join(f"{message.get('role')}: {message.get('content')}" for message in messages))


def read_messages(text: str) -> str:
    """A conversation written as JSON, as `write_out` has it; one that was cut is closed where it ends."""
    for end in ("", '"}]', "}]", "]"):
        try:
            messages = json.loads(text + end)
        except ValueError:
            continue
        if isinstance(messages, list) and all(isinstance(message, dict) for message in messages):
            return write_out(messages)
    return redact(text)


def _find_examples(folder: Path, code: str) -> tuple[Example, ...]:
    found: list[Example] = []
    for file in (TRAIN_FILE, EVALUATION_FILE):
        marked = pl.scan_parquet(folder / file, glob=False).filter(pl.col("warnings").list.contains(code))
        first = marked.select("source_file", "source_line", "messages").head(_EXAMPLES - len(found))
        rows = first.collect(engine="streaming").iter_rows()
        found += [Example(place(name, line), "", write_out(messages)) for name, line, messages in rows]
        if len(found) == _EXAMPLES:
            break
    return tuple(found)


def _order(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
