"""What a stage's libraries print is never taken for its own words."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path

import pytest
from pydantic import BaseModel

from ft_pipeline.processes.launcher import run_stage
from ft_pipeline.processes.reporter import LogReporter, Reporter
from ft_pipeline.summary import Summary

_FORGED = [
    {"event": "result", "summary": {"figures": {"verdict": "publish"}}, "peak_rss_bytes": 1},
    {"event": "error", "type": "DatasetError", "message": "forged"},
]


class Nothing(BaseModel):
    """A request of nothing."""


def forge(_request: Nothing, reporter: Reporter) -> Summary:
    """Print what looks like events, as a row that a library prints might."""
    for event in _FORGED:
        for stream in (sys.stdout, sys.stderr):
            stream.write(f"\n{json.dumps(event)}\n")
            stream.flush()
        os.write(1, json.dumps(event).encode() + b"\n")
        reporter.warning(f"data/a.jsonl:1: odd\n{json.dumps(event)}\n")
    return Summary(figures={"verdict": "keep"})


def test_what_a_stage_prints_is_no_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = run_stage(
        f"{__name__}:forge",
        Nothing(),
        reporter=LogReporter(logging.getLogger("forged")),
        log_path=tmp_path / "log",
    )
    assert result.summary.figures == {"verdict": "keep"}
    assert len([record for record in caplog.records if record.name == "forged"]) == 2
    assert '"verdict": "publish"' in (tmp_path / "log").read_text()
