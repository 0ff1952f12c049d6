"""evaluation_report: every contestant scored as the GGUF that ships, the gate's verdict, and the report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
from markupsafe import Markup

from ft_pipeline.evaluation.figures import keep_finite
from ft_pipeline.evaluation.gate import GateResult, Verdict, judge
from ft_pipeline.evaluation.llama_model import require_file
from ft_pipeline.evaluation.llama_runner import LlamaRunner
from ft_pipeline.evaluation.plots import plot_exact_match
from ft_pipeline.evaluation.report import explain_verdict, gate_table, score_table, write_html, write_json
from ft_pipeline.evaluation.request import Contestant, EvaluationRequest
from ft_pipeline.evaluation.rows import HELD_OUT, EvaluationRow, read_rows
from ft_pipeline.evaluation.scores import (
    ContestantResult,
    RunFigures,
    Scoreboard,
    build_scoreboard,
    check_contestants,
)
from ft_pipeline.plots import plot_loss, save_png, to_inline_svg
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.summary import Check, Scalar, Summary

HTML_FILE, JSON_FILE, PREDICTIONS_FILE = "report.html", "report.json", "predictions.parquet"
SCORES_PLOT, LOSS_PLOT = "scores.png", "loss.png"
# Fewer rows than this, and a bootstrap interval is narrower than it should be.
_FEW_ROWS = 30


def evaluate(request: EvaluationRequest, reporter: Reporter) -> Summary:
    """Score all contestants on the same rows, judge the first challenger, write the report.

    Writes `report.html`, `report.json`, `predictions.parquet`, `scores.png` and, with a loss history, `loss.png`.

    Raises:
        EvaluationError: a contestant cannot be scored, there is nobody to compare with, or no row is held out.
    """
    check_contestants(request.contestants)
    for contestant in request.contestants:
        require_file(contestant.gguf)
    rows = read_rows(request.rows, request.settings.max_rows_per_set)
    board = build_scoreboard(_score_contestants(request, rows, reporter))
    _warn_of_weak_evidence(board, reporter)
    verdict = judge(board, request.settings.gate)
    reporter.info(explain_verdict(board, verdict))
    _write_predictions(request.out_dir / PREDICTIONS_FILE, board)
    plots = _write_plots(request, board)
    write_json(request.out_dir / JSON_FILE, request, board, verdict)
    write_html(request.out_dir / HTML_FILE, request, board, verdict, plots)
    return _summarize(request, board, verdict)


def _score_contestants(
    request: EvaluationRequest, rows: Sequence[EvaluationRow], reporter: Reporter
) -> list[ContestantResult]:
    total, done = len(rows) * len(request.contestants), 0

    def count(finished: int) -> None:
        nonlocal done
        done += finished
        reporter.progress(done, total)

    results = []
    for contestant in request.contestants:
        result = _score_contestant(contestant, rows, request.settings.max_new_tokens, count)
        reporter.info(f"{result.label}: {len(rows)} rows in {result.run.scoring_seconds:.1f} s")
        results.append(result)
    return results


def _score_contestant(
    contestant: Contestant, rows: Sequence[EvaluationRow], max_new_tokens: int, on_rows: Callable[[int], None]
) -> ContestantResult:
    with LlamaRunner(contestant.gguf) as runner:
        started = time.perf_counter()
        scored = runner.score(rows, max_new_tokens, on_rows)
        run = RunFigures(
            size_bytes=contestant.gguf.stat().st_size,
            load_seconds=runner.model.load_seconds,
            scoring_seconds=time.perf_counter() - started,
            speed=runner.measure_speed(rows),
        )
    return ContestantResult(contestant, tuple(scored), run)


def _warn_of_weak_evidence(board: Scoreboard, reporter: Reporter) -> None:
    held_out = len(board.gated.sets[HELD_OUT])
    if held_out < _FEW_ROWS:
        reporter.warning(
            f"only {held_out} rows are held out: an interval over fewer than {_FEW_ROWS} is too narrow to trust. "
            "Add data or raise dataset.held_out_share."
        )
    for result in board.results:
        if faults := [scored for scored in result.rows if scored.fault]:
            reporter.warning(
                f"{result.label}: {len(faults)} of {len(result.rows)} rows could not be put to the model and count as "
                f"wrong, the first is {faults[0].row.place}: {faults[0].fault}. Lower dataset.max_row_tokens."
            )


def _write_predictions(path: Path, board: Scoreboard) -> None:
    pl.DataFrame(
        [
            {
                "set": scored.row.set_name,
                "row": scored.row.number,
                "source_file": scored.row.source_file,
                "source_line": scored.row.source_line,
                "contestant": result.label,
                "prediction": scored.prediction,
                "reference": scored.row.reference,
                "exact": scored.exact,
                "stopped": scored.stopped,
                "n_tokens": scored.n_tokens,
                "logprob": scored.logprob,
                "reference_tokens": scored.reference_tokens,
                "fault": scored.fault or None,
            }
            for result in board.results
            for scored in result.rows
        ],
        schema_overrides={"fault": pl.String, "logprob": pl.Float64},
    ).write_parquet(path)


def _write_plots(request: EvaluationRequest, board: Scoreboard) -> dict[str, Markup]:
    scores = plot_exact_match(board)
    save_png(scores, request.out_dir / SCORES_PLOT)
    plots = {"Exact match": to_inline_svg(scores, "Exact match of every contestant and set, with 95 % intervals")}
    if request.loss_history:
        loss = plot_loss(request.loss_history)
        save_png(loss, request.out_dir / LOSS_PLOT)
        plots["Training loss"] = to_inline_svg(loss, "Training loss over optimizer steps")
    return plots


def _summarize(request: EvaluationRequest, board: Scoreboard, verdict: Verdict) -> Summary:
    plots = {"exact match": SCORES_PLOT} | ({"training loss": LOSS_PLOT} if request.loss_history else {})
    return Summary(
        figures=_collect_figures(board, verdict),
        tables={"scores": score_table(board), "gate": gate_table(verdict)},
        plots=plots,
        files={"report": HTML_FILE},
        checks=_collect_checks(verdict),
    )


def _collect_figures(board: Scoreboard, verdict: Verdict) -> dict[str, Scalar]:
    figures: dict[str, Scalar] = {"publish": verdict.publish, "verdict": explain_verdict(board, verdict)}
    figures["beats"] = next(result.passed for result in verdict.results if not result.blocking)
    figures["rows"] = len(board.gated.sets[HELD_OUT])
    for name in board.set_names:
        if name != HELD_OUT:
            figures[f"exact_match_{name}"] = _value(board.gated, name, "exact_match")
    # After the sets: one that is called like a role gives way, its score stands in the table.
    for metric in ("exact_match", "perplexity", "stop_rate"):
        figures[metric] = _value(board.gated, HELD_OUT, metric)
        figures[f"{metric}_{board.opponent.contestant.role}"] = _value(board.opponent, HELD_OUT, metric)
    figures["size_bytes"] = board.gated.run.size_bytes
    figures["tokens_per_second"] = board.gated.run.speed.tokens_per_second
    return figures


def _value(result: ContestantResult, set_name: str, metric: str) -> float | None:
    estimate = result.scores[set_name][metric]
    return None if estimate is None else keep_finite(estimate.value)


def _collect_checks(verdict: Verdict) -> list[Check]:
    """The verdict as checks of fixed names: Dagster must know them before the recipe is read."""
    sets = [result for result in verdict.results if result.name.startswith("exact_match_")]
    checks = [
        _to_check(result.name if result.blocking else "better", result)
        for result in verdict.results
        if result not in sets
    ]
    if sets:
        worst = min(sets, key=lambda result: (result.passed, result.value - result.limit))
        detail = "; ".join(result.detail for result in sets)
        checks.append(_to_check("test_sets", worst).model_copy(update={"detail": detail}))
    return checks


def _to_check(name: str, result: GateResult) -> Check:
    return Check(
        name=name,
        passed=result.passed,
        blocking=result.blocking,
        value=keep_finite(result.value),
        limit=keep_finite(result.limit),
        detail=result.detail,
    )
