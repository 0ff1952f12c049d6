"""The demo, for real: every asset through Dagster's command line on the base model and data of the repository."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.artifact import Artifact
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.publishing.alias import alias_folder, read_champion

pytestmark = pytest.mark.slow

ASSETS = {"raw_dataset", "validated_dataset", "trained_adapter", "merged_model", "gguf_model", "evaluation_report"}


@dataclass(frozen=True)
class Instance:
    """A fresh Dagster instance with an artifact store of its own."""

    project: Path
    home: Path

    @property
    def store(self) -> ArtifactStore:
        """What the runs have made."""
        return ArtifactStore(self.home / "artifacts")

    def materialize(
        self, selection: str = "*", overrides: dict[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `dagster asset materialize` as a user in CI does."""
        settings = {"DAGSTER_HOME": self.home, "FT_PIPELINE_RECIPE": "demo", "FT_PIPELINE_DEVICE": "cpu"}
        settings |= {"FT_PIPELINE_ARTIFACTS": self.store.root, "FT_PIPELINE_LOCK_DIR": self.home / "locks"}
        config = {"resources": {"pipeline": {"config": {"overrides": overrides or {}}}}}
        return subprocess.run(
            [
                *(sys.executable, "-m", "dagster", "asset", "materialize", "--select", selection),
                *("-m", "ft_pipeline.definitions", "--config-json", json.dumps(config)),
            ],
            cwd=self.project,
            env=os.environ | {name: str(value) for name, value in settings.items()},
            capture_output=True,
            text=True,
            check=False,
        )

    def find(self, asset: str) -> Artifact:
        """The one artifact of an asset."""
        (artifact,) = [artifact for artifact in self.store.list_artifacts() if artifact.manifest.asset == asset]
        return artifact


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, project: Path) -> Instance:
    """An instance in which the demo has run once."""
    home = tmp_path_factory.mktemp("home")
    (home / "dagster.yaml").write_text((project / "dagster.yaml").read_text())
    instance = Instance(project, home)
    done = instance.materialize()
    assert done.returncode == 0, done.stderr[-4000:]
    return instance


def test_every_asset_is_there_and_matches_its_manifest(demo: Instance) -> None:
    artifacts = list(demo.store.list_artifacts())
    assert {artifact.manifest.asset for artifact in artifacts} == ASSETS | {"base_gguf", "data_report", "export_check"}
    for artifact in artifacts:
        demo.store.verify(artifact)


def test_every_dirty_row_is_caught(demo: Instance) -> None:
    summary = demo.find("validated_dataset").manifest.summary
    reasons = {row["reason"]: row["rows"] for row in summary.tables["quarantine"]}
    assert set(reasons) >= {"invalid_json", "empty_turn", "role_order", "unknown_role", "too_many_tokens", "secret"}
    assert summary.figures["duplicate_rows"] == 15
    assert summary.failed == []


def test_the_tuned_file_does_what_the_base_cannot(demo: Instance) -> None:
    scores = {
        (row["set"], row["contestant"]): row for row in demo.find("evaluation_report").manifest.summary.tables["scores"]
    }
    base, tuned = scores["held_out", "base Q4_K_M"], scores["held_out", "challenger Q4_K_M"]
    assert tuned["rows"] >= 200  # type: ignore[operator]
    assert base["exact_match"] <= 0.05  # type: ignore[operator]
    assert tuned["exact_match"] >= 0.9  # type: ignore[operator]
    assert tuned["stop_rate"] >= 0.99  # type: ignore[operator]
    assert scores["unseen_phrasings", "challenger Q4_K_M"]["exact_match"] >= 0.8  # type: ignore[operator]


def test_the_report_needs_no_network_and_shows_base_and_tuned(demo: Instance) -> None:
    html = (demo.find("evaluation_report").path / "report.html").read_text(encoding="utf-8")
    assert "base" in html
    assert "challenger" in html
    assert 'src="http' not in html
    assert 'href="http' not in html


def test_the_better_model_is_the_champion(demo: Instance) -> None:
    champion = read_champion(alias_folder(demo.store.root), "demo")
    assert champion is not None
    assert champion.gguf_model == demo.find("gguf_model").manifest.fingerprint
    assert champion.against is None


def test_the_same_again_reuses_everything_in_under_30_seconds(demo: Instance) -> None:
    before = {artifact.path: artifact.manifest.created_at for artifact in demo.store.list_artifacts()}
    started = time.monotonic()
    done = demo.materialize()
    seconds = time.monotonic() - started
    assert done.returncode == 0, done.stderr[-4000:]
    assert {artifact.path: artifact.manifest.created_at for artifact in demo.store.list_artifacts()} == before
    assert all(f"{asset} " in done.stderr and ": reused" in done.stderr for asset in ASSETS)
    assert seconds < 30


def test_a_gate_that_is_not_passed_fails_the_run_and_keeps_the_champion(demo: Instance) -> None:
    before = read_champion(alias_folder(demo.store.root), "demo")
    done = demo.materialize("evaluation_report,published_model", {"evaluation.gate.max_perplexity": 1e-9})
    assert done.returncode != 0
    assert "evaluation_report: perplexity" in done.stderr
    assert read_champion(alias_folder(demo.store.root), "demo") == before
