"""Unsloth's model and kernels: the same code on a CPU and a GPU.

What its public functions do not offer is reached inside: which layers are computed twice while training goes on
(`_unsloth_skip_checkpoint`), attention by rows on torch before 2.12 (`varlen.py`), products that backward never reads
(`lean_recompute.py`), linear layers that are called one by one (`plain_layers.py`). Each looks first whether this
Unsloth is built as it knows it.
"""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from ft_pipeline.base_model import read_config
from ft_pipeline.errors import TrainingError
from ft_pipeline.finetuning.backends.adapter import lora_arguments, train_in_float32
from ft_pipeline.finetuning.backends.environment import set_environment
from ft_pipeline.finetuning.backends.lean_recompute import skip_unread_products
from ft_pipeline.finetuning.backends.plain_layers import plain_layers
from ft_pipeline.finetuning.backends.recompute import recompute_all_or_none
from ft_pipeline.finetuning.device import Device
from ft_pipeline.finetuning.varlen import give_unsloth_varlen, register_attention, tell_rows

if TYPE_CHECKING:
    from ft_pipeline.finetuning.job import Job

_OFFLOADED_TOKENS = 512
_log = logging.getLogger(__name__)


class UnslothBackend:
    """Unsloth. It must be imported before transformers, TRL and PEFT, which it patches."""

    def prepare_environment(self, job: Job) -> None:
        """One device, Unsloth's generated code out of the working directory, no statistics; then Unsloth itself.

        It tells torch's allocator to grow its segments, which nobody hears once that is in use.
        """
        set_environment(job)
        os.environ["UNSLOTH_COMPILE_LOCATION"] = str(job.scratch / "unsloth")
        os.environ["UNSLOTH_DISABLE_STATISTICS"] = "1"
        # Compiled decoder layers: 11,050 tokens/s and 16,450 without checkpoints; as they are: 11,120 and 16,790 (8B,
        # rank 16, 16,500 packed tokens a step, H200), and no minute of compiling.
        os.environ["UNSLOTH_BLOCK_COMPILE"] = "0"
        import unsloth  # noqa: F401

    def load(self, job: Job) -> tuple[Any, Any]:
        """Unsloth's model with a fresh adapter, and the tokenizer.

        Raises:
            TrainingError: Unsloth cannot train one of `modules_to_save` whole.
        """
        import torch
        from unsloth import FastLanguageModel

        settings, layout = job.settings, job.plan.layout
        if job.device.is_gpu and layout.packing and not give_unsloth_varlen():
            _log.warning(
                "packed rows run one by one through attention on %s, which is slow: set training.execution.packing to "
                "never if it is older than Ampere, else install torch 2.12 or later",
                job.device.label,
            )
        model, tokenizer = FastLanguageModel.from_pretrained(
            str(job.base),
            max_seq_length=_declare_length(job),
            load_in_4bit=settings.load_in_4bit,
            # Few CPUs multiply bf16 in hardware; on the others it is some thirty times slower than fp32.
            dtype=None if job.device.is_gpu else torch.float32,
            offload_embedding=layout.offload_embeddings,
            trust_remote_code=False,
            use_safetensors=True,
            **_choose_attention(job.device),
        )
        if settings.load_in_4bit and not getattr(model, "is_loaded_in_4bit", False):
            _log.warning(
                "the base is trained in 16 bits, not 4: bitsandbytes does not take its layers on %s. Set "
                "training.load_in_4bit: false to say so",
                job.device.label,
            )
        model = _add_adapter(model, job)
        if job.device.is_gpu and not skip_unread_products(model):
            _log.info("layers of this family are computed twice as a whole")
        self.set_checkpointed_layers(model, layout.checkpointed_layers)
        return model, tokenizer

    def settle(self, model: Any, job: Job) -> None:  # noqa: ARG002
        """Undo what making the trainer did: adapters in bf16, and the model left in Unsloth's way to generate."""
        from unsloth import FastLanguageModel

        train_in_float32(model)
        FastLanguageModel.for_training(model)

    def set_checkpointed_layers(self, model: Any, layers: int) -> None:
        """On a GPU any number, the kept ones spread evenly; on the CPU, where Unsloth runs transformers, none or all.

        Raises:
            TrainingError: this Unsloth does not do as it is told.
        """
        import torch

        if torch.cuda.is_available():
            _recompute_layers(model, layers)
        else:
            recompute_all_or_none(model, layers)

    def offload_embeddings(self, model: Any) -> bool:
        """Input embeddings that the output layer shares stay where they are, and so does what is trained."""
        import torch

        if not torch.cuda.is_available():
            return False
        from unsloth.models.vision import offload_spare_embeddings

        return bool(offload_spare_embeddings(model))

    def plain_layers(self, model: Any) -> AbstractContextManager[None]:
        """Without the kernels that take several layers at once."""
        return plain_layers(model)

    def adapt(self, batch: dict[str, Any], device: Device) -> dict[str, Any]:
        """On a GPU, Unsloth's attention is told the lengths of packed rows."""
        if not device.is_gpu:
            return tell_rows(batch, device)
        return {name: tensor.to("cuda", non_blocking=True) for name, tensor in batch.items()}


def _choose_attention(device: Device) -> dict[str, str]:
    """On the CPU Unsloth runs transformers with torch's attention, which leaves out the cap on Gemma 2's scores.

    It would also build a mask of tokens x tokens for packed rows. On a GPU Unsloth chooses best itself.
    """
    return {} if device.is_gpu else {"attn_implementation": register_attention()}


def _declare_length(job: Job) -> int:
    """Tokens of a row that Unsloth is told of.

    Below 512 it would keep checkpoints on the card, whatever the micro-batch: 2 GiB more at 8B and 5,600 tokens (H200).
    More than the base's context would stretch its positions.
    """
    config = read_config(job.base)
    context = (config.get("text_config") or config).get("max_position_embeddings") or job.max_row_tokens
    return max(job.max_row_tokens, min(_OFFLOADED_TOKENS, context))


def _add_adapter(model: Any, job: Job) -> Any:
    from unsloth import FastLanguageModel

    arguments = lora_arguments(model, job.settings)
    try:
        return FastLanguageModel.get_peft_model(
            model,
            **arguments,
            # On a GPU always, so that more layers can be computed twice later; `unsloth` keeps their input on the host.
            use_gradient_checkpointing="unsloth" if job.device.is_gpu else False,
            random_state=job.settings.seed,
        )
    except TypeError as err:
        if "is not allowed" not in str(err):
            raise
        raise TrainingError(
            "training.lora.modules_to_save must be lm_head, embed_tokens or norms with training.backend: unsloth, got "
            f"{', '.join(arguments['modules_to_save'])}. Set training.backend: trl, which also takes "
            "linear layers of a 16-bit base."
        ) from err


def _recompute_layers(model: Any, layers: int) -> None:
    from unsloth import FastLanguageModel
    from unsloth.models._utils import find_decoder_layers, skip_checkpointing

    decoder = find_decoder_layers(model)
    for layer in decoder:
        # What skip_checkpointing sets, and Unsloth's own switches between training and generating leave alone.
        layer.__dict__.pop("_unsloth_skip_checkpoint", None)
    skip_checkpointing(model, len(decoder) - layers)
    was_training = model.training
    FastLanguageModel.for_training(model)
    model.train(was_training)
    found = sum(bool(layer.gradient_checkpointing) for layer in decoder)
    if found != layers:
        raise TrainingError(
            f"Unsloth must compute {layers} of {len(decoder)} layers twice, and would {found}. Set "
            "training.backend: trl, and report the version of unsloth."
        )
