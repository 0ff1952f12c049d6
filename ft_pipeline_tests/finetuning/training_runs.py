"""Trainings of a tiny base in processes of their own, and stages that go wrong on purpose."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.finetuning.job import HISTORY_FILE, TrainRequest
from ft_pipeline.finetuning.trainer import train_adapter
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe import TrainingSection
from ft_pipeline.summary import Summary


def write_rows(path: Path, count: int, *, first_id: int = 5, poisoned: int | None = None, masked: bool = False) -> None:
    """Rows of 6 to 21 tokens, the second half of each learned, or none if `masked`.

    `poisoned` has an id that no embedding has.
    """
    ids = [[1, *((first_id + row * 7 + i * 3) % 250 + 5 for i in range(5 + row % 16))] for row in range(count)]
    labels = [[-100] * (len(row) // 2) + row[len(row) // 2 :] for row in ids]
    if masked:
        labels = [[-100] * len(row) for row in ids]
    if poisoned is not None:
        ids[poisoned][-1] = 10**6
    pl.DataFrame(
        {"input_ids": ids, "labels": labels, "source_file": "data/rows.jsonl", "source_line": range(1, count + 1)}
        | {"set": "held_out", "position": 0.5},
        schema_overrides={"input_ids": pl.List(pl.Int32), "labels": pl.List(pl.Int32), "source_line": pl.Int64},
    ).write_parquet(path)


def make_request(folder: Path, base: Path, settings: dict[str, Any], device: str = "cpu") -> TrainRequest:
    """A training of 60 rows in about ten steps, a checkpoint after each."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter").mkdir(exist_ok=True)
    for name, count, first in (("rows", 60, 5), ("held_out", 8, 11)):
        if not (folder / f"{name}.parquet").exists():
            write_rows(folder / f"{name}.parquet", count, first_id=first)
    plain = {
        "effective_batch_tokens": 80,
        "learning_rate": 1e-3,
        "lora": {"rank": 8, "alpha": 16, "dropout": 0.1},
        "execution": {"checkpoint_minutes": 0.0},
    }
    return TrainRequest(
        base=base,
        base_name="tiny",
        rows=folder / "rows.parquet",
        held_out=folder / "held_out.parquet",
        settings=TrainingSection.model_validate(plain | settings),
        gpu=GpuSettings(device, folder / "locks", wait_seconds=60.0),
        holder="a test",
        checkpoints=folder / "checkpoints",
        fingerprint="f1",
        out_dir=folder / "adapter",
    )


@dataclass
class Run:
    """A training in a process of its own."""

    process: subprocess.Popen[str]

    def finish(self) -> dict[str, Any]:
        """Its outcome: `figures`, or `error` and `message`; the words it said under `said`."""
        out, said = self.process.communicate(timeout=240)
        lines = [json.loads(line[7:]) for line in out.splitlines() if line.startswith("RESULT ")]
        outcome: dict[str, Any] = lines[-1] if lines else {"status": self.process.returncode}
        return outcome | {"said": said}

    def signal_after_step(self, step: int, checkpoints: Path, number: int) -> None:
        """Send a signal to the process once the checkpoint of this step is there."""
        deadline = time.monotonic() + 180
        while time.monotonic() < deadline and self.process.poll() is None:
            if any(int(folder.name[5:]) >= step for folder in checkpoints.glob("step-*")):
                os.kill(self.process.pid, number)
                return
            time.sleep(0.005)
        raise AssertionError(f"no checkpoint of step {step}: {self.process.communicate(timeout=30)}")


def start(request: TrainRequest, prepare: str = "do_nothing") -> Run:
    """Start a training.

    Args:
        request: What it is asked for.
        prepare: Name of a function of this module that is called first.
    """
    arguments = [sys.executable, "-m", "ft_pipeline_tests.finetuning.training_runs", prepare, request.model_dump_json()]
    return Run(subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))


def do_nothing() -> None:
    """The training as it is."""


def run_short_of_memory() -> None:
    """Micro-batches of more than 40 tokens find no memory."""
    from ft_pipeline.finetuning import step_runner

    load = step_runner.Batches.load

    def limited(self: Any, rows: Any, layout: Any) -> Any:
        batch = load(self, rows, layout)
        if batch["input_ids"].numel() > 40:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return batch

    step_runner.Batches.load = limited  # type: ignore[method-assign]


def turn_the_loss_to_nan() -> None:
    """The row of line 13 gives no number."""
    from ft_pipeline.finetuning import step_trainer

    define = step_trainer._define_trainer

    def define_broken(runner: Any, observer: Any) -> Any:
        trainer_class = define(runner, observer)
        compute_loss = trainer_class.compute_loss
        marked = runner.batches.table.rows([12])[0][0].tolist()

        def broken(self: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            is_in = any(row[: len(marked)] == marked for row in inputs["input_ids"].tolist())
            loss = compute_loss(self, model, inputs, *args, **kwargs)
            return loss * float("nan") if is_in else loss

        trainer_class.compute_loss = broken
        return trainer_class

    step_trainer._define_trainer = define_broken


def fail_after_the_third_step() -> None:
    """A library fails in a way that nobody foresaw."""
    from ft_pipeline.finetuning.watch import Watch

    watch = Watch.__call__

    def fail(self: Any, trainer: Any, logs: dict[str, float]) -> None:
        watch(self, trainer, logs)
        if trainer.state.global_step == 3:
            raise RuntimeError("unforeseen")

    Watch.__call__ = fail  # type: ignore[method-assign]


def be_asked_to_stop_in_the_second_evaluation() -> None:
    """SIGTERM comes while the held-out rows are tried for the second time."""
    _be_asked_to_stop_in(lambda evaluation, _is_last: evaluation == 2)


def be_asked_to_stop_in_the_last_evaluation() -> None:
    """SIGTERM comes while the held-out rows are tried after the last step."""
    _be_asked_to_stop_in(lambda _evaluation, is_last: is_last)


def _be_asked_to_stop_in(is_meant: Callable[[int, bool], bool]) -> None:
    from ft_pipeline.finetuning.early_stopping import EarlyStopping

    evaluate, steps = EarlyStopping.evaluate, []

    def interrupted(self: Any, trainer: Any, runner: Any, step: int) -> float:
        steps.append(step)
        if is_meant(len(steps), step == len(runner.steps)):
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, trainer, runner, step)

    EarlyStopping.evaluate = interrupted  # type: ignore[method-assign]


def die_before_the_artifact() -> None:
    """The process is killed once all is trained, before anything of the artifact is there."""
    from ft_pipeline.finetuning import trainer

    trainer._save = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def _main(prepare: str, request: str) -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    globals()[prepare]()
    try:
        summary: Summary = train_adapter(
            TrainRequest.model_validate_json(request), LogReporter(logging.getLogger("training"))
        )
    except Exception as err:
        outcome: dict[str, Any] = {"error": type(err).__name__, "message": str(err)}
        logging.exception("failed")
    else:
        outcome = {"figures": summary.figures}
    sys.stdout.write("RESULT " + json.dumps(outcome) + "\n")


def read_history(request: TrainRequest) -> list[dict[str, float]]:
    """What the training has written of its steps."""
    history: list[dict[str, float]] = json.loads((request.out_dir / HISTORY_FILE).read_text(encoding="utf-8"))
    return history


if __name__ == "__main__":
    _main(sys.argv[1], sys.argv[2])
