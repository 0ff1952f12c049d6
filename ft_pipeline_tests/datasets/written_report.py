"""A data report that was written, with its page and its JSON read back."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.datasets.report.request import DataReportRequest
from ft_pipeline.datasets.report.write import write_report
from ft_pipeline.summary import Summary


class Recorder:
    """A reporter that keeps what it is told."""

    def __init__(self) -> None:
        self.infos: list[str] = []
        self.warnings: list[str] = []

    def info(self, message: str) -> None:
        self.infos.append(message)

    def warning(self, message: str) -> None:
        self.warnings.append(message)

    def progress(self, done: int, total: int, **_figures: float) -> None:
        raise AssertionError(f"the report has no progress, got {done}/{total}")


class Page(HTMLParser):
    """Tags, links and visible text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: set[str] = set()
        self.outside: list[str] = []
        self._texts: list[str] = []
        self.feed(self.source)
        self.text = " ".join(" ".join(self._texts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.outside += [f"{name}={value}" for name, value in attrs if name in {"src", "href"} or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self._texts.append(data)


class Report:
    """A report that was written, and all that was said."""

    def __init__(self, folder: Path, validated: Path, previous: Path | None = None) -> None:
        folder.mkdir()
        self.folder, self.recorder = folder, Recorder()
        request = DataReportRequest(validated=validated, previous=previous, recipe_name="tiny", out_dir=folder)
        self.summary: Summary = write_report(
            DataReportRequest.model_validate_json(request.model_dump_json()), self.recorder
        )
        self.page = Page(folder / "data_report.html")
        self.json: dict[str, Any] = json.loads((folder / "data_report.json").read_text(), parse_constant=pytest.fail)
