"""Rows, scored rows and scoreboards made by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ft_pipeline.evaluation.llama_runner import Speed
from ft_pipeline.evaluation.request import Contestant, Role
from ft_pipeline.evaluation.rows import EvaluationRow, ScoredRow
from ft_pipeline.evaluation.scores import ContestantResult, RunFigures, Scoreboard, build_scoreboard

RUN = RunFigures(size_bytes=2**20, load_seconds=0.1, scoring_seconds=1.0, speed=Speed(100.0, 1))


def make_row(user: str, reference: str, number: int = 0, set_name: str = "held_out") -> EvaluationRow:
    """A row of one turn each."""
    messages = ({"role": "user", "content": user}, {"role": "assistant", "content": reference})
    return EvaluationRow(set_name, number, messages, "data/rows.jsonl", number + 1)  # type: ignore[arg-type]


def make_scored(
    right: bool = True, *, number: int = 0, set_name: str = "held_out", logprob: float = -1.0, stopped: bool = True
) -> ScoredRow:
    row = make_row("sky", "blue", number, set_name)
    return ScoredRow(row, "blue" if right else "red", 2, stopped=stopped, logprob=logprob, reference_tokens=2)


def make_result(role: Role, rights: Sequence[bool], quantization: str = "Q4_K_M") -> ContestantResult:
    contestant = Contestant(role=role, quantization=quantization, gguf=Path(f"{role}.gguf"))
    return ContestantResult(contestant, tuple(make_scored(right, number=n) for n, right in enumerate(rights)), RUN)


def make_board(rights: Mapping[Role, Sequence[bool]], test_set: Sequence[bool] = ()) -> Scoreboard:
    """Held-out rows by role, and the gated challenger's rows of a test set called `other`."""
    extra = tuple(make_scored(right, number=n, set_name="other") for n, right in enumerate(test_set))
    results = [make_result(role, row_rights) for role, row_rights in rights.items()]
    return build_scoreboard([replace(result, rows=result.rows + extra) for result in results])
