from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline.scratch import open_scratch


def test_scratch_goes_with_the_stage_also_with_one_that_fails(tmp_path: Path) -> None:
    def fail() -> None:
        with open_scratch(tmp_path / "checkpoints") as scratch:
            (scratch / "rows").write_text("copied")
            raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        fail()
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_what_a_killed_stage_has_left_goes_with_the_next_one_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "scratch-killed/datasets").mkdir(parents=True)
    (tmp_path / "step-00000001").mkdir()
    with open_scratch(tmp_path) as scratch:
        assert sorted(tmp_path.iterdir()) == sorted([scratch, tmp_path / "step-00000001"])
