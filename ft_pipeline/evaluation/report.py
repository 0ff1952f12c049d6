"""The report: one HTML file that needs no network and no script, and the same figures as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from markupsafe import Markup

from ft_pipeline.evaluation.figures import (
    format_interval,
    format_metric,
    format_points,
    format_share,
    format_size,
    keep_finite,
)
from ft_pipeline.evaluation.gate import GateResult, Verdict, find_difference
from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.request import EvaluationRequest
from ft_pipeline.evaluation.rows import HELD_OUT
from ft_pipeline.evaluation.samples import choose_samples
from ft_pipeline.evaluation.scores import ContestantResult, Scoreboard
from ft_pipeline.evaluation.text_marks import mark_differences
from ft_pipeline.report_page import make_environment

FORMAT = 1
_TEMPLATE = "report.html.jinja"


def write_html(
    path: Path, request: EvaluationRequest, board: Scoreboard, verdict: Verdict, plots: dict[str, Markup]
) -> None:
    """Write the report for people.

    Args:
        path: The file to write.
        request: What was asked.
        board: All results.
        verdict: What the gate says.
        plots: Title to inline SVG.
    """
    environment = make_environment("ft_pipeline.evaluation")
    environment.filters |= {
        "share": format_share,
        "points": format_points,
        "size": format_size,
        "limit": _format_limit,
    }
    page = environment.get_template(_TEMPLATE).render(
        recipe=request.recipe_name,
        created=datetime.now(UTC),
        board=board,
        held_out=HELD_OUT,
        verdict=verdict,
        reason=explain_verdict(board, verdict),
        difference=find_difference(board),
        metrics=METRICS,
        plots=plots,
        samples=choose_samples(board, request.settings.sample_rows),
        max_new_tokens=request.settings.max_new_tokens,
        format_metric=format_metric,
        format_interval=format_interval,
        mark_differences=mark_differences,
    )
    path.write_text(page, encoding="utf-8")


def write_json(path: Path, request: EvaluationRequest, board: Scoreboard, verdict: Verdict) -> None:
    """Write all figures for programs; a figure that is no number is null. `format` rises when a field changes."""
    document = {
        "format": FORMAT,
        "recipe": request.recipe_name,
        "verdict": {
            "publish": verdict.publish,
            "reason": explain_verdict(board, verdict),
            "challenger": board.gated.label,
            "opponent": board.opponent.label,
        },
        "gate": gate_table(verdict),
        "scores": score_table(board),
        "contestants": [_describe_contestant(result) for result in board.results],
        "settings": request.settings.model_dump(mode="json"),
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def explain_verdict(board: Scoreboard, verdict: Verdict) -> str:
    """Why the challenger is published or not: plain sentences with the figures."""
    exact = board.gated.scores[HELD_OUT]["exact_match"]
    share = "no" if exact is None else format_share(exact.value)
    rows = len(board.gated.sets[HELD_OUT])
    role, quantization = board.gated.contestant.role, board.gated.contestant.quantization
    sentence = (
        f"The {role} ({quantization}) answers {share} of {rows} held-out rows exactly. It is {_compare(verdict)}."
    )
    broken = [result.detail for result in verdict.broken if result.blocking]
    if broken:
        return f"{sentence} It breaks the gate: {'; '.join(broken)}."
    return f"{sentence} It keeps every limit of the gate."


def score_table(board: Scoreboard) -> list[dict[str, str | int | float | None]]:
    """One row for each contestant and set, with every metric and its interval."""
    table: list[dict[str, str | int | float | None]] = []
    for result in board.results:
        for name, estimates in result.scores.items():
            record: dict[str, str | int | float | None] = {
                "contestant": result.label,
                "set": name,
                "rows": len(result.sets[name]),
            }
            for metric, found in estimates.items():
                value, low, high = (found.value, found.interval.low, found.interval.high) if found else [math.nan] * 3
                record[metric] = keep_finite(value)
                record[f"{metric}_low"], record[f"{metric}_high"] = keep_finite(low), keep_finite(high)
            table.append(record)
    return table


def gate_table(verdict: Verdict) -> list[dict[str, str | bool | float | None]]:
    """One row for each rule of the gate."""
    return [
        {
            "rule": result.name,
            "value": keep_finite(result.value),
            "limit": keep_finite(result.limit),
            "passed": result.passed,
            "blocking": result.blocking,
            "detail": result.detail,
        }
        for result in verdict.results
    ]


def _compare(verdict: Verdict) -> str:
    return next(result.detail for result in verdict.results if not result.blocking)


def _describe_contestant(result: ContestantResult) -> dict[str, Any]:
    return {
        "label": result.label,
        "role": result.contestant.role,
        "quantization": result.contestant.quantization,
        "file": result.contestant.gguf.name,
        "size_bytes": result.run.size_bytes,
        "load_seconds": result.run.load_seconds,
        "scoring_seconds": result.run.scoring_seconds,
        "tokens_per_second": result.run.speed.tokens_per_second,
        "threads": result.run.speed.threads,
        "rows_with_faults": sum(bool(scored.fault) for scored in result.rows),
    }


def _format_limit(result: GateResult) -> Sequence[str]:
    """What was found and what was asked, in the rule's unit."""
    if result.name == "perplexity":
        return f"{result.value:.3f}", f"≤ {result.limit:g}"
    if not result.blocking:
        return f"{format_points(result.value)} points", "> 0"
    return format_share(result.value), f"≥ {format_share(result.limit)}"
