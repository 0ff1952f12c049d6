"""Proof that a merge did what it should: read back from disk and compared with the base, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging.adapter import Adapter, Target
from ft_pipeline.merging.shards import Shards
from ft_pipeline.processes.reporter import Reporter

_SHOWN = 5
_OUTPUT_HEAD = "lm_head.weight"
_EMBEDDING = "embed_tokens.weight"
# Computed from the configuration; checkpoints of 2023 still carry it.
_DERIVED = "rotary_emb.inv_freq"


@dataclass(frozen=True)
class MergeCheck:
    """What a verified merge changed.

    Attributes:
        tensors: Number of tensors written.
        changed: Those that differ from the base's cast to float16.
        untrained: Those that the adapter targets with a zero update.
        largest_relative_change: Over all tensors, the largest |merged - base| / |base| (Frobenius norms).
    """

    tensors: int
    changed: int
    untrained: int
    largest_relative_change: float


def verify_merge(base: Shards, adapter: Adapter, merged: Shards, reporter: Reporter, *, tied: bool) -> MergeCheck:
    """Compare every tensor written with the base's; peak memory is a few times the largest tensor.

    Args:
        tied: The base's output head is its embedding, so that a stored copy of it need not be there.

    Raises:
        ConversionError: a value that is not finite in float16, a tensor that should have changed and did not or the
            other way round, or a missing one. All of them are counted, the first ones named.
    """
    problems = _compare_names(base, merged, tied=tied)
    changed, largest = 0, 0.0
    names = [name for name in base.shapes if name in merged.shapes]
    for done, name in enumerate(names, start=1):
        before, after = base.read(name), merged.read(name)
        problem, change = _compare(name, before, after, adapter.targets.get(name))
        changed += change > 0
        largest = max(largest, change)
        if problem:
            problems.append(problem)
        if done % 100 == 0 or done == len(names):
            reporter.progress(done, len(names))
    if problems:
        more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise ConversionError(f"the merged model is not as it must be: {'; '.join(problems[:_SHOWN])}{more}.")
    return MergeCheck(len(merged.shapes), changed, len(adapter.untrained), largest)


def _compare_names(base: Shards, merged: Shards, *, tied: bool) -> list[str]:
    missing = [name for name in base.shapes if name not in merged.shapes and not name.endswith(_DERIVED)]
    if tied:
        missing = [name for name in missing if not _is_copy_of_embedding(base, name)]
    extra = [name for name in merged.shapes if name not in base.shapes]
    return [f"{name} of the base is missing" for name in missing] + [f"{name} is not in the base" for name in extra]


def _is_copy_of_embedding(base: Shards, name: str) -> bool:
    if not name.endswith(_OUTPUT_HEAD):
        return False
    embeddings = [other for other in base.shapes if other.endswith(_EMBEDDING)]
    return any(bool((base.read(name) == base.read(other)).all()) for other in embeddings)


def _compare(name: str, before: Any, after: Any, target: Target | None) -> tuple[str | None, float]:
    import torch

    if before.shape != after.shape or after.dtype != torch.float16:
        return f"{name} is {tuple(after.shape)} {after.dtype}, not {tuple(before.shape)} torch.float16", 0.0
    if after.isnan().any():
        return f"{name} holds NaN: the adapter or the base is damaged", 0.0
    if after.isinf().any():
        return f"{name} overflows float16 (largest magnitude 65504): the model needs bfloat16 or float32", 0.0
    expected = before.to(torch.float16)
    if torch.equal(expected, after):
        must_change = target is not None and target.low_rank and not target.untrained
        return (f"{name} is targeted by the adapter and unchanged" if must_change else None), 0.0
    if target is None:
        return f"{name} is not changed by the adapter and differs from the base", 0.0
    exact = before.to(torch.float32)
    change = float((after.to(torch.float32) - exact).norm() / exact.norm().clamp_min(torch.finfo(torch.float32).tiny))
    return None, change
