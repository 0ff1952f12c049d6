"""The report for programs: one JSON file with everything that the page shows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ft_pipeline.evaluation.report.forgetting import find_forgetting
from ft_pipeline.evaluation.report.groups import (
    Group,
    group_by_answer_length,
    group_by_error,
    group_by_field,
    group_by_prompt_length,
    group_by_tag,
)
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.report.samples import Answer, choose_samples
from ft_pipeline.evaluation.report.tables import cost_table, fidelity_table, forgetting_table, gate_table, score_table
from ft_pipeline.evaluation.report.verdict import explain_verdict
from ft_pipeline.evaluation.rows import EvaluationRow
from ft_pipeline.text_marks import shorten

FORMAT = 2


def write_json(path: Path, outcome: Outcome) -> None:
    """Write all figures; one that is no number is null, a text is cut and has no keys.

    `format` rises when a field changes.
    """
    board, verdict = outcome.board, outcome.verdict
    document = {
        "format": FORMAT,
        "recipe": outcome.request.recipe_name,
        "verdict": {
            "publish": verdict.publish,
            "is_best": verdict.is_best,
            "reason": explain_verdict(outcome),
            "challenger": board.gated.label,
            "opponent": board.opponent.label if board.opponent else None,
        },
        "notes": list(outcome.notes),
        "absent": [absence.model_dump() for absence in board.absent],
        "gate": gate_table(outcome),
        "contestants": _list_contestants(outcome),
        "metrics": {
            name: {"title": metric.title, "unit": metric.unit, "better": metric.better, "family": metric.family}
            for name, metric in board.metrics.items()
        },
        "scores": score_table(outcome),
        "fidelity": fidelity_table(outcome),
        "forgetting": _describe_forgetting(outcome),
        "errors": {
            "by_kind": _describe_groups(group_by_error(outcome)),
            "by_tag": _describe_groups(group_by_tag(outcome)),
            "by_reference_tokens": _describe_groups(group_by_answer_length(outcome)),
            "by_prompt_characters": _describe_groups(group_by_prompt_length(outcome)),
            "by_json_field": _describe_groups(group_by_field(outcome)),
        },
        "harness": {label: [asdict(score) for score in scores] for label, scores in outcome.harness.items()},
        "loss_history": list(outcome.request.loss_history),
        "samples": _list_samples(outcome),
        "settings": outcome.request.settings.model_dump(mode="json"),
    }
    # In ASCII: a lone surrogate, which JSON can escape, is no UTF-8.
    text = json.dumps(_prepare(document), indent=2, ensure_ascii=True, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _list_contestants(outcome: Outcome) -> list[dict[str, Any]]:
    described = []
    for result, costs in zip(outcome.board.results, cost_table(outcome), strict=True):
        fits = outcome.cards.get(result.label, ())
        described.append(
            {
                "label": result.label,
                "role": result.contestant.role,
                "quantization": result.contestant.quantization,
                "file": result.contestant.gguf.name,
                "rows_with_faults": sum(bool(scored.fault) for scored in result.rows),
                "costs": {name: value for name, value in costs.items() if name != "contestant"},
                "context_tokens_by_card": {fit.card.name: fit.context_tokens for fit in fits},
            }
        )
    return described


def _describe_forgetting(outcome: Outcome) -> dict[str, Any] | None:
    forgetting = find_forgetting(outcome.board)
    if forgetting is None:
        return None
    return {
        "changes": forgetting_table(outcome),
        "gained": forgetting.gained,
        "lost": [
            {**_describe_row(before.row), "before": before.prediction, "now": now.prediction}
            for before, now in forgetting.lost
        ],
    }


def _describe_groups(groups: Sequence[Group]) -> list[dict[str, Any]]:
    return [{"name": group.name, "size": group.size, "counts": dict(group.counts)} for group in groups]


def _list_samples(outcome: Outcome) -> list[dict[str, Any]]:
    return [
        {
            **_describe_row(sample.row),
            "tags": list(sample.row.tags),
            "right": sample.is_right,
            "prompt": [{"role": turn["role"], "content": turn["content"]} for turn in sample.row.prompt],
            "reference": sample.row.reference,
            "answers": {one.result.label: _describe_answer(one) for one in (*sample.answers, *sample.others)},
            "same_answer": [result.label for result in sample.same],
        }
        for sample in choose_samples(outcome, outcome.request.settings.sample_rows)
    ]


def _describe_row(row: EvaluationRow) -> dict[str, Any]:
    return {"set": row.set_name, "row": row.number, "source_file": row.source_file, "source_line": row.source_line}


def _describe_answer(answer: Answer) -> dict[str, Any]:
    scored = answer.scored
    return {
        "text": scored.prediction,
        "right": answer.is_right,
        "exact": scored.exact,
        "stopped": scored.stopped,
        "tokens": scored.n_tokens,
        "fault": scored.fault or None,
    }


def _prepare(value: Any) -> Any:
    """A part of the document as it is written, whoever its texts come from."""
    match value:
        case str():
            return shorten(value)
        case float():
            return value if math.isfinite(value) else None
        case dict():
            return {key: _prepare(inner) for key, inner in value.items()}
        case list() | tuple():
            return [_prepare(inner) for inner in value]
    return value
