"""The demo, for real: every asset through Dagster's command line on the base model and data of the repository."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.artifact import Artifact
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.publishing.alias import alias_folder, read_champion, read_state
from ft_pipeline.publishing.folder import find_faults, read_sums
from ft_pipeline_tests.ci_run import materialize

pytestmark = pytest.mark.slow
# What no model reaches.
RULES = ["exact_match > champion", "perplexity <= 1e-9"]
# An evaluation of a few seconds.
SHORT = {"evaluation.max_rows_per_set": 40, "evaluation.general_set": False, "evaluation.compare_with_16bit": False}

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

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told."""
        settings = {"DAGSTER_HOME": self.home, "FT_PIPELINE_RECIPE": "demo", "FT_PIPELINE_DEVICE": "cpu"}
        settings |= {"FT_PIPELINE_ARTIFACTS": self.store.root, "FT_PIPELINE_LOCK_DIR": self.home / "locks"}
        return os.environ | {name: str(value) for name, value in settings.items()}

    def materialize(
        self, selection: str = "*", overrides: dict[str, Any] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `dagster asset materialize` as a user in CI does."""
        chosen = {"publishing.ollama": "never", **(overrides or {})}
        return materialize(selection, cwd=self.project, environment=self.environment, overrides=chosen)

    def tell(self, *words: str) -> None:
        """Run a command of `python -m ft_pipeline`."""
        command = [sys.executable, "-m", "ft_pipeline", *words]
        subprocess.run(command, check=True, cwd=self.project, env=self.environment, timeout=120)

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
    figures = demo.find("evaluation_report").manifest.summary.figures
    assert figures["rows"] >= 200  # type: ignore[operator]
    assert figures["exact_match_base"] <= 0.05  # type: ignore[operator]
    assert figures["exact_match"] >= 0.9  # type: ignore[operator]
    assert figures["stop_rate"] >= 0.99  # type: ignore[operator]
    assert figures["exact_match@unseen_phrasings"] >= 0.8  # type: ignore[operator]
    assert 0 < figures["kld"] <= 0.08  # type: ignore[operator]


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


def test_on_another_machine_a_restored_backup_is_whole_published_and_reused(demo: Instance, tmp_path: Path) -> None:
    there = Instance(demo.project, tmp_path / "there")
    there.home.mkdir()
    (there.home / "dagster.yaml").write_text((demo.project / "dagster.yaml").read_text())
    demo.tell("backup", str(tmp_path))
    (backup,) = tmp_path.glob("*.tar")
    there.tell("restore", str(backup))
    there.tell("verify")
    assert read_sums(there.home / "published/demo") == read_sums(demo.home / "published/demo")
    done = there.materialize()
    assert done.returncode == 0, done.stderr[-4000:]
    assert all(f"{asset} " in done.stderr and ": reused" in done.stderr for asset in ASSETS)
    assert ": built in" not in done.stderr
    aliases = [read_state(alias_folder(instance.store.root), "demo") for instance in (demo, there)]
    assert aliases[0] == aliases[1]


def test_a_gate_that_is_not_passed_fails_the_run_and_keeps_the_champion(demo: Instance) -> None:
    before = read_champion(alias_folder(demo.store.root), "demo")
    done = demo.materialize("evaluation_report,published_model", {**SHORT, "evaluation.gate.rules": RULES})
    assert done.returncode == 1
    assert "evaluation_report: gate" in done.stderr
    assert read_champion(alias_folder(demo.store.root), "demo") == before


def test_the_published_folder_holds_the_champion_and_its_checksums(demo: Instance) -> None:
    published = demo.home / "published" / "demo"
    assert {"demo-Q4_K_M.gguf", "demo-Q8_0.gguf", "Modelfile", "README.md", "SHA256SUMS"} <= {
        path.name for path in published.iterdir()
    }
    assert find_faults(published) == []


@pytest.mark.long
def test_a_model_that_was_trained_on_shuffled_labels_is_caught_and_not_published(demo: Instance) -> None:
    before = read_champion(alias_folder(demo.store.root), "demo")
    (demo.home / "data").mkdir()
    shuffle_answers(demo.project / "data/raw/tickets.jsonl", demo.home / "data/shuffled.jsonl", rows=600)
    overrides = {
        "dataset.sources": [str(demo.home / "data/*.jsonl")],
        "dataset.allowed_roots": [str(demo.home / "data"), "data"],
        "training.epochs": 0.5,
        **SHORT,
        # The held-out rows are shuffled too, and say nothing; the test set is not.
        "evaluation.gate.rules": ["exact_match@unseen_phrasings > champion"],
    }
    done = demo.materialize(overrides=overrides)
    assert done.returncode == 0, done.stderr[-4000:]
    state = read_state(alias_folder(demo.store.root), "demo")
    assert state.champion == before
    assert state.challenger is not None
    assert state.history[-1].kind == "rejected"
    assert "worse" in state.history[-1].reason


@pytest.mark.long
def test_a_rollback_restores_the_earlier_champion_to_the_byte(demo: Instance) -> None:
    published = demo.home / "published" / "demo"
    first, files = read_champion(alias_folder(demo.store.root), "demo"), read_sums(published)
    rules = ["exact_match > champion", "exact_match >= 0.9"]
    newer = {
        **SHORT,
        "quantization.context_tokens": 256,
        "evaluation.gate.tie": "newer",
        "evaluation.gate.rules": rules,
    }
    done = demo.materialize("merged_model,gguf_model,evaluation_report,published_model", newer)
    assert done.returncode == 0, done.stderr[-4000:]
    assert read_champion(alias_folder(demo.store.root), "demo") != first
    assert read_sums(published) != files
    demo.tell("rollback")
    assert read_champion(alias_folder(demo.store.root), "demo") == first
    assert (read_sums(published), find_faults(published)) == (files, [])


def shuffle_answers(source: Path, target: Path, rows: int) -> None:
    """Rows whose answers are those of other rows."""
    found = []
    for line in source.read_text(encoding="utf-8").splitlines():
        with suppress(ValueError):
            row = json.loads(line)
            if isinstance(row.get("messages"), list) and len(row["messages"]) == 3:
                found.append(row["messages"])
    found = found[:rows]
    answers = [messages[-1] for messages in found]
    random.Random(1).shuffle(answers)
    mixed = [{"messages": [*messages[:-1], answer]} for messages, answer in zip(found, answers, strict=True)]
    target.write_text("".join(json.dumps(row) + "\n" for row in mixed), encoding="utf-8")
