"""A user's data folder, put through the stages that make a data set of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from ft_pipeline.datasets.parse import RAW_SCHEMA, parse_sources
from ft_pipeline.datasets.parse_request import ParseRequest
from ft_pipeline.datasets.parts import read_part
from ft_pipeline.datasets.raw import PARTS, RawDataset, read_raw_dataset
from ft_pipeline.datasets.sources import find_sources
from ft_pipeline.datasets.validate import validate_dataset
from ft_pipeline.datasets.validated import ValidateRequest
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe import DatasetSection
from ft_pipeline.summary import Summary

_reporter = LogReporter(logging.getLogger(__name__))


class DataFolder:
    """Files below `root/data`, and what is made of them."""

    def __init__(self, root: Path, base: Path | None = None) -> None:
        self.root = root
        self.base = base
        (root / "data").mkdir(exist_ok=True)

    def write(self, name: str, content: bytes | str | Sequence[str]) -> Path:
        """A file; of a list, a line each."""
        path = self.root / "data" / name
        if isinstance(content, str | bytes):
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        else:
            path.write_text("\n".join(content) + "\n")
        return path

    def parse(self, out: str = "raw", earlier: Sequence[str] = (), maker: str = "1", **settings: Any) -> Summary:
        """The raw data set, in the folder `out`."""
        (self.root / out).mkdir()
        sources = find_sources(section(**settings), self.root, self.root / "downloads")
        folders = tuple(self.root / name for name in earlier)
        request = ParseRequest(sources=sources, earlier=folders, maker=maker, out_dir=self.root / out)
        return parse_sources(request, _reporter)

    def raw(self, out: str = "raw") -> tuple[RawDataset, pl.DataFrame]:
        """The index and all rows of a raw data set."""
        index = read_raw_dataset(self.root / out)
        chunks = [
            chunk for source in index.sources for chunk in read_part(self.root / out / PARTS / source.part).chunks
        ]
        empty = pl.from_arrow(RAW_SCHEMA.empty_table())
        assert isinstance(empty, pl.DataFrame)
        return index, pl.concat([pl.read_parquet(chunk, glob=False) for chunk in chunks]) if chunks else empty

    def validate(
        self, out: str = "valid", raw: str = "raw", earlier: Sequence[str] = (), maker: str = "1", **settings: Any
    ) -> Summary:
        """The validated data set, in the folder `out`."""
        (self.root / out).mkdir()
        request = ValidateRequest(
            raw=self.root / raw,
            base=self.base,
            base_identity="base",
            maker=maker,
            settings=section(**settings),
            earlier=tuple(self.root / name for name in earlier),
            out_dir=self.root / out,
        )
        return validate_dataset(request, _reporter)

    def make(self, lines: Sequence[str], tested: Sequence[str] | None = None, **settings: Any) -> Any:
        """The validated data set of these lines, and of those of a test set."""
        self.write("rows.jsonl", lines)
        settings = {"sources": ["data/rows.jsonl"]} | settings
        if tested is not None:
            self.write("tested.jsonl", tested)
            settings["test_sets"] = {"fresh": ["data/tested.jsonl"]}
        out = settings.pop("out", "valid")
        self.parse(f"raw-{out}", **settings)
        return self.validate(out, f"raw-{out}", **settings)

    def table(self, name: str, out: str = "valid") -> pl.DataFrame:
        """A file of the validated data set."""
        return pl.read_parquet(self.root / out / name, glob=False)


def section(**settings: Any) -> DatasetSection:
    """A recipe's section on data: all files of the folder unless settings say otherwise."""
    defaults: dict[str, Any] = {"sources": ["data/*"], "max_quarantined_share": 0.5, "max_row_tokens": 200}
    return DatasetSection.model_validate(defaults | settings)


def turns(*pairs: tuple[str, str], **fields: Any) -> str:
    """A line of chat messages."""
    return json.dumps({"messages": [{"role": role, "content": content} for role, content in pairs]} | fields)


def good(number: int) -> str:
    """A line that keeps the contract, another one for each number."""
    return turns(("user", f"say the word {number}"), ("assistant", f"the word {number}"))
