"""What the evaluation is asked: who competes, on which rows, by which rules."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from ft_pipeline.recipe import EvaluationSection

Role = Literal["base", "champion", "challenger"]


class Contestant(BaseModel):
    """One GGUF file that is scored.

    Attributes:
        role: The base that was fine-tuned, the champion that runs today, or the challenger that was just made.
        quantization: llama.cpp's file type, such as `Q4_K_M`.
        gguf: The file itself: the one that ships.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    role: Role
    quantization: str
    gguf: Path

    @property
    def label(self) -> str:
        """Name in tables and plots, such as `base Q4_K_M`."""
        return f"{self.role} {self.quantization}"


class EvaluationRequest(BaseModel):
    """What the stage's process is given.

    Attributes:
        rows: Parquet with the columns set ("held_out" or a test set's name), messages (the last is the reference
            answer), source_file, source_line. The first rows of each set are scored.
        contestants: Challengers stand in the recipe's order of types; the first of them is the one that is gated.
        out_dir: The artifact's draft folder.
        loss_history: `{"step": 1, "loss": 2.3}` and so on, from the training; empty if there is none to show.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rows: Path
    contestants: tuple[Contestant, ...]
    settings: EvaluationSection
    out_dir: Path
    recipe_name: str
    loss_history: tuple[dict[str, float], ...] = ()
