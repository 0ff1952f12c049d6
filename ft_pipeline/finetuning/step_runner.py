"""Runs one optimizer step's rows through the model, a micro-batch at a time, and steps down when memory is short."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from ft_pipeline.errors import MemoryBudgetError, StageCancelled
from ft_pipeline.finetuning.backends import Backend
from ft_pipeline.finetuning.batches import RowTable, lay_flat, pad_rows
from ft_pipeline.finetuning.checkpoints import capture_rng, restore_rng
from ft_pipeline.finetuning.device import Device
from ft_pipeline.finetuning.job import Job
from ft_pipeline.finetuning.ladder import is_out_of_memory, step_down
from ft_pipeline.finetuning.memory import Layout
from ft_pipeline.finetuning.neftune import EmbeddingNoise
from ft_pipeline.finetuning.schedule import Rows, Slicing, slice_step

# Forward and backward of one micro-batch: its tensors, and the targets of the whole step. Gives its share of the loss.
RunMicroBatch = Callable[[dict[str, Any], int], Any]


@dataclass(frozen=True)
class Batches:
    """The rows of a table as tensors on the device."""

    table: RowTable
    backend: Backend
    device: Device
    pad_id: int

    def slice(self, rows: Rows, layout: Layout) -> list[Rows]:
        """The micro-batches of these rows."""
        return slice_step(
            rows, self.table.lengths, Slicing(layout.micro_batch_rows * layout.row_tokens, layout.packing)
        )

    def load(self, rows: Rows, layout: Layout) -> dict[str, Any]:
        """What the model is called with for one micro-batch."""
        found = self.table.rows(rows)
        batch = lay_flat(found, self.pad_id) if layout.packing else pad_rows(found, self.pad_id)
        return self.backend.adapt(batch, self.device)

    def find_largest(self, parts: Iterable[Rows], layout: Layout) -> Rows:
        """The micro-batch that takes the most memory."""

        def size(part: Rows) -> int:
            counts = [int(self.table.lengths[row]) for row in part]
            return sum(counts) if layout.packing else max(counts) * len(counts)

        return max(parts, key=size)

    def count_targets(self, rows: Rows) -> int:
        """Tokens of these rows that are learned; at least 1, to divide by."""
        return max(1, int(sum(self.table.label_counts[row] for row in rows)))


@dataclass
class StepRunner:
    """The steps of one training.

    Attributes:
        steps: Row indices of each optimizer step.
        layout: How they go through the model now.
        noise: On the embeddings of what is trained on; None if the recipe asks for none.
        rng: State of the random generators when the step under way began; None between steps.
        stop_asked: The training shall end as soon as nothing is lost by it.
        stepped_down: What was given up so far, for people.
    """

    job: Job
    batches: Batches
    steps: list[Rows]
    tell: Callable[[str], None]
    layout: Layout = field(init=False)
    noise: EmbeddingNoise | None = None
    rng: dict[str, Any] | None = None
    stop_asked: bool = False
    stepped_down: list[str] = field(default_factory=list)
    step_tokens: int = 0

    def __post_init__(self) -> None:
        self.layout = self.job.plan.layout

    def run(self, model: Any, index: int, run_micro_batch: RunMicroBatch) -> Any:
        """Gradients of step `index` are in the model afterwards.

        Returns:
            The mean loss of the step's targets, a tensor.

        Raises:
            MemoryBudgetError: the smallest micro-batch does not fit either.
            StageCancelled: a stop was asked for; the weights are those after the last whole step.
        """
        rows = self.steps[index]
        self.rng = capture_rng()
        loss = self.with_less_until_it_fits(model, lambda: self._add_gradients(model, index, run_micro_batch))
        self.rng = None
        self.step_tokens = int(sum(self.batches.table.lengths[row] for row in rows))
        return loss

    def with_less_until_it_fits(self, model: Any, work: Callable[[], Any]) -> Any:
        """Do the work; whenever memory is short, give something up and do it again from the start."""
        while True:
            with _out_of_memory() as trouble:
                return work()
            if self.rng is not None:
                restore_rng(self.rng)
            self._step_down(model, trouble[0])

    def require_no_stop(self) -> None:
        """Raise `StageCancelled` if a stop was asked for."""
        if self.stop_asked:
            raise StageCancelled("the stage was asked to stop")

    def _add_gradients(self, model: Any, index: int, run_micro_batch: RunMicroBatch) -> Any:
        model.zero_grad()
        rows = self.steps[index]
        targets = self.batches.count_targets(rows)
        total: Any = 0
        for part in self.batches.slice(rows, self.layout):
            self.require_no_stop()
            batch = self.batches.load(part, self.layout)
            with self._noisy(index, part):
                total = total + run_micro_batch(batch, targets)
        return total

    def _noisy(self, index: int, rows: Rows) -> AbstractContextManager[None]:
        return self.noise.on_rows(index, rows, self.batches.table.lengths) if self.noise else nullcontext()

    def _step_down(self, model: Any, trouble: str) -> None:
        layers, execution = self.job.plan.layers, self.job.settings.execution
        lower = step_down(
            self.layout,
            layers,
            self.job.max_row_tokens,
            can_checkpoint=execution.gradient_checkpointing != "never" and self.job.device.is_gpu,
        )
        if lower is None:
            raise MemoryBudgetError(
                f"training must fit the device and does not, even with {_describe(self.layout)}: {trouble}. Lower "
                "dataset.max_row_tokens or training.lora.rank, free the device, or take a smaller base."
            )
        if lower.checkpointed_layers != self.layout.checkpointed_layers:
            self.batches.backend.set_checkpointed_layers(model, lower.checkpointed_layers)
        self.stepped_down.append(f"{_describe(self.layout)} -> {_describe(lower)}")
        self.tell(f"out of memory: {self.stepped_down[-1]}; the same rows are behind a step as before")
        self.layout = lower
        model.zero_grad()
        free_cached_memory()
        _measure_peak_anew()


def free_cached_memory() -> None:
    """Give back what the allocator keeps for later."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _measure_peak_anew() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


@contextmanager
def _out_of_memory() -> Iterator[list[str]]:
    """Keeps an out-of-memory error's words and lets go of the error, whose traceback holds the tensors."""
    trouble: list[str] = []
    try:
        yield trouble
    except (RuntimeError, MemoryError) as err:
        if not is_out_of_memory(err):
            raise
        trouble.append(str(err).split("\n", 1)[0][:300])


def _describe(layout: Layout) -> str:
    kind = "packed rows" if layout.packing else "rows"
    return (
        f"{layout.micro_batch_rows} {kind} of {layout.row_tokens} tokens, {layout.checkpointed_layers} layers computed "
        "twice"
    )
