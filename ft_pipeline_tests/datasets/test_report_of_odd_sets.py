"""The data report of data sets that nobody would train on: it is what tells their owner why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline_tests.datasets.data_folder import DataFolder, good, turns
from ft_pipeline_tests.datasets.written_report import Report

EMPTY = turns(("user", "say it"), ("assistant", ""))


@pytest.mark.parametrize(
    ("lines", "settings", "expected"),
    [
        ([EMPTY] * 3, {"max_quarantined_share": 1.0}, "in quarantine"),
        ([good(1)], {}, "1"),
        ([good(1)] * 5, {}, "repeat another"),
        ([good(1)], {"held_out_share": 0.999}, "1"),
    ],
)
def test_it_is_written_also_where_a_side_or_all_of_it_is_empty(
    tmp_path: Path, tiny_base: Path, lines: list[str], settings: dict[str, Any], expected: str
) -> None:
    folder = DataFolder(tmp_path, tiny_base)
    folder.write("a.jsonl", lines)
    folder.parse(**settings)
    folder.validate(**settings)
    report = Report(tmp_path / "report", tmp_path / "valid")
    assert expected in report.page.text
