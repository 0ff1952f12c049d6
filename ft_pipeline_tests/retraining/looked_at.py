"""A user's project whose recipe is retrained, looked at by the clock of this machine or another."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from ft_pipeline.recipe import Recipe
from ft_pipeline.recipe_file import load_recipe
from ft_pipeline.retraining.decision import Rest, RunState, StartedRun
from ft_pipeline.retraining.retrainer import Due, Retrainer
from ft_pipeline.run import Run
from ft_pipeline_tests.user_project import RECIPE, ROW, make_project

START = datetime.now(UTC)


class Project:
    """A user's project whose recipe is retrained."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        self.store_root = root / "data/artifacts"
        self.settings = settings
        self.sources = ["data/*.jsonl"]
        self.test_sets: dict[str, list[str]] = {}
        self.started: list[StartedRun] = []
        self.now = START
        self.monkeypatch: pytest.MonkeyPatch

    def write(self, name: str, rows: range) -> Path:
        path = self.root / "data" / name
        path.write_text("".join(ROW % (number, number) for number in rows))
        return path

    def look(self, *, is_patient: bool = True) -> Due | Rest:
        """A look long after the last change, if `now` was not set."""
        recipe = self.write_recipe()
        moment = max(self.now, datetime.now(UTC) + timedelta(hours=2)) if self.now == START else self.now
        return Retrainer(recipe, self.root, self.store_root).look(self.started, moment, is_patient=is_patient)

    def write_recipe(self) -> Recipe:
        words = RECIPE | {
            "retraining": self.settings,
            "dataset": RECIPE["dataset"] | {"sources": self.sources, "test_sets": self.test_sets},
        }
        (self.root / "recipes/mine.yaml").write_text(yaml.safe_dump(words))
        return load_recipe(self.root / "recipes/mine.yaml")

    def due(self) -> Due:
        found = self.look()
        assert isinstance(found, Due), found
        return found

    def rest(self, *, is_patient: bool = True) -> str:
        found = self.look(is_patient=is_patient)
        assert isinstance(found, Rest), found
        return found.reason

    def train(self, data: str = "", run_id: str = "0-1") -> None:
        """A run that comes to its end."""
        run = Run(lambda: load_recipe(self.root / "recipes/mine.yaml"), self.root, self.store_root, [run_id], data)
        run.pin()
        run.judge("published", "v")
        run.close()

    def start(self, due: Due, state: RunState, run_id: str = "0-1", ended: datetime | None = None) -> None:
        self.started.append(StartedRun(run_id, due.data, due.attempt, state, ended))


@pytest.fixture
def project(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    found = Project(make_project(tmp_path / "root", tiny_base, monkeypatch))
    found.monkeypatch = monkeypatch
    return found
