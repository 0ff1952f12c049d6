"""Runs layouts of one loaded base through the pipeline's own loop and reads what the allocator has held."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl

from benchmarks.vram import Case
from ft_pipeline.base_model import read_config
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.backends import BACKENDS
from ft_pipeline.finetuning.batches import RowTable
from ft_pipeline.finetuning.device import find_device
from ft_pipeline.finetuning.job import Job
from ft_pipeline.finetuning.memory import Layout
from ft_pipeline.finetuning.planner import RowLengths, plan_training
from ft_pipeline.finetuning.step_runner import Batches, StepRunner, free_cached_memory
from ft_pipeline.finetuning.step_trainer import make_trainer
from ft_pipeline.recipe import LoraSection, TrainingSection


class _Unwatched:
    """Nothing is wrong with random weights, and nobody follows them."""

    def judge(self, trainer: Any, index: int, loss: float) -> None:
        """Before the optimizer."""

    def __call__(self, trainer: Any, logs: dict[str, float]) -> None:
        """After it."""


def _refuse(message: str) -> None:
    raise MemoryError(message)


class Bench:
    """One base with one adapter on the GPU.

    Args:
        base: Its folder.
        rank: Of the adapter.
        texts: What short rows are made of.
    """

    def __init__(self, base: Path, rank: int, texts: list[str]) -> None:
        from tokenizers import Tokenizer

        self._folder = tempfile.TemporaryDirectory(prefix="ft_pipeline-vram-")
        self._scratch = Path(self._folder.name)
        tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
        self._ids = [found.ids for found in tokenizer.encode_batch(texts[:2000])]
        self._architecture = read_architecture(read_config(base))
        self._settings = TrainingSection(lora=LoraSection(rank=rank, alpha=rank), effective_batch_tokens=2048)
        device = find_device("auto")
        plan = plan_training(
            self._architecture, self._settings, RowLengths.of([2048]), budget_bytes=device.free_bytes, device="gpu"
        )
        self._job = Job(base, self._settings, device, plan, max_row_tokens=8192, scratch=self._scratch)
        self._backend = BACKENDS["unsloth"]
        self._backend.prepare_environment(self._job)
        self._model, self._tokenizer = self._backend.load(self._job)
        self._is_offloaded = plan.layout.offload_embeddings

    def run(self, case: Case, steps: int) -> dict[str, Any]:
        """Some optimizer steps of one micro-batch each; the peak."""
        import torch

        layers = self._architecture.layers
        kept = layers if case.kept < 0 else case.kept
        layout = replace(
            self._job.plan.layout,
            micro_batch_rows=case.rows,
            row_tokens=case.row_tokens,
            packing=case.packing,
            checkpointed_layers=layers - kept,
            offload_embeddings=case.offload,
        )
        self._prepare(layout)
        free_cached_memory()
        torch.cuda.reset_peak_memory_stats()
        trainer = self._make_trainer(layout, case, steps)
        trainer.train()
        measured = torch.cuda.max_memory_reserved()
        del trainer
        return {
            "kept_layers": kept,
            "measured_gib": measured / 2**30,
            "allocated_gib": torch.cuda.max_memory_allocated() / 2**30,
            "device": torch.cuda.get_device_name(),
        }

    def _prepare(self, layout: Layout) -> None:
        self._backend.set_checkpointed_layers(self._model, layout.checkpointed_layers)
        if layout.offload_embeddings and not self._is_offloaded:
            self._is_offloaded = self._backend.offload_embeddings(self._model)

    def _make_trainer(self, layout: Layout, case: Case, steps: int) -> Any:
        job = replace(self._job, plan=replace(self._job.plan, layout=layout))
        counts = self._write_rows(case, steps)
        table = RowTable(self._scratch / "rows.parquet", cache_dir=self._scratch / f"cache-{id(case)}")
        bounds = [sum(counts[:step]) for step in range(steps + 1)]
        runner = StepRunner(
            job=job,
            batches=Batches(table, self._backend, job.device, pad_id=2),
            steps=[tuple(range(bounds[step], bounds[step + 1])) for step in range(steps)],
            tell=_refuse,
        )
        trainer = make_trainer(job, self._model, self._tokenizer, runner, _Unwatched())
        self._backend.settle(self._model, job)
        return trainer

    def _write_rows(self, case: Case, steps: int) -> list[int]:
        """Rows of each step: of the full length, or short ones that fill as many tokens."""
        tokens, rows, counts = case.rows * case.row_tokens, [], []
        source = iter(self._ids * 100)
        for _ in range(steps):
            found = list(self._fill(source, tokens, case))
            rows += found
            counts.append(len(found))
        pl.DataFrame(
            {"input_ids": rows, "labels": rows, "source_file": "rows", "source_line": range(len(rows))},
            schema_overrides={"input_ids": pl.List(pl.Int32), "labels": pl.List(pl.Int32)},
        ).write_parquet(self._scratch / "rows.parquet")
        return counts

    @staticmethod
    def _fill(source: Any, tokens: int, case: Case) -> Any:
        if not case.packing:
            for _ in range(case.rows):
                row: list[int] = []
                while len(row) < case.row_tokens:
                    row += next(source)
                yield row[: case.row_tokens]
            return
        while tokens > 0:
            row = next(source)[:tokens]
            tokens -= len(row)
            yield row
