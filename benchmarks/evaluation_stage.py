"""The evaluation stage of the demo in a process of its own, as the pipeline starts it, and where its time goes."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import polars as pl

from ft_pipeline.evaluation.request import Contestant, EvaluationRequest
from ft_pipeline.evaluation.rules import HELD_OUT
from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.processes.launcher import run_stage
from ft_pipeline.processes.reporter import LogReporter, Reporter
from ft_pipeline.recipe_file import find_recipe, load_recipe
from ft_pipeline.summary import Summary

_PREFIX = "seconds: "
PROJECT = Path(__file__).parent.parent
ARTIFACTS = PROJECT / "data" / "artifacts"
_ROWS = 200


def evaluate_timed(request: EvaluationRequest, reporter: Reporter) -> Summary:
    """The stage's own function with watches on its parts; their seconds are among the summary's figures."""
    from ft_pipeline.evaluation import evaluate as stage
    from ft_pipeline.evaluation import scoring
    from ft_pipeline.evaluation.llama_runner import LlamaRunner

    seconds: dict[str, float] = defaultdict(float)
    for owner, name, part in (
        (LlamaRunner, "__enter__", "loading"),
        (LlamaRunner, "score", "answers"),
        (scoring, "measure_costs", "latency and memory"),
        (scoring, "measure_divergence", "divergence"),
        (stage, "build_scoreboard", "metrics, intervals, gate"),
        (stage, "judge", "metrics, intervals, gate"),
        (stage, "_write_report", "report"),
    ):
        setattr(owner, name, _watch(getattr(owner, name), part, seconds))
    summary = stage.evaluate(request, reporter)
    return summary.model_copy(update={"figures": {_PREFIX + part: spent for part, spent in seconds.items()}})


def _watch(function: Callable[..., Any], part: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def watched(*arguments: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            seconds[part] += time.perf_counter() - started

    return watched


def measure_stage(folder: Path, repeat: int) -> dict[str, Any]:
    """Seconds of the stage and its parts.

    Contestants are all that a later run of the demo has: base, 16-bit model, champion (the challenger's file once
    more) and the challenger in each of its types.
    """
    request = _make_request(folder)
    runs = [_run(request, folder) for _ in range(repeat)]
    labels = [contestant.label for contestant in request.contestants]
    return {"rows": _ROWS, "contestants": labels, "runs": runs}


def _run(request: EvaluationRequest, folder: Path) -> dict[str, float]:
    started = time.perf_counter()
    result = run_stage(
        "benchmarks.evaluation_stage:evaluate_timed",
        request,
        reporter=LogReporter(logging.getLogger(__name__)),
        log_path=folder / "stage.log",
    )
    whole = time.perf_counter() - started
    parts = {name.removeprefix(_PREFIX): float(str(spent)) for name, spent in result.summary.figures.items()}
    return parts | {"the rest: start, imports, files": whole - sum(parts.values()), "whole": whole}


def _make_request(folder: Path) -> EvaluationRequest:
    rows = folder / "rows.parquet"
    pl.read_parquet(_find("validated_dataset/*/evaluation.parquet")).filter(pl.col("set") == HELD_OUT).write_parquet(
        rows
    )
    out = folder / "report"
    out.mkdir()
    contestants = [
        Contestant.model_validate({"role": role, "quantization": quantization, "gguf": _find(pattern)})
        for role, quantization, pattern in (
            ("base", "Q4_K_M", "base_gguf/*/*-Q4_K_M.gguf"),
            ("merged", "F16", "f16_gguf/*/demo-F16.gguf"),
            ("champion", "Q4_K_M", "gguf_model/*/*-Q4_K_M.gguf"),
            ("challenger", "Q4_K_M", "gguf_model/*/*-Q4_K_M.gguf"),
            ("challenger", "Q8_0", "gguf_model/*/*-Q8_0.gguf"),
        )
    ]
    return EvaluationRequest(
        rows=rows,
        contestants=tuple(contestants),
        settings=load_recipe(find_recipe("demo", PROJECT)).evaluation.model_copy(update={"max_rows_per_set": _ROWS}),
        gpu=GpuSettings("cpu", folder),
        out_dir=out,
        recipe_name="demo",
    )


def find_newest(pattern: str) -> Path | None:
    """The file of the demo's artifacts that was written last."""
    return max(ARTIFACTS.glob(pattern), key=lambda path: path.stat().st_mtime, default=None)


def _find(pattern: str) -> Path:
    found = find_newest(pattern)
    if found is None:
        raise click.ClickException(
            f"the stage is measured on the demo's artifacts; {ARTIFACTS} has no {pattern}: make demo"
        )
    return found
