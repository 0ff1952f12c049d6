"""What is given up, rung by rung, when the device runs out of memory. The rows of an optimizer step stay the same."""

from __future__ import annotations

from dataclasses import replace

from ft_pipeline.finetuning.memory import Layout


def step_down(layout: Layout, layers: int, longest_row_tokens: int, *, can_checkpoint: bool = True) -> Layout | None:
    """The next layout that needs less memory; None if there is none.

    First the micro-batch halves, so accumulation doubles; then all layers are computed twice; then packed rows get
    shorter, down to the longest row of the data.

    Args:
        layout: What did not fit.
        layers: Decoder layers of the model.
        longest_row_tokens: A packed row cannot be shorter.
        can_checkpoint: The recipe lets layers be computed twice.
    """
    if layout.micro_batch_rows > 1:
        return replace(layout, micro_batch_rows=layout.micro_batch_rows // 2)
    if can_checkpoint and layout.checkpointed_layers < layers:
        return replace(layout, checkpointed_layers=layers)
    if layout.packing and layout.row_tokens > longest_row_tokens:
        return replace(layout, row_tokens=max(layout.row_tokens // 2, longest_row_tokens))
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is short: torch's own, cuBLAS's, or the CPU allocator's."""
    import torch

    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    words = ("out of memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)
