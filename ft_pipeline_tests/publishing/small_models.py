"""Models of a few bytes in a real store, and who publishes them."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from ft_pipeline.artifact import Artifact, ArtifactKey, Written
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.evaluation.request import Opponents
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.publishing.alias import AliasState, alias_folder, read_state
from ft_pipeline.publishing.publication import Judgement, Publication
from ft_pipeline.publishing.publisher import Publisher
from ft_pipeline.recipe import Recipe
from ft_pipeline.summary import Summary

NAME = "demo"
FILES = ("demo-Q4_K_M.gguf", "demo-Q8_0.gguf", "demo-lora-F16.gguf", "Modelfile", "README.md")


def make_recipe(*, keep_champions: int = 2, **publishing: Any) -> Recipe:
    """A recipe that tells nobody unless it is said."""
    return Recipe.model_validate(
        {
            "name": NAME,
            "base_model": {"source": "base"},
            "dataset": {"sources": ["data/*.jsonl"]},
            "publishing": {"ollama": "never"} | publishing,
            "retention": {"keep_champions": keep_champions},
        }
    )


def make_model(store: ArtifactStore, number: int) -> Artifact:
    """The `gguf_model` number n: two types, the adapter, and what a runtime needs."""

    def write(draft: Path) -> Written:
        for name in FILES:
            (draft / name).write_text(f"{name} of model {number}\n")
        return Written(Summary(figures={"parameters": number}))

    return store.build(_key_of(number), write)


def _key_of(number: int) -> ArtifactKey:
    quantization = {"types": ["Q4_K_M", "Q8_0"]}
    return ArtifactKey("gguf_model", {"name": NAME, "quantization": quantization, "of": number}, {})


def judge(number: int, opponents: Opponents, *, is_best: bool = True) -> Judgement:
    """What the report on model n says."""
    return Judgement(report_of(number), opponents, number / 10, is_best)


class Publishing:
    """A store with a published folder beside it."""

    def __init__(self, root: Path, recipe: Recipe | None = None) -> None:
        self.store = ArtifactStore(root / "artifacts")
        self.published = root / "published"
        self.recipe = recipe or make_recipe()
        self.link = self.published / NAME

    @property
    def state(self) -> AliasState:
        """The recipe's aliases."""
        return read_state(alias_folder(self.store.root), NAME)

    @property
    def champion(self) -> str | None:
        """The champion's fingerprint."""
        return self.state.champion.gguf_model if self.state.champion else None

    def publisher(self, run: str | None = "run-1") -> Publisher:
        """A fresh one, as each run has."""
        store = ArtifactStore(self.store.root)
        return Publisher(store, self.published, self.recipe, LogReporter(logging.getLogger(NAME)), run)

    def publish(self, number: int, *, is_best: bool = True, against: str | None = "present") -> Publication:
        """Publish model n, against who is champion now unless it is said."""
        model = make_model(self.store, number)
        opponents = Opponents(champion=self.champion if against == "present" else against)
        return self.publisher().publish(model, judge(number, opponents, is_best=is_best))

    def reject(self, number: int, *, report: str | None = None) -> Publication:
        """Write down that model n was not let in."""
        model, opponents = make_model(self.store, number), Opponents(champion=self.champion)
        judgement = replace(judge(number, opponents), report=report or report_of(number))
        return self.publisher().reject(model, judgement, "level with the champion")

    def roll_back(self, to: str | None = None) -> Publication:
        """As `make rollback` does."""
        return self.publisher(run=None).roll_back(to)

    @staticmethod
    def fingerprint(number: int) -> str:
        """Of model n."""
        return _key_of(number).fingerprint

    def lose(self, number: int) -> None:
        """Take model n out of the store."""
        self.store.remove(self.store.load("gguf_model", self.fingerprint(number)))

    def sums(self) -> dict[str, str]:
        """SHA-256 of every published file, as other programs see it through the link."""
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(self.link.iterdir())}

    def versions(self) -> set[str]:
        """What lies in the folder of versions, hidden files included."""
        return {path.name for path in (self.published / ".versions").iterdir() if path.is_dir()}


def report_of(number: int) -> str:
    """A fingerprint for the report on model n."""
    return hashlib.sha256(f"report {number}".encode()).hexdigest()[:24]
