"""Adapter and 16-bit base become one 16-bit model, as a stream from disk to disk, verified before anybody uses it."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from ft_pipeline.base_model import TOKENIZER_FILES, copy_tokenizer, read_config
from ft_pipeline.errors import BaseModelError
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.listing import name_some
from ft_pipeline.merging.adapter import Adapter, fit_adapter, read_adapter
from ft_pipeline.merging.beside import Arrivals, running_beside
from ft_pipeline.merging.complete import require_complete
from ft_pipeline.merging.layout import Layout, lay_out
from ft_pipeline.merging.logits import LogitCheck, compare_logits
from ft_pipeline.merging.names import find_names
from ft_pipeline.merging.nf4 import RoundedShards, find_quantized
from ft_pipeline.merging.shards import FLOAT_TYPES, Shards, open_shards
from ft_pipeline.merging.stream import Sources, StreamedMerge
from ft_pipeline.merging.tied import find_tied_head, stays_tied, untie_config
from ft_pipeline.merging.verify import MergeCheck
from ft_pipeline.merging.writer import LayoutWriter
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.summary import Check, Summary

# Any of these holds a tokenizer's vocabulary.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
# Computed from the configuration; checkpoints of 2023 still carry it, and GPT-2's its masks.
_DERIVED = ("rotary_emb.inv_freq", ".attn.masked_bias")
_MASK, _MASK_DIMENSIONS = ".attn.bias", 4
_GENERATION = "generation_config.json"
_SHOWN = 3


class MergeRequest(BaseModel):
    """What to merge, and where to.

    Attributes:
        base: Folder of the 16-bit base: safetensors (one file or several with an index), config.json, tokenizer.
        adapter: PEFT adapter folder, with the tokenizer and the chat template as trained.
        out_dir: Folder for the merged model.
        dtype: Type of the merged weights.
        merge_base: w16: the base as it is. nf4: its linear layers rounded to NF4 and back, as a 4-bit training saw it.
        base_dtype: torch's name of the type that this training computed in; None: bfloat16.
        base_hashes: SHA-256 of files of the base, by name, as published; they are checked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Path
    adapter: Path
    out_dir: Path
    dtype: Literal["float16", "bfloat16"] = "float16"
    merge_base: Literal["w16", "nf4"] = "w16"
    base_dtype: Literal["float16", "bfloat16", "float32"] | None = None
    base_hashes: dict[str, str] = {}


def merge_adapter(request: MergeRequest, reporter: Reporter) -> Summary:
    """Merge an adapter into its base in float32 on the CPU, cast once, and verify what was written.

    Memory is a few megabytes for each core, whatever the size of the model.

    Raises:
        BaseModelError: the base lacks weights, or they are damaged or not 16-bit.
        ConversionError: the adapter does not fit the base, or the merged weights are not as they must be.
        OSError: the disk is full.
    """
    started = time.monotonic()
    with running_beside(_import_transformers, _compare_logits) as comparison:
        sources, layout, config = _prepare(request)
        _warn_untrained(sources.adapter, reporter)
        reporter.info(f"merging {len(sources.adapter.updates)} of {len(layout.weights.shapes)} tensors")
        with _written_beside(request, config), LayoutWriter(layout) as writer:
            comparison.tell((request, layout.weights))
            stream = StreamedMerge(sources, layout, writer, request.base_hashes, comparison.tell)
            check = stream.run(reporter.progress)
            # While the last files get to the disk.
            logits, warnings = comparison.ask()
    for warning in warnings:
        reporter.warning(warning)
    figures = {"size_bytes": layout.weights.size_bytes, "wall_seconds": time.monotonic() - started}
    return _summarize(check, logits, request.dtype, figures, stream.sha256)


def _prepare(request: MergeRequest) -> tuple[Sources, Layout, dict[str, Any]]:
    """Everything that can be refused before anything is written, and the configuration of the merged model."""
    base = open_shards(request.base)
    config = _read_16_bit_config(request.base)
    _require_whole(base, config)
    _find_tokenizer(request)
    adapter = read_adapter(request.adapter)
    dropped: set[str] = set()
    if tied := find_tied_head(base, config):
        base = tied.base
        adapter = fit_adapter(adapter, base)
        if stays_tied(tied, adapter, config):
            dropped.add(tied.head)
        else:
            config = untie_config(config)
    else:
        adapter = fit_adapter(adapter, base)
    text = config.get("text_config") or config
    require_complete(adapter, base, text.get("num_hidden_layers"), text.get("num_kv_shared_layers") or 0)
    quantized = find_quantized(config, base, adapter) if request.merge_base == "nf4" else set()
    sources = Sources(base, adapter, quantized, request.base_dtype or "bfloat16")
    kept = {name: shape for name, shape in base.shapes.items() if name not in dropped and not _is_derived(name, shape)}
    _require_floats(base, kept)
    return sources, lay_out(request.out_dir, kept, request.dtype), config


class _Warnings:
    """Keeps what is told in the other process, for this one."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def info(self, message: str) -> None:
        """Nothing of it is for people."""

    def warning(self, message: str) -> None:
        self.told.append(message)

    def progress(self, done: int, total: int, **figures: float) -> None:
        """Nothing of it is for people."""


def _import_transformers() -> None:
    import accelerate  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401


def _compare_logits(messages: Iterator[Any]) -> tuple[LogitCheck | None, list[str]]:
    """Takes the request, where the merged tensors will lie, and the name of each file when it is written."""
    request, merged = next(messages)
    sources, _, _ = _prepare(request)
    warnings, written = _Warnings(), Arrivals(messages)
    found = compare_logits(_as_trained(sources), sources.adapter, merged, request, warnings, wait=written.wait)
    return found, warnings.told


def _as_trained(sources: Sources) -> Shards:
    if not sources.quantized:
        return sources.base
    return RoundedShards.of(sources.base, sources.quantized, sources.base_dtype)


@contextmanager
def _written_beside(request: MergeRequest, config: dict[str, Any]) -> Iterator[None]:
    """What lies beside the weights of the merged model; after an error in the block it is gone."""
    try:
        _write_config(request, config)
        # The trained tokenizer, or the base's where the adapter came without one; never a mixture of both.
        copy_tokenizer(_find_tokenizer(request), request.out_dir)
        yield
    except BaseException:
        for name in ("config.json", _GENERATION, *TOKENIZER_FILES):
            (request.out_dir / name).unlink(missing_ok=True)
        raise


def _write_config(request: MergeRequest, config: dict[str, Any]) -> None:
    # The base's configuration as it was published, save for the type: no version of transformers leaves its mark.
    config = {name: value for name, value in config.items() if name != "torch_dtype"} | {"dtype": request.dtype}
    (request.out_dir / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    if (request.base / _GENERATION).is_file():
        shutil.copyfile(request.base / _GENERATION, request.out_dir / _GENERATION)


def _find_tokenizer(request: MergeRequest) -> Path:
    for folder in (request.adapter, request.base):
        if any((folder / name).is_file() for name in _VOCABULARIES):
            return folder
    raise BaseModelError(
        f"a model needs a tokenizer; neither {request.adapter} nor {request.base} has {' or '.join(_VOCABULARIES)}."
    )


def _read_16_bit_config(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown")
        raise BaseModelError(
            f"an adapter is merged into 16-bit weights; {folder / 'config.json'} says that the base is quantized "
            f"({method}). Name the 16-bit model that it was made from."
        )
    return config


def _require_whole(base: Shards, config: Mapping[str, Any]) -> None:
    try:
        wanted = [name for name, _ in read_architecture(config).list_tensors()]
    except BaseModelError:
        # A family that is not trained here: its logits cannot be compared if it lacks something, which is told.
        return
    if missing := [name for name, found in find_names(wanted, base.shapes).items() if found is None]:
        raise BaseModelError(
            f"a base must hold all weights of its architecture; {base.folder} lacks "
            f"{name_some(missing, _SHOWN)}. Fetch it again."
        )


def _require_floats(base: Shards, names: Mapping[str, object]) -> None:
    if other := {name: base.places[name].kind for name in names if base.places[name].kind not in FLOAT_TYPES}:
        name, kind = next(iter(other.items()))
        raise BaseModelError(
            f"an adapter is merged into 16-bit weights ({', '.join(FLOAT_TYPES)}); {len(other)} tensors of "
            f"{base.folder} are of another type, the first is {name} ({kind}). Name the 16-bit model."
        )


def _is_derived(name: str, shape: tuple[int, ...]) -> bool:
    return name.endswith(_DERIVED) or (name.endswith(_MASK) and len(shape) == _MASK_DIMENSIONS)


def _warn_untrained(adapter: Adapter, reporter: Reporter) -> None:
    if names := adapter.untrained:
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        reporter.warning(
            f"the adapter changes nothing in {len(names)} of its {len(adapter.updates)} tensors: LoRA's B "
            f"(of an embedding: A) is all zero in {shown}. They were never trained; look at the training's "
            "loss and learning rate."
        )


def _summarize(
    check: MergeCheck, logits: LogitCheck | None, dtype: str, figures: dict[str, float], sha256: dict[str, str]
) -> Summary:
    return Summary(
        figures={
            "tensors": check.tensors,
            "tensors_changed": check.changed,
            "tensors_untrained": check.untrained,
            "largest_relative_change": check.largest_relative_change,
            "logit_difference": logits and logits.largest_difference,
            "logit_tolerance": logits and logits.tolerance,
            **figures,
        },
        checks=[
            Check(
                name="merged_as_trained",
                passed=True,
                blocking=True,
                value=check.changed,
                limit=check.changed + check.untrained,
                detail=f"targeted tensors changed, all others equal the base's cast once to {dtype}",
            ),
            Check(
                name="logits",
                passed=logits is not None,
                blocking=logits is not None,
                value=logits and logits.largest_difference,
                limit=logits and logits.tolerance,
                detail="largest difference from the logits of the adapter on its base"
                if logits
                else "not compared; the log says why",
            ),
        ],
        sha256=sha256,
    )
