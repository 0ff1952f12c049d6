"""What the evaluation is asked: who competes, on which rows, by which rules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ft_pipeline.errors import EvaluationError
from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.recipe_evaluation import EvaluationSection

Role = Literal["base", "merged", "best", "champion", "challenger"]


class Contestant(BaseModel):
    """One GGUF file that is scored.

    Attributes:
        role: The base that was fine-tuned, the merged model in 16 bits, the best champion ever, the champion that runs
            today, or the challenger that was just made.
        quantization: llama.cpp's file type, such as `Q4_K_M`.
        gguf: The file itself: the one that ships; the first of several parts.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    quantization: str
    gguf: Path

    @property
    def label(self) -> str:
        """Name in tables and plots, such as `base Q4_K_M`."""
        return f"{self.role} {self.quantization}"


class Absence(BaseModel):
    """Somebody who should compete and cannot."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    reason: str


class OwnFile(BaseModel):
    """A file of the user's own that is run, and the SHA-256 that it had when the run began."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: Path
    sha256: str


class Opponents(BaseModel):
    """Who is published at the moment, by the fingerprints of their GGUFs.

    Attributes:
        champion: What runs today; None where there is none yet.
        best: The best champion ever, where that is another one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    champion: str | None = None
    best: str | None = None


class EvaluationRequest(BaseModel):
    """What the stage's process is given.

    Attributes:
        rows: Parquet with the columns set ("held_out" or a test set's name), messages (the last is the reference
            answer), source_file, source_line. The first rows of each set are scored.
        contestants: Challengers stand in the recipe's order of types; the first of them is the one that is gated.
        absent: Who should compete and cannot.
        metric_files: Of the user.
        harness_folder: Of the user's own tasks for lm-evaluation-harness.
        gpu: What to score on; it is held only if llama.cpp uses one.
        holder: Who we are, for those who wait for it.
        out_dir: The artifact's draft folder.
        loss_history: `{"step": 1, "loss": 2.3}` and so on, from the training; empty if there is none to show.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Path
    contestants: tuple[Contestant, ...]
    absent: tuple[Absence, ...] = ()
    settings: EvaluationSection
    metric_files: tuple[OwnFile, ...] = ()
    harness_folder: Path | None = None
    gpu: GpuSettings
    holder: str = ""
    out_dir: Path
    recipe_name: str
    loss_history: tuple[dict[str, float], ...] = ()

    @property
    def gated(self) -> Contestant:
        """The challenger that the gate judges: the first.

        Raises:
            EvaluationError: there is none.
        """
        return find_gated(self.contestants)


def find_gated(contestants: Sequence[Contestant]) -> Contestant:
    """The challenger that the gate judges: the first.

    Raises:
        EvaluationError: there is none, or a contestant stands twice.
    """
    labels = [contestant.label for contestant in contestants]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        raise EvaluationError(f"a contestant must stand once; {', '.join(twice)} stands twice")
    for contestant in contestants:
        if contestant.role == "challenger":
            return contestant
    raise EvaluationError(f"an evaluation needs a challenger; there is {', '.join(labels) or 'nobody'}")
