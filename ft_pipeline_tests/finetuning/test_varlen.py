"""Attention over rows end to end, against plain attention on each row alone."""

from __future__ import annotations

import math
import types
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.finetuning import varlen
from ft_pipeline.finetuning.varlen import ATTENTION, Rule, Segments, attend_by_row, register_attention

_LENGTHS = [5, 1, 17, 9]


@pytest.fixture(scope="module", autouse=True)
def _libraries() -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        assert transformers.LlamaForCausalLM


def _make(heads: int = 4, key_heads: int = 2, dimension: int = 8, **options: Any) -> tuple[Any, Any, Any, Segments]:
    import torch

    torch.manual_seed(1)
    tokens = sum(_LENGTHS)
    query = torch.randn(tokens, heads, dimension, **options)
    key, value = (torch.randn(tokens, key_heads, dimension, **options) for _ in range(2))
    bounds = torch.tensor([0, *torch.tensor(_LENGTHS).cumsum(0)], dtype=torch.int32, device=query.device)
    return query, key, value, Segments(bounds, max(_LENGTHS))


def _by_formula(query: Any, key: Any, value: Any, rule: Rule) -> Any:
    """softmax(cap(q k')) v of one row, token by token."""
    import torch

    groups = query.shape[1] // key.shape[1]
    rows = []
    for token in range(len(query)):
        start = max(0, token + 1 - rule.window) if rule.window else 0
        seen = key[start : token + 1].repeat_interleave(groups, dim=1)
        scores = torch.einsum("hd,thd->ht", query[token], seen) * (rule.scale or 1 / math.sqrt(query.shape[-1]))
        if rule.softcap:
            scores = rule.softcap * torch.tanh(scores / rule.softcap)
        values = value[start : token + 1].repeat_interleave(groups, dim=1)
        rows.append(torch.einsum("ht,thd->hd", scores.softmax(-1), values))
    return torch.stack(rows)


_RULES = {
    "plain": Rule(),
    "scaled": Rule(scale=0.5),
    "windowed": Rule(window=4),
    "capped": Rule(softcap=0.7),
    "capped-windowed": Rule(scale=0.3, window=3, softcap=0.7),
}


@pytest.mark.parametrize("rule", _RULES.values(), ids=_RULES.keys())
@pytest.mark.parametrize("key_heads", [1, 2, 4])
def test_each_row_attends_to_itself_only(rule: Rule, key_heads: int) -> None:
    import torch

    query, key, value, segments = _make(key_heads=key_heads)
    found = attend_by_row(query, key, value, segments, rule)
    parts = zip(query.split(_LENGTHS), key.split(_LENGTHS), value.split(_LENGTHS), strict=True)
    expected = torch.cat([_by_formula(q, k, v, rule) for q, k, v in parts])
    torch.testing.assert_close(found, expected)


def test_gradients_stay_within_the_row() -> None:
    query, key, value, segments = _make(requires_grad=True)
    attend_by_row(query, key, value, segments, Rule())[_LENGTHS[0] + 3].sum().backward()
    touched = key.grad.abs().sum(dim=(1, 2)).nonzero().flatten().tolist()
    assert touched == [6, 7, 8]


@pytest.mark.gpu
@pytest.mark.parametrize("rule", [Rule(), Rule(scale=0.5, window=4)], ids=["plain", "windowed"])
def test_flash_kernels_agree_with_plain_attention(rule: Rule) -> None:
    import torch

    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    query, key, value, segments = _make(dimension=64, device="cuda", dtype=torch.bfloat16)
    assert varlen._takes_flash(query, rule)
    results = []
    for attend in (attend_by_row, varlen._attend_one_by_one):
        q, k, v = (tensor.detach().clone().requires_grad_() for tensor in (query, key, value))
        out = attend(q, k, v, segments, rule)
        (out * torch.linspace(0, 1, out.shape[0], device="cuda")[:, None, None]).sum().backward()
        results.append([out, q.grad, k.grad, v.grad])
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=2e-2, rtol=2e-2)


def _make_llama(attention: str) -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation=attention,
    )
    return LlamaForCausalLM(config).eval()


def test_padded_rows_of_a_model_come_out_as_with_torchs_attention() -> None:
    import torch

    name = register_attention()
    ids = torch.arange(1, 25).reshape(2, 12)
    mask = torch.ones_like(ids)
    mask[1, 7:] = 0
    with torch.no_grad():
        found, expected = (_make_llama(kind)(ids, attention_mask=mask).logits for kind in (name, "sdpa"))
    torch.testing.assert_close(found[mask.bool()], expected[mask.bool()])


def test_flat_rows_of_a_model_come_out_as_alone_without_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    model = _make_llama(register_attention())
    seen = []
    attend = varlen._attend_one_by_one

    def watch(*args: Any) -> Any:
        seen.append(args[3].bounds.tolist())
        return attend(*args)

    monkeypatch.setattr(varlen, "_attend_one_by_one", watch)
    ids = torch.arange(1, 25)
    bounds = torch.tensor([0, 10, 24], dtype=torch.int32)
    positions = torch.cat([torch.arange(10), torch.arange(14)])
    told = {"cu_seq_lens_q": bounds, "cu_seq_lens_k": bounds, "max_length_q": 14, "max_length_k": 14}
    with torch.no_grad():
        flat = model(ids[None], position_ids=positions[None], use_cache=False, **told).logits[0]
        alone = torch.cat([model(part[None]).logits[0] for part in (ids[:10], ids[10:])])
    torch.testing.assert_close(flat, alone)
    assert seen == [[0, 10, 24]] * 2


def test_attention_is_known_by_one_name() -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    assert register_attention() == ATTENTION
    assert ATTENTION in ALL_ATTENTION_FUNCTIONS.valid_keys()


class _Dispatch(types.ModuleType):
    """The part of Unsloth's attention_dispatch that is looked at; Unsloth itself would patch this process."""

    HAS_FLASH_ATTENTION = False
    _TORCH_VARLEN_ATTN: Any = None

    @staticmethod
    def _varlen_attn_call() -> None: ...


@pytest.fixture
def dispatch(monkeypatch: pytest.MonkeyPatch) -> _Dispatch:
    import sys

    import torch

    module = _Dispatch("unsloth.utils.attention_dispatch")
    package = types.ModuleType("unsloth.utils")
    package.attention_dispatch = module  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "unsloth", types.ModuleType("unsloth"))
    monkeypatch.setitem(sys.modules, "unsloth.utils", package)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    return module


def test_unsloth_is_given_a_kernel_where_it_has_none(dispatch: _Dispatch) -> None:
    import torch

    assert varlen.give_unsloth_varlen()
    query, key, value, segments = _make()
    lengths = segments.bounds, segments.max_tokens, segments.max_tokens
    for window, rule in (((-1, 0), Rule(scale=0.5)), ((3, 0), Rule(scale=0.5, window=4))):
        found = dispatch._TORCH_VARLEN_ATTN(
            query, key, value, segments.bounds, *lengths, scale=0.5, window_size=window, enable_gqa=True
        )
        torch.testing.assert_close(found, attend_by_row(query, key, value, segments, rule))


def test_unsloths_own_kernel_is_left_alone(dispatch: _Dispatch) -> None:
    dispatch._TORCH_VARLEN_ATTN = own = object()
    assert varlen.give_unsloth_varlen()
    assert dispatch._TORCH_VARLEN_ATTN is own


def test_an_unsloth_that_keeps_its_choice_elsewhere_is_left_alone(
    dispatch: _Dispatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(_Dispatch, "_varlen_attn_call")
    assert not varlen.give_unsloth_varlen()
    assert dispatch._TORCH_VARLEN_ATTN is None


def test_cards_before_ampere_get_no_flash_kernel(dispatch: _Dispatch, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (7, 5))
    assert not varlen.give_unsloth_varlen()
    assert dispatch._TORCH_VARLEN_ATTN is None


def test_unsloth_calls_its_kernel_as_expected() -> None:
    """What `give_unsloth_varlen` relies on, read from the installed package: imported, it would patch this process."""
    spec = find_spec("unsloth")
    assert spec is not None
    text = (Path(str(spec.origin)).parent / "utils" / "attention_dispatch.py").read_text(encoding="utf-8")
    assert "\n_TORCH_VARLEN_ATTN = _load_torch_varlen_attn()" in text
    call = text[text.index("return _TORCH_VARLEN_ATTN(") :].split("(", 1)[1].split(")", 1)[0]
    expected = "Q_f, K_f, V_f, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, "
    assert " ".join(call.split()).startswith(
        expected + "scale = scale, window_size = window_size, enable_gqa = enable_gqa"
    )
