"""Named tasks of lm-evaluation-harness, put to a GGUF through llama.cpp's batch interface."""

from __future__ import annotations

import io
import logging
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from ft_pipeline.errors import EvaluationError, PipelineError
from ft_pipeline.evaluation.harness_model import make_language_model
from ft_pipeline.evaluation.harness_tasks import explain, find_tasks, load_task
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.quantization.llama_reader import LlamaReader

# Resamplings for the standard errors that have no formula, such as those of perplexities.
_RESAMPLINGS = 100
_NO_FILTER = "none"
_TALKATIVE = ("lm_eval", "datasets", "evaluate", "huggingface_hub", "httpx", "absl")
# The first: its bootstrap would start a process for each core of the machine. The others are read on import.
_VARIABLES = {"DISABLE_MULTIPROC": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}


@dataclass(frozen=True)
class HarnessScore:
    """One figure of one task.

    Attributes:
        task: Its name; of a tag, or of a group without a figure of its own, that of each task in it.
        metric: As lm-evaluation-harness calls it: `acc_norm`; after a filter `exact_match,strict-match`.
        value: Over all rows.
        stderr: Standard error of the value; None if there is no formula for it, or one row.
        n: Rows.
        higher_is_better: None if the task does not say.
    """

    task: str
    metric: str
    value: float
    stderr: float | None
    n: int
    higher_is_better: bool | None


@dataclass(frozen=True)
class HarnessSettings:
    """Which tasks, and how they are put.

    Attributes:
        tasks: Names of tasks, groups or tags of lm-evaluation-harness.
        limit: Only so many rows of each task.
        task_folder: YAML tasks of the user's own; they go before the package's.
        chat: Put the questions in the file's chat template, earlier examples as earlier turns.
        seed: Of the examples that are put before a question.
    """

    tasks: Sequence[str]
    limit: int | None = None
    task_folder: Path | None = None
    chat: bool = False
    seed: int = 0


def check_harness_tasks(settings: HarnessSettings) -> None:
    """Whether the tasks exist and may run; their data sets are not looked for.

    Raises:
        EvaluationError: lm-evaluation-harness is not installed, or one of the tasks is unknown or refused.
    """
    with _in_silence():
        find_tasks(settings.tasks, settings.task_folder)


def run_harness_tasks(
    gguf: Path | LlamaModel,
    settings: HarnessSettings,
    *,
    cores: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> list[HarnessScore]:
    """Figures of the tasks, in their order. All are loaded before the first is run.

    Args:
        gguf: The file, or a model that is loaded already and stays so.
        settings: Which tasks, and how they are put.
        cores: Cores to use; all that the process may use by default.
        tell: Called with a sentence on how far it is.

    Raises:
        EvaluationError: lm-evaluation-harness is not installed; a task is unknown, refused or fails; its data set
            cannot be had; the GGUF cannot be loaded.
    """
    with _in_silence():
        manager = find_tasks(settings.tasks, settings.task_folder)
        loaded = {name: load_task(name, manager) for name in settings.tasks}
        with ExitStack() as stack:
            model = gguf if isinstance(gguf, LlamaModel) else stack.enter_context(LlamaModel(gguf))
            reader = stack.enter_context(_open_reader(model)) if settings.chat else None
            language_model = make_language_model(model, cores or len(os.sched_getaffinity(0)), reader)
            scores: list[HarnessScore] = []
            for name, group in loaded.items():
                language_model.tell = _make_progress(name, tell)
                scores += _run_task(name, group, language_model, settings)
    return scores


def _open_reader(model: LlamaModel) -> LlamaReader:
    if not model.vocabulary.chat_template:
        raise EvaluationError(f"evaluation.harness.chat needs a chat template; {model.path} carries none")
    return LlamaReader(model.vocabulary)


def _run_task(name: str, loaded: Any, language_model: Any, settings: HarnessSettings) -> list[HarnessScore]:
    import numpy as np
    from lm_eval.evaluator import evaluate

    # As lm_eval.simple_evaluate does, which besides looks for Git, a GPU and all installed packages.
    random.seed(settings.seed)
    np.random.seed(settings.seed)
    for task in loaded["tasks"].values():
        if task.get_config("num_fewshot") is None:
            task.set_config(key="num_fewshot", value=0)
        task.set_fewshot_seed(seed=settings.seed)
    try:
        results = evaluate(
            lm=language_model,
            task_dict=loaded,
            limit=settings.limit,
            bootstrap_iters=_RESAMPLINGS,
            log_samples=False,
            apply_chat_template=settings.chat,
            fewshot_as_multiturn=settings.chat,
            confirm_run_unsafe_code=False,
        )
    except PipelineError:
        raise
    except Exception as err:
        raise EvaluationError(f"harness task {name!r} must run; it fails with {explain(err)}") from err
    return _read_scores(name, results)


def _read_scores(name: str, results: Mapping[str, Any]) -> list[HarnessScore]:
    figures = results["results"]
    groups = results["group_subtasks"]
    own = _read_figures(name, results) if name in figures else []
    return own or [score for task in figures if task not in groups for score in _read_figures(task, results)]


def _read_figures(task: str, results: Mapping[str, Any]) -> list[HarnessScore]:
    figures = results["results"][task]
    better = results["higher_is_better"].get(task) or {}
    scores = []
    for key, value in figures.items():
        metric, comma, kept = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, Real):
            continue
        stderr = figures.get(f"{metric}_stderr,{kept}")
        scores.append(
            HarnessScore(
                task=task,
                metric=metric if kept == _NO_FILTER else key,
                value=float(value),
                stderr=float(stderr) if isinstance(stderr, Real) else None,
                n=int(figures["sample_len"]),
                higher_is_better=better.get(metric),
            )
        )
    return scores


def _make_progress(name: str, tell: Callable[[str], None], every_seconds: float = 10.0) -> Callable[[int, int], None]:
    told = time.monotonic()

    def progress(done: int, total: int) -> None:
        nonlocal told
        if time.monotonic() - told >= every_seconds:
            told = time.monotonic()
            tell(f"harness task {name}: {done} of {total} requests")

    return progress


@contextmanager
def _in_silence() -> Iterator[None]:
    """Without the progress bars and advice of lm-evaluation-harness, and with the settings of `_VARIABLES`."""
    levels = {name: logging.getLogger(name).level for name in _TALKATIVE}
    former = {name: os.environ.get(name) for name in _VARIABLES}
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    os.environ.update(_VARIABLES)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name, value in former.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
