"""Adapter and 16-bit base become one fp16 model, verified tensor by tensor before anybody uses it."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from ft_pipeline.base_model import copy_tokenizer
from ft_pipeline.errors import BaseModelError, ConversionError
from ft_pipeline.merging.adapter import Adapter, check_fits, read_adapter
from ft_pipeline.merging.shards import Shards, open_shards
from ft_pipeline.merging.verify import MergeCheck, verify_merge
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.summary import Check, Summary

_MAX_SHARD_SIZE = "4GB"
# Any of these holds a tokenizer's vocabulary.
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
_TIED = ("embed_tokens.weight", "lm_head.weight", "wte.weight")
_SHOWN = 3


class MergeRequest(BaseModel):
    """What to merge, and where to.

    Attributes:
        base: Folder of the 16-bit base: safetensors (one file or several with an index), config.json, tokenizer.
        adapter: PEFT adapter folder, with the tokenizer and the chat template as trained.
        out_dir: Folder for the merged model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Path
    adapter: Path
    out_dir: Path


def merge_adapter(request: MergeRequest, reporter: Reporter) -> Summary:
    """Merge an adapter into its base in float32 on the CPU, cast once to float16, and verify what was written.

    Raises:
        BaseModelError: the base lacks weights, or they are damaged or not 16-bit.
        ConversionError: the adapter does not fit the base, or the merged weights are not as they must be.
    """
    started = time.monotonic()
    base = open_shards(request.base)
    config = _read_config(request.base)
    adapter = read_adapter(request.adapter)
    check_fits(adapter, base)
    tied = _is_tied(config, base)
    _check_untied(adapter, tied=tied)
    _warn_untrained(adapter, reporter)
    reporter.info(f"merging {len(adapter.targets)} of {len(base.shapes)} tensors")
    _write_merged(request)
    _write_config(request, config)
    # The trained tokenizer, or the base's where the adapter came without one; never a mixture of both.
    copy_tokenizer(_find_tokenizer(request), request.out_dir)
    merged = open_shards(request.out_dir)
    check = verify_merge(base, adapter, merged, reporter, tied=tied)
    return _summarize(check, merged, time.monotonic() - started)


def _write_merged(request: MergeRequest) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, loading = AutoModelForCausalLM.from_pretrained(
            request.base,
            dtype=torch.float32,
            device_map=None,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as err:
        raise BaseModelError(f"transformers does not load the base {request.base}: {err}") from err
    if loading["missing_keys"]:
        missing = ", ".join(sorted(loading["missing_keys"])[:_SHOWN])
        raise BaseModelError(f"a base must hold all weights of its architecture; {request.base} lacks {missing}.")
    try:
        merged = PeftModel.from_pretrained(model, str(request.adapter), torch_device="cpu").merge_and_unload()
    except (ValueError, RuntimeError, KeyError) as err:
        raise ConversionError(f"PEFT cannot merge {request.adapter} into {request.base}: {err}") from err
    # The base's own file is copied; one that transformers finds invalid would fail here.
    merged.generation_config = GenerationConfig()
    merged.to(torch.float16).save_pretrained(request.out_dir, max_shard_size=_MAX_SHARD_SIZE)


def _write_config(request: MergeRequest, config: dict[str, Any]) -> None:
    # The base's configuration as it was published, save for the type: no version of transformers leaves its mark.
    config = {name: value for name, value in config.items() if name != "torch_dtype"} | {"dtype": "float16"}
    (request.out_dir / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    generation = "generation_config.json"
    (request.out_dir / generation).unlink(missing_ok=True)
    if (request.base / generation).is_file():
        shutil.copyfile(request.base / generation, request.out_dir / generation)


def _find_tokenizer(request: MergeRequest) -> Path:
    for folder in (request.adapter, request.base):
        if any((folder / name).is_file() for name in _VOCABULARIES):
            return folder
    raise BaseModelError(
        f"a model needs a tokenizer; neither {request.adapter} nor {request.base} has {' or '.join(_VOCABULARIES)}."
    )


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BaseModelError(f"a base must have a readable config.json; {path}: {err}") from err
    if quantization := config.get("quantization_config"):
        method = quantization.get("quant_method", "unknown")
        raise BaseModelError(
            f"an adapter is merged into 16-bit weights; {path} says that the base is quantized ({method}). "
            "Name the 16-bit model that it was made from."
        )
    return config


def _is_tied(config: dict[str, Any], base: Shards) -> bool:
    # Configurations leave out what is their class's default: then a head that is not stored is the embedding.
    said = config.get("tie_word_embeddings")
    return bool(said) if said is not None else not any(name.endswith("lm_head.weight") for name in base.shapes)


def _check_untied(adapter: Adapter, *, tied: bool) -> None:
    changed = [name for name in adapter.targets if name.endswith(_TIED)]
    if changed and tied:
        raise ConversionError(
            f"an adapter cannot be merged into a tensor that the base uses twice (tie_word_embeddings); "
            f"{adapter.folder} changes {', '.join(changed)}. Train without embed_tokens and lm_head."
        )


def _warn_untrained(adapter: Adapter, reporter: Reporter) -> None:
    if names := adapter.untrained:
        shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        reporter.warning(
            f"the adapter changes nothing in {len(names)} of its {len(adapter.targets)} tensors: LoRA's B "
            f"(of an embedding: A) is all zero in {shown}. They were never trained; look at the training's "
            "loss and learning rate."
        )


def _summarize(check: MergeCheck, merged: Shards, wall_seconds: float) -> Summary:
    return Summary(
        figures={
            "tensors": check.tensors,
            "tensors_changed": check.changed,
            "tensors_untrained": check.untrained,
            "largest_relative_change": check.largest_relative_change,
            "size_bytes": merged.size_bytes,
            "wall_seconds": wall_seconds,
        },
        checks=[
            Check(
                name="merged_as_trained",
                passed=True,
                blocking=True,
                value=check.changed,
                limit=check.changed + check.untrained,
                detail="targeted tensors changed, all others equal the base's cast once to float16",
            )
        ],
    )
