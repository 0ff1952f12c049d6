"""The base on the device, within the memory that there is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ft_pipeline.errors import MemoryBudgetError
from ft_pipeline.finetuning.job import Job
from ft_pipeline.finetuning.ladder import is_out_of_memory

_GIB = 2**30
# What transformers says of a quantized base that is laid over several devices because one is too small.
# Source: transformers/quantizers/quantizer_bnb_4bit.py, `validate_environment`.
_SPILLED = "Some modules are dispatched on the CPU or the disk"


def limit_vram(job: Job) -> None:
    """Keep torch's allocator within the limit, less what the CUDA context takes beside it."""
    if not (job.device.is_gpu and job.vram_limit_bytes):
        return
    import torch

    share = (job.vram_limit_bytes - job.plan.memory.context_bytes) / torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, share))


@contextmanager
def told_when_short(job: Job) -> Iterator[None]:
    """Before the first micro-batch there is no layout to step down to: short memory ends the training.

    Raises:
        MemoryBudgetError: in place of torch's and transformers' own errors.
    """
    try:
        yield
    except (RuntimeError, MemoryError, ValueError) as err:
        if not (is_out_of_memory(err) or _SPILLED in str(err)):
            raise
        raise MemoryBudgetError(_describe(job, str(err).split("\n", 1)[0][:300] or type(err).__name__)) from err


def _describe(job: Job, trouble: str) -> str:
    memory, limit = job.plan.memory, job.vram_limit_bytes
    weights = memory.weights_bytes + memory.quantization_constants_bytes
    allowed = f", gpu.vram_limit_gib allows {limit / _GIB:.2f}" if limit else ""
    fixes = [
        "Free it",
        *(["raise gpu.vram_limit_gib"] if limit else []),
        *([] if job.settings.load_in_4bit else ["set training.load_in_4bit: true"]),
        "take a smaller base",
    ]
    return (
        f"the base must fit {job.device.label} while it is loaded, and does not: {trouble.rstrip('.')}. Its weights "
        f"take about {weights / _GIB:.2f} GiB, {job.device.free_bytes / _GIB:.2f} GiB were free before{allowed}. "
        f"{', '.join(fixes[:-1])} or {fixes[-1]}."
    )
