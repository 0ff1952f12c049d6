"""A small project whose whole graph runs for real in half a minute, and what its runs give when nothing happens."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.publishing.alias import AliasState, alias_folder, read_state
from ft_pipeline_tests.tiny_model import make_base

NAME = "chaos"
RECIPE: dict[str, Any] = {
    "name": NAME,
    "base_model": {"source": "base"},
    "dataset": {"sources": ["data/*.jsonl"], "max_row_tokens": 64, "held_out_share": 0.3},
    # TRL alone imports in a second what Unsloth takes eight for; checkpoints, lease and trainer are the same.
    "training": {"backend": "trl", "effective_batch_tokens": 64, "epochs": 3, "learning_rate": 0.01},
    "quantization": {"types": ["Q8_0"]},
    "evaluation": {
        "max_new_tokens": 4,
        "general_set": False,
        "compare_with_16bit": False,
        # Whatever the tiny model has learnt, the newer one is published.
        "gate": {"rules": ["exact_match > champion"], "tie": "newer"},
    },
    "publishing": {"ollama": "never"},
}
_ROW = '{"messages": [{"role": "user", "content": "say %d"}, {"role": "assistant", "content": "it is %d"}]}\n'
# What a run makes, by the function that makes it, in this order. What is made of the base alone is there after the
# first run, and the 16-bit GGUF is gone after each.
STAGES = {
    "parse_sources": "raw_dataset",
    "validate_dataset": "validated_dataset",
    "write_report": "data_report",
    "train_adapter": "trained_adapter",
    "merge_adapter": "merged_model",
    "build_gguf": "gguf_model",
    "evaluate": "evaluation_report",
}
START, END = "start", "end"
# Files that say when or how fast something was done; every other byte must be that of an undisturbed run. What the
# evaluation found is among these: the answers and their scores are in predictions.parquet.
_OF_THE_CLOCK = ("report.html", "report.json", "report.md", "history.json", ".png")


@dataclass(frozen=True)
class Instance:
    """A Dagster instance with an artifact store of its own.

    Attributes:
        project: The folder with the recipe, the data and the base.
        folder: Where the instance is.
        variables: More for the environment of its processes.
    """

    project: Path
    folder: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def home(self) -> Path:
        """Its DAGSTER_HOME."""
        return self.folder / "home"

    @property
    def disk(self) -> Path:
        """What holds store and published folder."""
        return self.folder / "disk"

    @property
    def store(self) -> ArtifactStore:
        """What its runs have made."""
        return ArtifactStore(self.disk / "artifacts")

    @property
    def published(self) -> Path:
        """The champion, for other programs."""
        return self.disk / "published" / NAME

    @property
    def locks(self) -> Path:
        """Device locks of its own: what else runs on the machine is no part of the test."""
        return self.folder / "locks"

    @property
    def state(self) -> AliasState:
        """Champion and history."""
        return read_state(alias_folder(self.store.root), NAME)

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told."""
        settings = {"DAGSTER_HOME": self.home, "PYTHONPATH": Path(__file__).parents[2], "OMP_NUM_THREADS": 1}
        own = {"ROOT": self.project, "RECIPE": NAME, "DEVICE": "cpu", "ARTIFACTS": self.store.root}
        own |= {"PUBLISHED": self.published.parent, "LOCK_DIR": self.locks}
        settings |= {f"FT_PIPELINE_{name}": value for name, value in own.items()}
        return os.environ | {name: str(value) for name, value in settings.items()} | dict(self.variables)

    def prepare(self, disk: Path | None = None) -> None:
        """Lay it out, with another one's disk as it is."""
        self.home.mkdir(parents=True)
        shutil.copy(Path(__file__).parents[2] / "dagster.yaml", self.home)
        if disk:
            shutil.copytree(disk, self.disk, symlinks=True, dirs_exist_ok=True)

    def start(self, *options: str, name: str = "run") -> subprocess.Popen[bytes]:
        """`dagster asset materialize` in a group of its own, of the whole graph if no option says otherwise."""
        command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "ft_pipeline.definitions"]
        command += [*([] if "--select" in options else ["--select", "*"]), *options]
        with (self.folder / f"{name}.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True
            )

    def run(self, *options: str, name: str = "run") -> int:
        """The same, to its end.

        Returns:
            Its exit status.
        """
        return self.start(*options, name=name).wait(timeout=1200)

    def read_log(self, name: str = "run") -> str:
        """What that run has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")


@dataclass(frozen=True)
class Reference:
    """What undisturbed runs gave.

    Attributes:
        project: Recipe, base, and the data of both runs.
        before: The disk after a first run on less data, whose model is champion.
        after: The disk after the second one.
        seconds: What each stage of the second run took, Dagster's own START and END among them.
    """

    project: Path
    before: Path
    after: Path
    seconds: dict[str, float]

    def lay_disk(self, target: Path, stage: str, *, has_later: bool) -> None:
        """The disk as it is when the second run comes to a stage.

        Args:
            target: The folder to make.
            stage: An asset, or START or END.
            has_later: What is made after it is there too, as if it had been lost alone: then it is all that is built.
        """
        shutil.copytree(self.before, target, symlinks=True, dirs_exist_ok=True)
        order = [START, *STAGES.values(), END]
        for place, asset in enumerate(order[1:-1], start=1):
            at = order.index(stage)
            if place < at or (has_later and place > at):
                for folder in (self.after / "artifacts" / asset).glob("[0-9a-f]*"):
                    shutil.copytree(folder, target / "artifacts" / asset / folder.name, dirs_exist_ok=True)

    @property
    def champions(self) -> tuple[str, str]:
        """The first run's model and the second's."""
        found = [read_state(alias_folder(disk / "artifacts"), NAME).champion for disk in (self.before, self.after)]
        first, second = (model.gguf_model for model in found if model)
        return first, second


def make_project(root: Path) -> Path:
    """Recipe, base and the first run's data."""
    for name in ("recipes", "data"):
        (root / name).mkdir(parents=True)
    (root / "recipes" / f"{NAME}.yaml").write_text(yaml.safe_dump(RECIPE))
    make_base(root / "base")
    write_rows(root / "data/rows.jsonl", 0, 60)
    return root


def write_rows(path: Path, first: int, last: int) -> None:
    """Rows that the tiny model can learn something from."""
    path.write_text("".join(_ROW % (number, number) for number in range(first, last)))


def make_reference(folder: Path) -> Reference:
    """Run twice undisturbed, the second time with more data; what lies in the folder already is taken."""
    first = Instance(folder / "project", folder / "first")
    second = Instance(folder / "project", folder / "second")
    known = folder / "seconds.json"
    if not known.exists():
        make_project(folder / "project")
        first.prepare()
        assert first.run() == 0, first.read_log()[-4000:]
        write_rows(folder / "project/data/more.jsonl", 60, 90)
        second.prepare(first.disk)
        started = time.time()
        assert second.run() == 0, second.read_log()[-4000:]
        known.write_text(json.dumps(_time_stages(first.store, second.store, started, time.time())))
    reference = Reference(folder / "project", first.disk, second.disk, json.loads(known.read_bytes()))
    assert len(set(reference.champions)) == 2, second.read_log()[-4000:]
    return reference


def _time_stages(before: ArtifactStore, after: ArtifactStore, started: float, ended: float) -> dict[str, float]:
    earlier = {artifact.manifest.fingerprint for artifact in before.list_artifacts()}
    manifests = (artifact.manifest for artifact in after.list_artifacts())
    made = {manifest.asset: manifest for manifest in manifests if manifest.fingerprint not in earlier}
    seconds = {asset: made[asset].wall_seconds for asset in STAGES.values() if asset in made}
    raw, report = made["raw_dataset"], made["evaluation_report"]
    seconds["start"] = raw.created_at.timestamp() - raw.wall_seconds - started
    seconds["end"] = ended - report.created_at.timestamp()
    return seconds


def list_results(store: ArtifactStore) -> dict[str, dict[str, str]]:
    """SHA-256 by file of every artifact, but for files that tell the time."""
    found = {}
    for artifact in store.list_artifacts():
        files = artifact.manifest.files.items()
        found[f"{artifact.manifest.asset}/{artifact.manifest.fingerprint}"] = {
            name: record.sha256 for name, record in files if not name.endswith(_OF_THE_CLOCK) and "tfevents" not in name
        }
    return found
