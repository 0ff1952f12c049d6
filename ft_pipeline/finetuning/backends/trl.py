"""Plain transformers, PEFT and bitsandbytes under TRL's trainer: for models and options that Unsloth does not cover."""

from __future__ import annotations

import functools
import os
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from ft_pipeline.finetuning.backends.adapter import lora_arguments, train_in_float32
from ft_pipeline.finetuning.backends.environment import set_environment
from ft_pipeline.finetuning.backends.recompute import recompute_all_or_none
from ft_pipeline.finetuning.batches import IGNORED
from ft_pipeline.finetuning.device import Device
from ft_pipeline.finetuning.varlen import register_attention, tell_rows

if TYPE_CHECKING:
    from ft_pipeline.finetuning.job import Job


class TrlBackend:
    """Models of transformers as they are, with an attention that knows packed rows."""

    def prepare_environment(self, job: Job) -> None:
        """One device, and memory in blocks that can grow, because micro-batches differ in size."""
        set_environment(job)
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")

    def load(self, job: Job) -> tuple[Any, Any]:
        """The model with a fresh adapter, and the tokenizer.

        PEFT's `prepare_model_for_kbit_training` is left out: it makes embeddings and output layer fp32, 2 GiB more for
        an 8B, and frozen norms need no more bits than the base has, because they compute in fp32.
        """
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

        settings = job.settings
        model = AutoModelForCausalLM.from_pretrained(
            str(job.base),
            dtype=_choose_dtype(job.device),
            quantization_config=_make_quantization(job) if settings.load_in_4bit else None,
            device_map={"": 0 if job.device.is_gpu else "cpu"},
            attn_implementation=register_attention(),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
        if not job.device.is_gpu:
            _keep_weights_unpacked(model)
        model.config.use_cache = False
        for parameter in model.parameters():
            parameter.requires_grad = False
        set_seed(settings.seed)
        adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora_arguments(model, settings)))
        train_in_float32(adapted)
        self.set_checkpointed_layers(adapted, job.plan.layout.checkpointed_layers)
        tokenizer = AutoTokenizer.from_pretrained(str(job.base), local_files_only=True, trust_remote_code=False)
        return adapted, tokenizer

    def settle(self, model: Any, job: Job) -> None:
        """TRL makes the adapters of a 4-bit base bf16, and its output layer needs a GPU; here neither."""
        train_in_float32(model)
        if not job.device.is_gpu:
            _replace_fused_head(model.get_base_model())

    def set_checkpointed_layers(self, model: Any, layers: int) -> None:
        """None or all: transformers knows nothing between."""
        recompute_all_or_none(model, layers)

    def offload_embeddings(self, model: Any) -> bool:  # noqa: ARG002
        """It cannot."""
        return False

    def plain_layers(self, model: Any) -> AbstractContextManager[None]:  # noqa: ARG002
        """They always are."""
        return nullcontext()

    def adapt(self, batch: dict[str, Any], device: Device) -> dict[str, Any]:
        """Packed rows are told by their bounds."""
        return tell_rows(batch, device)


def _choose_dtype(device: Device) -> Any:
    import torch

    if not device.is_gpu:
        # Few CPUs multiply bf16 in hardware; on the others it is some thirty times slower than fp32.
        return torch.float32
    return torch.bfloat16 if device.supports_bf16 else torch.float16


def _make_quantization(job: Job) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=_choose_dtype(job.device),
    )


def _keep_weights_unpacked(model: Any) -> None:
    """On CPUs with AVX512-BF16, bitsandbytes 0.50 packs 4-bit weights anew in the first evaluation, in place.

    Gradients through packed weights are wrong, so a training would learn nothing after its first evaluation.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _replace_fused_head(model: Any) -> None:
    """Give a model that TRL has patched the same outputs without Triton, which TRL 1.15 calls on the CPU too and fails.

    Entropy and the share of right first guesses are TRL's own figures, which nobody reads here: they are NaN.
    """
    import torch
    from trl.trainer.utils import FusedCausalLMOutput

    plain_forward = type(model).forward

    def forward(*args: Any, fused_lm_head: bool = False, labels: Any = None, **rest: Any) -> Any:
        if not fused_lm_head:
            return plain_forward(model, *args, labels=labels, **rest)
        logits = plain_forward(model, *args, **rest).logits[:, :-1]
        targets = labels[:, 1:]
        mask = targets != IGNORED
        # In the order of the classes that cross entropy takes; what is ignored costs 0, as in TRL.
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2).float(), targets, ignore_index=IGNORED, reduction="none"
        )
        unknown = torch.full_like(losses, torch.nan)
        return FusedCausalLMOutput(log_probs=-losses, label_mask=mask, entropy=unknown, is_top1=unknown)

    # The trainer asks what the model's forward takes.
    model.forward = functools.wraps(plain_forward)(forward)
