"""Rows, scored rows and scoreboards made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.costs import Costs
from ft_pipeline.evaluation.gate import judge
from ft_pipeline.evaluation.general import load_general_rows
from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.request import Absence, Contestant, EvaluationRequest, Role
from ft_pipeline.evaluation.rows import Divergence, EvaluationRow, ScoredRow
from ft_pipeline.evaluation.scores import ContestantResult, Scoreboard, build_scoreboard
from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.recipe_evaluation import EvaluationSection, GateSection

HOSTILE = (
    "<script>alert(1)</script> {{ 7 * 7 }} [x](http://evil.example) @all `` ``` | \x1b[31m \u202e \x00 \ud800 </pre><b>"
)

COSTS = Costs(
    size_bytes=2**20,
    load_seconds=0.1,
    first_token_seconds=0.02,
    tokens_per_second=100.0,
    threads=1,
    memory_bytes=2**21,
    memory_context_tokens=512,
)


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
    return ContestantResult(contestant, tuple(make_scored(right, number=n) for n, right in enumerate(rights)), COSTS)


def make_board(
    rights: Mapping[Role, Sequence[bool]], test_set: Sequence[bool] = (), absent: Sequence[Absence] = ()
) -> Scoreboard:
    """Held-out rows by role, and the same rows of a test set called `other` for everybody."""
    extra = tuple(make_scored(right, number=n, set_name="other") for n, right in enumerate(test_set))
    results = [make_result(role, row_rights) for role, row_rights in rights.items()]
    return build_scoreboard([replace(result, rows=result.rows + extra) for result in results], METRICS, absent)


def make_outcome(board: Scoreboard, rules: Sequence[Any] = ("exact_match > champion",), **changes: Any) -> Outcome:
    """What is told of a board, by the verdict of these rules."""
    settings = EvaluationSection(gate=GateSection(rules=tuple(rules)), sample_rows=changes.pop("sample_rows", 12))
    request = EvaluationRequest(
        rows=Path("rows.parquet"),
        contestants=tuple(result.contestant for result in board.results),
        settings=settings,
        gpu=GpuSettings("cpu", Path("locks")),
        out_dir=Path("out"),
        recipe_name=changes.pop("recipe_name", "tickets"),
        loss_history=changes.pop("loss_history", ()),
    )
    return Outcome(request, board, judge(board, settings.gate), **changes)


def change_rows(board: Scoreboard, label: str, change: Callable[[ScoredRow], ScoredRow]) -> Scoreboard:
    """The board after a change to every row of one contestant."""
    results = [
        replace(result, rows=tuple(map(change, result.rows))) if result.label == label else result
        for result in board.results
    ]
    return build_scoreboard(results, board.metrics, board.absent)


def make_rich_board() -> Scoreboard:
    """Eight contestants, five test sets and the general one, tags, JSON, a divergence, faults and hostile texts."""
    roles: list[tuple[Role, str, int]] = [
        ("base", "Q4_K_M", 1), ("merged", "F16", 7), ("challenger", "Q4_K_M", 6), ("challenger", "Q8_0", 7),
        ("challenger", "Q5_K_M", 6), ("challenger", "Q3_K_M", 4), ("champion", "Q4_K_M", 3), ("best", "Q4_K_M", 5),
    ]  # fmt: skip
    rows = [_make_rich_row("held_out", number) for number in range(40)]
    rows += [_make_rich_row(f"set_{number % 5}", number // 5) for number in range(30)]
    rows += load_general_rows()
    results = []
    for role, quantization, skill in roles:
        contestant = Contestant(role=role, quantization=quantization, gguf=Path(f"{role}.gguf"))
        scored = tuple(_answer_rich_row(row, skill, quantization, role == "challenger") for row in rows)
        results.append(ContestantResult(contestant, scored, replace(COSTS, size_bytes=2**30 * skill)))
    return build_scoreboard(results, METRICS)


def _make_rich_row(set_name: str, number: int) -> EvaluationRow:
    texts = (HOSTILE, "مرحبا، أين طلبي؟", "word " * 20_000, "Where is my order?")
    reference = json.dumps({"tag": f"<{number % 3}>", "n": number, "who": "\ud800"[number % 2 :]}, ensure_ascii=False)
    row = make_row(texts[number % 4], reference, number, set_name)
    return replace(row, tags=(("$a$", "<b>", "\x1bc")[number % 3],), source_file="data/<i>rows</i>.jsonl")


def _answer_rich_row(row: EvaluationRow, skill: int, quantization: str, is_compared: bool) -> ScoredRow:
    is_right = (7 * row.number + len(row.set_name)) % 10 < skill
    refusal = "I'm sorry, but I can't help with that."
    wrong = ("", HOSTILE, "x" * 100_000, '{"tag": "<0>", "n": -1, "who": ""}', refusal)
    prediction = row.reference if is_right else wrong[row.number % 5]
    divergence = None
    if is_compared and row.set_name == "held_out" and quantization != "F16":
        kl_sum = 10 * (0.001 if quantization == "Q8_0" else 0.02) * (1 + row.number % 3)
        divergence = Divergence(10, kl_sum, 9, -5.0 - kl_sum, -5.0, kl_sum / 4)
    stopped = is_right or row.number % 10 > 1
    fault = "the prompt is too long" if row.number == 9 and row.set_name == "held_out" else ""
    return ScoredRow(
        row, "" if fault else prediction, len(prediction) // 4 + 1, stopped=stopped, logprob=-5.0 + skill,
        reference_tokens=10, fault=fault, divergence=divergence,
    )  # fmt: skip
