"""A validated folder as validated_dataset leaves it, from a few rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

_MESSAGES = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
_ROWS: dict[str, pl.DataType | type[pl.DataType]] = {
    "set": pl.String,
    "source_file": pl.String,
    "source_line": pl.Int64,
    "messages": _MESSAGES,
    "extra": pl.String,
    "group": pl.String,
    "tags": pl.List(pl.String),
    "key": pl.String,
    "warnings": pl.List(pl.String),
    "input_ids": pl.List(pl.Int32),
    "labels": pl.List(pl.Int32),
}
_QUARANTINE: dict[str, pl.DataType | type[pl.DataType]] = {
    "set": pl.String,
    "source_file": pl.String,
    "source_line": pl.Int64,
    "column": pl.Int64,
    "reasons": pl.List(pl.String),
    "detail": pl.String,
    "row": pl.String,
}
_DUPLICATES: dict[str, pl.DataType | type[pl.DataType]] = {
    "set": pl.String,
    "source_file": pl.String,
    "source_line": pl.Int64,
    "kind": pl.String,
    "of_file": pl.String,
    "of_line": pl.Int64,
    "similarity": pl.Float64,
    "row": pl.String,
}


@dataclass
class Folder:
    """What goes into a validated folder; the counts follow from it."""

    rows: list[dict[str, Any]]
    quarantine: list[dict[str, Any]] = field(default_factory=list)
    duplicates: list[dict[str, Any]] = field(default_factory=list)
    statistics: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> Path:
        path.mkdir(parents=True)
        frame = pl.DataFrame(self.rows, schema=pl.Schema(_ROWS))
        frame.filter(pl.col("set") == "train").write_parquet(path / "train.parquet")
        frame.filter(pl.col("set") != "train").write_parquet(path / "evaluation.parquet")
        pl.DataFrame(self.quarantine, schema=pl.Schema(_QUARANTINE)).write_parquet(path / "quarantine.parquet")
        pl.DataFrame(self.duplicates, schema=pl.Schema(_DUPLICATES)).write_parquet(path / "duplicates.parquet")
        (path / "statistics.json").write_text(json.dumps(self._count() | self.statistics), encoding="utf-8")
        return path

    def _count(self) -> dict[str, Any]:
        every = [*self.rows, *self.quarantine, *self.duplicates]
        codes = [code for row in self.rows for code in row["warnings"]]
        return {
            "rows": len(every),
            "kept": len(self.rows),
            "fixed": 0,
            "quarantined": len(self.quarantine),
            "duplicates": len(self.duplicates),
            "sources": [self._count_source(file) for file in sorted({row["source_file"] for row in every})],
            "fixes": {},
            "warnings": {code: codes.count(code) for code in codes},
            "end_of_turn_id": 2,
            "truncated_rows": 0,
        }

    def _count_source(self, file: str) -> dict[str, Any]:
        parts = {"kept": self.rows, "quarantined": self.quarantine, "duplicates": self.duplicates}
        mine = {name: [row for row in rows if row["source_file"] == file] for name, rows in parts.items()}
        sets = sorted({row["set"] for rows in mine.values() for row in rows} - {"held_out"})
        return {
            "set": sets[0] if sets else "train",
            "file": file,
            "format": "chat_messages",
            "seen": "column messages",
            "rows": sum(map(len, mine.values())),
            **{name: len(rows) for name, rows in mine.items()},
        }


def chat(user: str, answer: str, ids: Sequence[int] = (5, 6, 7, 2), **other: Any) -> dict[str, Any]:
    """A kept row of one question and one answer, whose last two tokens are learned."""
    messages = [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return make_row(messages, ids, [*[-100] * (len(ids) - 2), *ids[-2:]], **other)


def text(content: str, ids: Sequence[int] = (5, 6, 7), **other: Any) -> dict[str, Any]:
    """A kept row of plain text, all of it learned."""
    return make_row([{"role": "text", "content": content}], ids, ids, **other)


def make_row(messages: list[dict[str, str]], ids: Sequence[int], labels: Sequence[int], **other: Any) -> dict[str, Any]:
    """A kept row of the training set, where `other` says nothing else."""
    row = {
        "set": "train",
        "source_file": "data/raw/a.jsonl",
        "source_line": 1,
        "messages": messages,
        "extra": None,
        "group": None,
        "tags": None,
        "key": hashlib.sha256(repr(messages).encode()).hexdigest()[:32],
        "warnings": [],
        "input_ids": list(ids),
        "labels": list(labels),
    }
    return row | other


def quarantined(row: str, *reasons: str, **other: Any) -> dict[str, Any]:
    """A row in quarantine."""
    base = {"set": "train", "source_file": "data/raw/a.jsonl", "source_line": 1, "column": 0, "detail": "is wrong"}
    return base | {"reasons": list(reasons), "row": row} | other


def repeat(kind: str, of_line: int, messages: list[dict[str, str]], **other: Any) -> dict[str, Any]:
    """A row that repeats another of the same file."""
    base = {"set": "train", "source_file": "data/raw/a.jsonl", "source_line": 1, "similarity": 1.0}
    of = {"kind": kind, "of_file": "data/raw/a.jsonl", "of_line": of_line}
    return base | of | {"row": json.dumps(messages)} | other
