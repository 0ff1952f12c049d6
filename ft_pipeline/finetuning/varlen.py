"""Attention over rows that lie end to end: each row sees itself only.

torch's flash kernels take the borders of the rows directly. Where they do not run (the CPU, cards before Ampere, fp32),
rows go through torch's scaled-dot-product attention one by one, which gives the same and takes longer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any

from ft_pipeline.finetuning.device import Device

ATTENTION = "rows"
_LENGTHS = "packed_seq_lengths"
# Of the flash kernels that torch brings.
_MAX_HEAD_DIM = 256
_AMPERE = 8


@dataclass(frozen=True)
class Segments:
    """Where the rows lie in a sequence.

    Attributes:
        bounds: int32 [rows + 1] on the device: the first token of each row, and the end.
        max_tokens: Tokens of the longest row.
    """

    bounds: Any
    max_tokens: int


@dataclass(frozen=True)
class Rule:
    """What a model does with the scores.

    Attributes:
        scale: Of query times key; None: 1 / sqrt(head dimension).
        window: A token sees this many, itself among them; None: all before it.
        softcap: Scores are bent to stay below it, as in Gemma 2.
        dropout: On the weights.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    dropout: float = 0.0


def attend_by_row(query: Any, key: Any, value: Any, segments: Segments, rule: Rule) -> Any:
    """Causal attention within each row.

    Args:
        query: [tokens, heads, head dimension].
        key: [tokens, key heads, head dimension]; heads are a multiple of key heads.
        value: As key.
        segments: The rows; together they are all tokens.
        rule: The model's.

    Returns:
        [tokens, heads, head dimension].
    """
    if _takes_flash(query, rule):
        return _define_flash().apply(query, key, value, segments, rule)
    return _attend_one_by_one(query, key, value, segments, rule)


def register_attention() -> str:
    """Give transformers an attention that serves rows end to end as well as padded ones.

    A flat micro-batch says where its rows lie by `cu_seq_lens_q` and `max_length_q` and comes without an attention
    mask, so no mask of tokens x tokens is built for it.

    Returns:
        Its name, for `attn_implementation`.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    AttentionInterface.register(ATTENTION, _attend)
    AttentionMaskInterface.register(ATTENTION, _make_mask)
    return ATTENTION


def tell_rows(batch: dict[str, Any], device: Device) -> dict[str, Any]:
    """A micro-batch on the device, its rows told to the attention above in the words of transformers."""
    import torch

    target = "cuda" if device.is_gpu else "cpu"
    moved = {name: tensor.to(target, non_blocking=True) for name, tensor in batch.items() if name != _LENGTHS}
    if _LENGTHS not in batch:
        rows, tokens = batch["input_ids"].shape
        # TRL asks for positions or a mask.
        return moved | {"position_ids": torch.arange(tokens, device=target).expand(rows, tokens)}
    bounds = torch.nn.functional.pad(batch[_LENGTHS].cumsum(0), (1, 0)).to(target, torch.int32, non_blocking=True)
    most = int(batch[_LENGTHS].max())
    return moved | {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": most, "max_length_k": most}


def give_unsloth_varlen() -> bool:
    """Let Unsloth's packed rows run on torch's flash kernels also where it does not find them.

    It looks for `enable_gqa` in torch's `varlen_attn`, which came with torch 2.12; before, it calls attention once for
    each row and layer. An 8B at rank 16 on an H200 with torch 2.11, GSM8K rows packed: 2,336 tokens/s that way, 11,433
    with the kernels, which torch 2.11 has as well. On 2.12 and later there is nothing to do.

    Returns:
        Whether packed rows run on such a kernel now. False where the card is older than Ampere or this Unsloth keeps
        its choice elsewhere: then they are right and slow.
    """
    import torch
    from unsloth.utils import attention_dispatch

    if not torch.cuda.is_available() or torch.version.hip or torch.cuda.get_device_capability()[0] < _AMPERE:
        return False
    if getattr(attention_dispatch, "HAS_FLASH_ATTENTION", False):
        return True
    known = all(hasattr(attention_dispatch, name) for name in ("_TORCH_VARLEN_ATTN", "_varlen_attn_call"))
    if known and attention_dispatch._TORCH_VARLEN_ATTN is None:
        attention_dispatch._TORCH_VARLEN_ATTN = _varlen_attn
    return known


def _varlen_attn(query: Any, key: Any, value: Any, bounds: Any, *lengths: Any, **rule: Any) -> Any:
    """With the arguments of `torch.nn.attention.varlen.varlen_attn` of torch 2.12, causal as Unsloth calls it."""
    left, right = rule["window_size"]
    if right != 0:
        raise ValueError(f"only causal attention runs here, got window_size {rule['window_size']}")
    segments = Segments(bounds, int(lengths[-1]))
    return attend_by_row(query, key, value, segments, Rule(rule["scale"], window=None if left < 0 else left + 1))


def _takes_flash(query: Any, rule: Rule) -> bool:
    import torch

    return bool(
        query.is_cuda
        and query.dtype in (torch.float16, torch.bfloat16)
        and query.shape[-1] <= _MAX_HEAD_DIM
        and query.shape[-1] % 8 == 0
        and not rule.softcap
        and not rule.dropout
        and not torch.version.hip
        # The backward pass adds in any order.
        and not torch.are_deterministic_algorithms_enabled()
        and torch.cuda.get_device_capability(query.device)[0] >= _AMPERE
    )


@cache
def _define_flash() -> Any:
    import torch

    class FlashByRow(torch.autograd.Function):  # type: ignore[misc]
        @staticmethod
        def forward(ctx: Any, query: Any, key: Any, value: Any, segments: Segments, rule: Rule) -> Any:
            arguments = _say(segments, rule)
            query, key, value = query.contiguous(), key.contiguous(), value.contiguous()
            out, sums, seed, offset, _ = torch.ops.aten._flash_attention_forward(
                query, key, value, *arguments.before, return_debug_mask=False, **arguments.after
            )
            ctx.save_for_backward(query, key, value, out, sums, seed, offset)
            ctx.arguments = arguments
            return out

        @staticmethod
        def backward(ctx: Any, grad: Any) -> Any:
            query, key, value, out, sums, seed, offset = ctx.saved_tensors
            grads = torch.ops.aten._flash_attention_backward(
                grad.contiguous(),
                query,
                key,
                value,
                out,
                sums,
                *ctx.arguments.before,
                seed,
                offset,
                **ctx.arguments.after,
            )
            return *grads, None, None

    return FlashByRow


@dataclass(frozen=True)
class _Arguments:
    before: tuple[Any, ...]
    after: dict[str, Any]


def _say(segments: Segments, rule: Rule) -> _Arguments:
    bounds, most = segments.bounds, segments.max_tokens
    left = -1 if rule.window is None else rule.window - 1
    # A window that ends at the token itself is causal; the flag stands for "no window to the left".
    before = (bounds, bounds, most, most, 0.0, rule.window is None)
    return _Arguments(before, {"scale": rule.scale, "window_size_left": left, "window_size_right": 0})


def _attend_one_by_one(query: Any, key: Any, value: Any, segments: Segments, rule: Rule) -> Any:
    import torch

    parts = []
    for start, end in pairwise(segments.bounds.tolist()):
        q, k, v = (tensor[start:end].transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
        parts.append(_attend_causal(q, k, v, None, rule).squeeze(0).transpose(0, 1))
    return torch.cat(parts)


def _attend_causal(query: Any, key: Any, value: Any, mask: Any, rule: Rule) -> Any:
    """[rows, heads, tokens, head dimension]; mask: true where a token is seen, None: causal by the rule."""
    import torch

    tokens = query.shape[-2]
    if mask is None and (rule.softcap or (rule.window is not None and rule.window < tokens)):
        at = torch.arange(tokens, device=query.device)
        mask = at[:, None] >= at
        if rule.window is not None:
            mask &= at > at[:, None] - rule.window
    if (groups := query.shape[1] // key.shape[1]) > 1:
        # torch's fast kernels take fewer key heads without a mask on new cards only.
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    if rule.softcap:
        return _attend_capped(query, key, value, mask, rule)
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, dropout_p=rule.dropout, is_causal=mask is None, scale=rule.scale
    )


def _attend_capped(query: Any, key: Any, value: Any, mask: Any, rule: Rule) -> Any:
    import torch

    scale = rule.scale or 1 / math.sqrt(query.shape[-1])
    scores = torch.tanh(query @ key.transpose(-1, -2) * scale / rule.softcap) * rule.softcap
    scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
    return torch.nn.functional.dropout(weights, rule.dropout) @ value


def _attend(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **said: Any) -> tuple[Any, None]:
    """An attention function of transformers: [rows, heads, tokens, head dimension] to [rows, tokens, heads, ...]."""
    import torch

    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    rule = Rule(
        scale=said.get("scaling"),
        window=said.get("sliding_window"),
        softcap=said.get("softcap"),
        dropout=said.get("dropout", 0.0) if module.training else 0.0,
    )
    bounds = said.get("cu_seq_lens_q")
    if attention_mask is None and bounds is not None:
        q, k, v = (tensor.squeeze(0).transpose(0, 1) for tensor in (query, key, value))
        return attend_by_row(q, k, v, Segments(bounds, int(said["max_length_q"])), rule).unsqueeze(0), None
    return _attend_causal(query, key, value, attention_mask, rule).transpose(1, 2), None


def _make_mask(*args: Any, attention_mask: Any = None, **said: Any) -> Any:
    """No mask for rows without padding; else the one of torch's attention: true where a token is seen."""
    from transformers.masking_utils import sdpa_mask

    if attention_mask is None:
        return None
    return sdpa_mask(*args, attention_mask=attention_mask, **said)
