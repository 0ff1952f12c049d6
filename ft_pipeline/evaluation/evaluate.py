"""evaluation_report: every contestant scored as the GGUF that ships, the gate's verdict, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.figures import keep_finite
from ft_pipeline.evaluation.gate import Verdict, judge
from ft_pipeline.evaluation.harness import HarnessScore, HarnessSettings, run_harness_tasks
from ft_pipeline.evaluation.llama_model import LlamaModel, require_file
from ft_pipeline.evaluation.metrics import METRICS, Metric, answer_match_metric
from ft_pipeline.evaluation.offload import ScoringDevice, open_scoring_device, plan_together
from ft_pipeline.evaluation.report.document import write_json
from ft_pipeline.evaluation.report.markdown import write_markdown
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.report.page import write_html
from ft_pipeline.evaluation.report.plots import draw_plots
from ft_pipeline.evaluation.report.summary import summary_figures
from ft_pipeline.evaluation.report.tables import summary_tables
from ft_pipeline.evaluation.report.verdict import explain_verdict
from ft_pipeline.evaluation.request import EvaluationRequest
from ft_pipeline.evaluation.rows import read_rows
from ft_pipeline.evaluation.rules import BETTER, GATE, HELD_OUT
from ft_pipeline.evaluation.scores import Scoreboard, build_scoreboard, find_opponent
from ft_pipeline.evaluation.scoring import Scored, Scoring
from ft_pipeline.evaluation.user_metrics import UserMetrics
from ft_pipeline.plots import save_png
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.summary import Check, Summary

HTML_FILE, JSON_FILE, MARKDOWN_FILE = "report.html", "report.json", "report.md"
PREDICTIONS_FILE = "predictions.parquet"
# Fewer rows than this, and a bootstrap interval is narrower than it should be.
_FEW_ROWS = 30


def evaluate(request: EvaluationRequest, reporter: Reporter) -> Summary:
    """Score all contestants on the same rows, judge the first challenger, write the report.

    Writes `report.html`, `report.json`, `report.md`, `predictions.parquet` and plots.

    Raises:
        EvaluationError: the challenger cannot be scored, there is nobody to compare with, or no row is held out.
        LeaseTimeout: the GPU was not free in time.
    """
    find_opponent(request.contestants, request.absent)
    require_file(request.gated.gguf)
    rows = read_rows(request.rows, request.settings.max_rows_per_set)
    own = UserMetrics(request.metric_files)
    with open_scoring_device(request.gpu, holder=request.holder, tell=reporter.info) as device:
        scored = Scoring(request, rows, device, reporter).run()
        harness = _run_harness(request, scored, device, reporter)
    results = [replace(result, rows=own.score(result.rows, result.label)) for result in scored.results]
    board = build_scoreboard(results, _choose_metrics(request, own), scored.absent)
    outcome = Outcome(
        request=request,
        board=board,
        verdict=judge(board, request.settings.gate),
        notes=[*scored.notes, *own.notes, *harness.notes, *_find_weak_evidence(board)],
        harness=harness.scores,
        cards={result.label: result.fits for result in results},
    )
    for note in outcome.notes:
        reporter.warning(note)
    _write_predictions(request.out_dir / PREDICTIONS_FILE, board)
    reporter.info(explain_verdict(outcome))
    return _write_report(outcome)


def _write_report(outcome: Outcome) -> Summary:
    folder, plots = outcome.request.out_dir, draw_plots(outcome)
    write_html(folder / HTML_FILE, outcome, plots)
    write_json(folder / JSON_FILE, outcome)
    write_markdown(folder / MARKDOWN_FILE, outcome)
    drawn = {}
    for title, figure in plots.items():
        drawn[title] = f"{title.lower().replace(' ', '_')}.png"
        save_png(figure, folder / drawn[title])
    return Summary(
        figures=summary_figures(outcome),
        tables=summary_tables(outcome),
        plots=drawn,
        files={"report": HTML_FILE, "report as Markdown": MARKDOWN_FILE},
        checks=_collect_checks(outcome.verdict),
    )


def _choose_metrics(request: EvaluationRequest, own: UserMetrics) -> Mapping[str, Metric]:
    return METRICS | {"answer_match": answer_match_metric(request.settings.answer_pattern)} | own.metrics


@dataclass
class _Harness:
    scores: dict[str, list[HarnessScore]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _run_harness(request: EvaluationRequest, scored: Scored, device: ScoringDevice, reporter: Reporter) -> _Harness:
    """The named tasks, put to the base and to the file that is gated."""
    settings, found = request.settings.harness, _Harness()
    for contestant in (result.contestant for result in scored.results):
        if not settings.tasks or (contestant != request.gated and contestant.role != "base"):
            continue
        (layers,) = plan_together([contestant.gguf], device)
        with LlamaModel(contestant.gguf, n_gpu_layers=layers) as model:
            for task in settings.tasks:
                wanted = HarnessSettings([task], settings.limit, request.harness_folder, settings.chat)
                try:
                    scores = run_harness_tasks(model, wanted, tell=reporter.info)
                except EvaluationError as err:
                    found.notes.append(f"The harness task {task} was not done with {contestant.label}: {err}")
                else:
                    found.scores.setdefault(contestant.label, []).extend(scores)
    return found


def _find_weak_evidence(board: Scoreboard) -> list[str]:
    notes = [
        f"The set {name} has {len(rows)} rows: an interval over fewer than {_FEW_ROWS} is too narrow to trust. Add data"
        f"{' or raise dataset.held_out_share' if name == HELD_OUT else ''}."
        for name, rows in board.gated.sets.items()
        if len(rows) < _FEW_ROWS
    ]
    for result in board.results:
        if faults := [scored for scored in result.rows if scored.fault]:
            notes.append(
                f"{len(faults)} of {len(result.rows)} rows could not be put to {result.label} and count as wrong, the "
                f"first is {faults[0].row.place}: {faults[0].fault}."
            )
    return notes


def _write_predictions(path: Path, board: Scoreboard) -> None:
    """One row for each contestant and question, with its answer and every figure of it."""
    own = [name for name in board.metrics if name not in METRICS]
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
                "kld": scored.divergence.kl_sum / scored.divergence.tokens if scored.divergence else None,
                "fault": scored.fault or None,
                **{name: scored.user_scores.get(name) for name in own},
            }
            for result in board.results
            for scored in result.rows
        ],
        schema_overrides={"fault": pl.String, "logprob": pl.Float64, "kld": pl.Float64}
        | dict.fromkeys(own, pl.Float64),
    ).write_parquet(path)


def _collect_checks(verdict: Verdict) -> list[Check]:
    """Each rule by itself, and two that stand for all of them, whatever the recipe."""
    checks = [
        Check(
            name=result.rule.name,
            passed=result.passed,
            blocking=result.blocking,
            value=keep_finite(result.value),
            limit=result.rule.limit,
            detail=f"{result.rule.text}: {result.detail}",
        )
        for result in verdict.results
    ]
    broken = [check.detail for check in checks if check.blocking and not check.passed]
    better = [result.detail for result in verdict.results if result.rule.on_failure == "keep"]
    return [
        *checks,
        Check(name=GATE, passed=not broken, blocking=True, detail="; ".join(broken) or "every limit is kept"),
        Check(
            name=BETTER,
            passed=not any(result.rule.on_failure == "keep" for result in verdict.refusals),
            blocking=False,
            detail="; ".join(better),
        ),
    ]
