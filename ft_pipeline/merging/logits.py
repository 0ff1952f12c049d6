"""Proof that a merged model computes what the adapter on its base computes, one block of one tensor at a time.

The model's own class runs once, with its parameters on torch's meta device and a batch of three: through the base's
weights with the adapter's factors beside them, through the same with noise of the size of the weights' rounding, and
through the merged weights. A layer's weights are mapped when it runs and multiplied with in blocks, and of the
vocabulary some ids remain, so memory hangs on neither the model's size nor the vocabulary's.
"""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from ft_pipeline.errors import ConversionError
from ft_pipeline.listing import tell_some
from ft_pipeline.merging.adapter import Adapter
from ft_pipeline.merging.logit_sources import Source
from ft_pipeline.merging.names import find_names
from ft_pipeline.merging.shards import Shards
from ft_pipeline.merging.values import Space
from ft_pipeline.processes.reporter import Reporter

if TYPE_CHECKING:
    from ft_pipeline.merging.merge import MergeRequest

_IDS = 64
_TOKENS = 4
_SEED = 5
_MAX_WORKERS = 16
# Rounding changes a weight by at most u of it (2^-11 in float16, 2^-8 in bfloat16), and so a tensor by at most u of its
# norm, in practice by 0.41 u. Of matrices the products with so many vectors of random signs are compared.
_SIGNS = 4
_TENSOR_MARGIN = 2.0
# What noise in the weights makes of the logits is each model's own affair (sharp attention multiplies it), so it is
# measured, with u of every weight. Rounding came to 0.13 to 0.56 of that on random models of 2 to 32 layers.
_LOGITS_MARGIN = 2.0
_SHOWN = 5
# What config.json may say of the merged model and not of the base.
_FREE = {"_name_or_path", "tie_word_embeddings", "dtype", "vocab_size", "transformers_version", "architectures"}


def _is_there(_file: str) -> None:
    """A merged model that is whole."""


@dataclass(frozen=True)
class LogitCheck:
    """How far the merged model's logits are from those of the adapter on its base.

    Attributes:
        largest_difference: Over all positions and probed ids.
        spread: Standard deviation of the logits of the adapter on its base.
        tolerance: What `largest_difference` may be: twice what noise a little larger than rounding makes of it.
    """

    largest_difference: float
    spread: float
    tolerance: float


def compare_logits(
    base: Shards,
    adapter: Adapter,
    merged: Shards,
    request: MergeRequest,
    reporter: Reporter,
    *,
    wait: Callable[[str], None] = _is_there,
) -> LogitCheck | None:
    """Compute some logits of both models in float32 from what is on disk.

    On the way each tensor is compared by itself: what is missing from one layer can be too small to be told, in the
    logits, from the rounding of all layers.

    Args:
        wait: Gives back when a file of the merged model, by its name, is written.

    Returns:
        None, and a warning, for a model that transformers has no causal language model for, or whose weights are
        stored in another way than that class has them.

    Raises:
        ConversionError: configurations, tensors or logits differ by more than rounding.
    """
    try:
        probe = _make_probe(base, adapter, merged, request, wait)
    except _NotComparableError as err:
        reporter.warning(
            f"the merged model's logits were not compared with those of the adapter on its base, only tensors were: "
            f"{err}. Try the merged model before you rely on it."
        )
        return None
    expected, noisy, actual = probe.run()
    if probe.problems:
        raise ConversionError(
            f"a merged tensor must be the base's with the adapter's update, rounded once; in {merged.folder} "
            f"{tell_some(probe.problems, _SHOWN)}. Delete the merged model and merge again."
        )
    difference, noise = (float((expected - other).abs().max()) for other in (actual, noisy))
    check = LogitCheck(difference, float(expected.std()), _LOGITS_MARGIN * noise)
    if not difference <= check.tolerance:
        raise ConversionError(
            "the merged model's logits must be those of the adapter on its base but for the weights' rounding, which "
            f"explains {check.tolerance:.3g} at a spread of {check.spread:.3g}; those of {merged.folder} differ by "
            f"{difference:.3g}. Delete the merged model and merge again."
        )
    return check


class _NotComparableError(Exception):
    """A model that cannot be run here, and why."""


_Pair = tuple[Source, Source]


class _Probe:
    """A model of which each layer takes other weights for each third of its batch.

    Args:
        sources: By the name of a parameter, its values for the adapter on its base, and merged.
        dtype_name: torch's name of the type that the merged weights are rounded to.

    Attributes:
        problems: Tensors that differ by more than rounding, as sentences.
    """

    def __init__(self, model: Any, sources: dict[str, _Pair], dtype_name: str) -> None:
        import torch
        from transformers.pytorch_utils import Conv1D

        self.problems: list[str] = []
        self._model = model
        self._space = Space()
        self._random = torch.Generator().manual_seed(_SEED)
        self._type = torch.finfo(getattr(torch, dtype_name))
        self._roundoff = self._type.eps / 2
        for name, module in list(model.named_modules()):
            own = {part: sources[f"{name}.{part}"] for part, _ in module.named_parameters(recurse=False)}
            if type(module) in (torch.nn.Linear, Conv1D):
                transposed = type(module) is Conv1D
                module.forward = partial(self._run_linear, own["weight"], own.get("bias"), transposed)
            elif own:
                module.forward = partial(self._run_other, module, module.forward, own)

    def run(self) -> Any:
        """Logits (3, tokens, ids): of the adapter on its base, of the same with noise, and of the merged model."""
        import torch

        ids = torch.arange(min(_TOKENS, self._model.config.vocab_size)).repeat(3, 1)
        positions = torch.arange(ids.shape[1]).repeat(3, 1)
        threads, workers = torch.get_num_threads(), min(_MAX_WORKERS, len(os.sched_getaffinity(0)))
        # Blocks go to threads as a whole: torch's own wait for each other in a loop, which a busy machine makes long.
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(workers) as self._pool, torch.inference_mode():
                return self._model(input_ids=ids, position_ids=positions, use_cache=False).logits
        finally:
            torch.set_num_threads(threads)

    def _run_linear(self, weight: _Pair, bias: _Pair | None, transposed: bool, hidden: Any) -> Any:
        import torch

        signs = self._draw_signs(_SIGNS, hidden.shape[-1])
        expected, noisy, actual = hidden.flatten(0, -2).chunk(3)
        noisy = noisy * self._draw_noise(hidden.shape[-1])
        before, after = (
            source.multiply(torch.cat(rows), self._pool, self._space, stored_transposed=transposed)
            for source, rows in zip(weight, ([expected, noisy, signs], [actual, signs]), strict=True)
        )
        self._compare(weight, before[-_SIGNS:], after[-_SIGNS:], terms=hidden.shape[-1])
        result = torch.cat([before[:-_SIGNS], after[:-_SIGNS]]).unflatten(0, hidden.shape[:-1])
        if bias is not None:
            values = torch.stack(self._read_values(bias))
            result += values.view(3, *[1] * (result.ndim - 2), -1)
        return result

    def _run_other(self, module: Any, forward: Any, own: dict[str, _Pair], *inputs: Any, **settings: Any) -> Any:
        import torch

        thirds = [value.chunk(3) if torch.is_tensor(value) else (value,) * 3 for value in inputs]
        values = {part: self._read_values(pair) for part, pair in own.items()}
        empty = dict(module.named_parameters(recurse=False))
        results = []
        for third in range(3):
            for part, each in values.items():
                setattr(module, part, torch.nn.Parameter(each[third], requires_grad=False))
            results.append(forward(*(value[third] for value in thirds), **settings))
        for part, parameter in empty.items():
            setattr(module, part, parameter)
        return torch.cat(results)

    def _read_values(self, pair: _Pair) -> tuple[Any, Any, Any]:
        expected, actual = pair[0].values(), pair[1].values()
        self._compare(pair, expected, actual)
        return expected, expected * self._draw_noise(*expected.shape), actual

    def _draw_signs(self, *shape: int) -> Any:
        import torch

        return torch.randint(0, 2, shape, generator=self._random) * 2.0 - 1

    def _draw_noise(self, *shape: int) -> Any:
        return 1 + self._roundoff * self._draw_signs(*shape)

    def _compare(self, pair: _Pair, expected: Any, actual: Any, *, terms: int = 1) -> None:
        """Note a tensor that is off by more than rounding; of a product, `terms` are summed up in each element."""
        difference, norm = float((expected - actual).norm()), float(actual.norm())
        # Below the smallest normal number it is not the relative error that is bounded.
        limit = self._roundoff * (norm + self._type.tiny * math.sqrt(terms * actual.numel()))
        if not difference <= _TENSOR_MARGIN * limit:
            off = difference / norm if norm else math.inf
            self.problems.append(
                f"{pair[1].tensor} is off by {off:.2g} of its norm, of which rounding explains {self._roundoff:.2g}"
            )


def _make_probe(
    base: Shards, adapter: Adapter, merged: Shards, request: MergeRequest, wait: Callable[[str], None]
) -> _Probe:
    import torch

    config, merged_config = _read_config(base), _read_config(merged)
    _check_config(config, merged_config, merged)
    vocabulary = min(each.get_text_config().vocab_size for each in (config, merged_config))
    ids = torch.randperm(vocabulary, generator=torch.Generator().manual_seed(_SEED))[:_IDS]
    model = _build_model(config, len(ids))
    expected = _find_sources(model, base, ids, adapter, tied=_is_tied(config))
    actual = _find_sources(model, merged, ids, None, tied=_is_tied(merged_config))
    for name, source in actual.items():
        actual[name] = replace(source, wait=partial(wait, merged.places[source.tensor].file))
    return _Probe(model, {name: (source, actual[name]) for name, source in expected.items()}, request.dtype)


def _read_config(shards: Shards) -> Any:
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(shards.folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as err:
        raise _NotComparableError(f"transformers does not read {shards.folder / 'config.json'} ({err})") from err


def _is_tied(config: Any) -> bool:
    return bool(getattr(config, "tie_word_embeddings", False))


def _check_config(config: Any, merged_config: Any, merged: Shards) -> None:
    """One run serves both models, so that all that is computed but for the weights must be said to be the same."""
    before, after = (each.get_text_config().to_dict() for each in (config, merged_config))
    wrong = [
        f"{name}: {after.get(name)!r} and not {before.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and name not in _FREE and not name.endswith("_token_id")
    ]
    if wrong:
        raise ConversionError(
            f"a merged model must be configured as its base; {merged.folder / 'config.json'} says "
            f"{'; '.join(wrong[:_SHOWN])}. Delete the merged model and merge again."
        )


def _build_model(config: Any, ids: int) -> Any:
    """The class of a configuration, of a small vocabulary, with nothing in memory but what is not stored."""
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    settings = {"dtype": torch.float32, "attn_implementation": "eager", "trust_remote_code": False}
    small = copy.deepcopy(config.get_text_config())
    small.vocab_size, small.tie_word_embeddings = ids, False
    small.bos_token_id = small.eos_token_id = small.pad_token_id = None
    try:
        with init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(small, **settings)
    except (ValueError, ImportError) as err:
        raise _NotComparableError(f"transformers makes no model of {small.model_type} ({err})") from err
    return model.eval()


def _find_sources(model: Any, shards: Shards, ids: Any, adapter: Adapter | None, *, tied: bool) -> dict[str, Source]:
    modules = {id(module): name for name, module in model.named_modules()}
    embedding, head = (modules[id(find())] for find in (model.get_input_embeddings, model.get_output_embeddings))
    parameters = dict(model.named_parameters())
    names = find_names(parameters, shards.shapes)
    # Updates go by the base's names; that of a head which is the embedding, by its own.
    updates = {name: adapter.updates.get(names[name] or name) for name in parameters} if adapter else {}
    if tied and names[f"{head}.weight"] is None:
        names[f"{head}.weight"] = names[f"{embedding}.weight"]
    sources, wrong = {}, []
    for name, parameter in parameters.items():
        found, by_id = names[name] or "", name.rpartition(".")[0] in (embedding, head)
        # Experts in one tensor would be read as a whole.
        if not found or shards.shapes[found][by_id:] != tuple(parameter.shape)[by_id:] or parameter.ndim > 2:
            wrong.append(name)
        sources[name] = Source(shards, found, ids if by_id else None, adapter, updates.get(name))
    if wrong:
        raise _NotComparableError(
            f"{type(model).__name__} of transformers has {', '.join(wrong[:_SHOWN])} in another way than "
            f"{shards.folder}, or experts in one tensor"
        )
    return sources
