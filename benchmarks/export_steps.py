"""The steps of an export that `benchmarks.export` times, each in a process of its own: ours, and what others do.

python -m benchmarks.export_steps STEP JSON     # the fields of `Job`; one JSON object on stdout
"""

from __future__ import annotations

import ctypes
import itertools
import json
import logging
import math
import os
import platform
import shutil
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from benchmarks.apart import report
from ft_pipeline.artifact import Artifact, ArtifactKey, Written
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.durable import sync, sync_tree
from ft_pipeline.finetuning import shapes as known
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.processes.launcher import run_stage
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.quantization.convert import default_converter
from ft_pipeline.quantization.files import gguf_file_name

SHAPES: dict[str, Mapping[str, Any]] = {
    "tiny": {"model_type": "llama", "vocab_size": 2048, "hidden_size": 256, "intermediate_size": 512}
    | {"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
    "1b": known.SHAPES["llama-3.2-1b"],
    "3b": known.SHAPES["llama-3.2-3b"],
    "8b": known.SHAPES["llama-3.1-8b"],
}
NAME, TYPE, RANK = "bench", "Q4_K_M", 16
_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_SHARD_BYTES = 4_000_000_000
_BLOCK = 1 << 23
_RANDOM_VALUES = (1 << 26) + 1
_SPECIAL = ["<unk>", "<s>", "</s>", "<|im_start|>", "<|im_end|>"]
_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_PACKAGES = ("torch", "transformers", "peft", "unsloth", "safetensors", "llama-cpp-python")


class Job(BaseModel):
    """What a step works on.

    Attributes:
        work: Folder of all that the steps read and write.
        converter: llama.cpp's converter; None: where `make setup` put it.
        llama_baseline: Folder of the libraries that the step `quantize` takes; None: the installed ones.
    """

    shape: str
    work: Path
    converter: Path | None = None
    llama_baseline: Path | None = None

    @property
    def base(self) -> Path:
        """The 16-bit base."""
        return self.work / "base"

    @property
    def adapter(self) -> Path:
        """The adapter on it."""
        return self.work / "adapter"

    @property
    def store(self) -> ArtifactStore:
        """Where ours are built, as in the pipeline."""
        return ArtifactStore(self.work / "store")

    def out(self, step: str) -> Path:
        """Folder of what a step writes."""
        return self.work / "store" / step if step in OURS else self.work / step

    def key(self, step: str) -> ArtifactKey:
        """Key of what one of our steps builds."""
        return ArtifactKey(step, {"shape": self.shape}, {})

    def built(self, step: str) -> Path:
        """What one of our steps has built."""
        return self.store.load(step, self.key(step).fingerprint).path


def make_inputs(job: Job) -> dict[str, Any]:
    """A base of random weights in the shape, written shard by shard, and a random adapter; both with a tokenizer."""
    shape = SHAPES[job.shape]
    config = {"architectures": ["LlamaForCausalLM"], "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "dtype": "bfloat16"}
    config |= {"tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 4, "pad_token_id": 2, **shape}
    for folder in (job.base, job.adapter):
        folder.mkdir(parents=True)
        _write_tokenizer(folder, shape["vocab_size"])
    _write_weights(job.base, dict(read_architecture(config).list_tensors()))
    _write_adapter(job, dict(read_architecture(config).list_tensors()))
    (job.base / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    sync_tree(job.work)
    return {}


def _write_weights(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    values = (torch.randn(_RANDOM_VALUES) * 0.02).to(torch.bfloat16)
    shards = list(_fill_shards(shapes))
    places = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {}
        for name in names:
            places[name], shape = file, shapes[name]
            if len(shape) == 1:
                tensors[name] = torch.ones(shape, dtype=torch.bfloat16)
                continue
            # Drawing each value anew would take minutes. No two matrices are alike: a head would be taken for tied.
            size = math.prod(shape)
            repeated = values.roll(len(places)).repeat(-(-size // len(values)))
            tensors[name] = repeated[:size].reshape(shape)
        save_file(tensors, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 2 * sum(map(math.prod, shapes.values()))}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index | {"weight_map": places}), encoding="utf-8")


def _fill_shards(shapes: Mapping[str, tuple[int, ...]]) -> Iterator[list[str]]:
    names, size = list[str](), 0
    for name, shape in shapes.items():
        tensor_bytes = 2 * math.prod(shape)
        if names and size + tensor_bytes > _SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += tensor_bytes
    yield names


def _write_adapter(job: Job, shapes: Mapping[str, tuple[int, ...]]) -> None:
    import torch
    from safetensors.torch import save_file

    tensors = {}
    for name, shape in shapes.items():
        module = name.removesuffix(".weight")
        if module.rpartition(".")[2] in _LINEAR:
            key = f"base_model.model.{module}"
            tensors[f"{key}.lora_A.weight"] = torch.randn(RANK, shape[1]) * shape[1] ** -0.5
            tensors[f"{key}.lora_B.weight"] = torch.randn(shape[0], RANK) * 0.01
    save_file(tensors, job.adapter / "adapter_model.safetensors", metadata={"format": "pt"})
    config: dict[str, Any] = {"peft_type": "LORA"}
    config |= {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(job.base), "bias": "none"}
    config |= {"r": RANK, "lora_alpha": RANK, "lora_dropout": 0.0, "target_modules": _LINEAR, "inference_mode": True}
    (job.adapter / "adapter_config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")


def _write_tokenizer(folder: Path, size: int) -> None:
    """A BPE with byte fallback, which the converter takes without knowing it: all words of up to four letters."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = (
        "".join(word) for length in (1, 2, 3, 4) for word in itertools.product(string.ascii_lowercase, repeat=length)
    )
    fixed = [*_SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    vocabulary = {token: index for index, token in enumerate([*fixed, *itertools.islice(words, size - len(fixed))])}
    pairs = ((word[:cut], word[cut:]) for word in list(vocabulary)[len(fixed) :] for cut in range(1, len(word)))
    tokenizer = Tokenizer(models.BPE(vocabulary, list(pairs), byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    roles = {"bos_token": "<s>", "eos_token": "<|im_end|>", "unk_token": "<unk>", "pad_token": "</s>"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, additional_special_tokens=["<|im_start|>"], **roles)
    fast.chat_template = _TEMPLATE
    fast.save_pretrained(folder)


def copy(job: Job) -> None:
    """The floor: read the shards, write them, flush."""
    out = job.out("copy")
    out.mkdir()
    for shard in sorted(job.base.glob("*.safetensors")):
        with shard.open("rb", buffering=0) as source, (out / shard.name).open("wb", buffering=0) as target:
            shutil.copyfileobj(source, target, _BLOCK)
        sync(out / shard.name)


def merge_by_peft(job: Job) -> None:
    """PEFT's way: the whole model on the CPU."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(job.base, dtype=torch.bfloat16)
    model = PeftModel.from_pretrained(model, job.adapter).merge_and_unload()
    model.half().save_pretrained(job.out("peft"))
    AutoTokenizer.from_pretrained(job.adapter).save_pretrained(job.out("peft"))


def merge_by_unsloth(job: Job) -> dict[str, Any]:
    """Unsloth's way: from the 4-bit model on the GPU. Its loading is not timed: after a training it is there."""
    import torch

    if not torch.cuda.is_available():
        return {"skipped": "not possible on a CPU"}
    os.environ["UNSLOTH_COMPILE_LOCATION"] = str(Path(tempfile.gettempdir(), "unsloth_compiled_cache"))
    from unsloth import FastLanguageModel

    model, tokenizer = FastLanguageModel.from_pretrained(
        str(job.base), max_seq_length=2048, load_in_4bit=True, dtype=torch.bfloat16
    )
    model = FastLanguageModel.get_peft_model(model, r=RANK, target_modules=list(_LINEAR), lora_alpha=RANK)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.01)
    started = time.perf_counter()
    model.save_pretrained_merged(str(job.out("unsloth")), tokenizer, save_method="merged_16bit")
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "gpu_peak_bytes": torch.cuda.max_memory_reserved()}


def merge(job: Job) -> None:
    """Ours, verified, hashed and flushed."""
    from ft_pipeline.merging.merge import MergeRequest

    _build(
        job,
        "merge",
        "ft_pipeline.merging.merge:merge_adapter",
        lambda draft: MergeRequest(base=job.base, adapter=job.adapter, out_dir=draft),
    )


def convert(job: Job) -> None:
    """llama.cpp's converter alone."""
    job.out("convert").mkdir()
    script = (job.converter or default_converter()) / "convert_hf_to_gguf.py"
    command = [sys.executable, str(script), str(job.built("merge")), "--outtype", "f16"]
    subprocess.run([*command, "--outfile", str(job.out("convert") / "f16.gguf")], check=True)


def quantize(job: Job) -> dict[str, Any]:
    """llama.cpp's quantizer alone."""
    if job.llama_baseline:
        os.environ["LLAMA_CPP_LIB_PATH"] = str(job.llama_baseline)
    import llama_cpp

    job.out("quantize").mkdir()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{TYPE}")
    parameters.nthread = len(os.sched_getaffinity(0))
    source, target = job.out("convert") / "f16.gguf", job.out("quantize") / f"{TYPE}.gguf"
    status = llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(parameters))
    if status:
        raise click.ClickException(f"llama_model_quantize gave {status}")
    return {"llama_cpp": _describe_llama()}


def convert_ours(job: Job) -> None:
    """Ours, hashed and flushed."""
    from ft_pipeline.quantization.convert_stage import ConvertRequest

    model = job.built("merge")
    _build(
        job,
        "convert_ours",
        "ft_pipeline.quantization.convert_stage:convert_model",
        lambda draft: ConvertRequest(model=model, name=NAME, out_dir=draft, converter=job.converter),
    )


def gguf_ours(job: Job) -> dict[str, Any]:
    """Ours: quantized, checked as llama.cpp reads it, hashed and flushed."""
    from ft_pipeline.quantization.gguf import GgufRequest
    from ft_pipeline.recipe import QuantizationSection

    f16 = job.built("convert_ours") / gguf_file_name(NAME, "F16")
    model = job.built("merge")
    built = _build(
        job,
        "gguf_ours",
        "ft_pipeline.quantization.gguf:build_gguf",
        lambda draft: GgufRequest(
            f16=f16,
            model=model,
            name=NAME,
            settings=QuantizationSection(types=(TYPE,), lora_gguf=False),
            out_dir=draft,
            converter=job.converter,
        ),
    )
    return {"figures": built.manifest.summary.figures}


def describe_machine(_job: Job) -> dict[str, Any]:
    """What the figures depend on."""
    import torch

    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    memory = Path("/proc/meminfo").read_text(encoding="utf-8")
    return {
        "cpu": next((line.partition(":")[2].strip() for line in cpu.splitlines() if "model name" in line), "unknown"),
        "cores": len(os.sched_getaffinity(0)),
        "ram_gib": round(int(memory.split()[1]) / 2**20),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "llama_cpp": _describe_llama(),
        "versions": {"python": platform.python_version()} | {name: _find_version(name) for name in _PACKAGES},
    }


def _describe_llama() -> str:
    """What the loaded library was built for: its speed depends on it."""
    import llama_cpp

    flags = str(llama_cpp.llama_print_system_info().decode())
    return flags.rstrip("| ").replace(" |", ",").replace(" = 1", "")


def _find_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _build(job: Job, step: str, function: str, request: Callable[[Path], BaseModel]) -> Artifact:
    """As `ArtifactBuilder.build` does it."""
    store, key = job.store, job.key(step)
    reporter = LogReporter(logging.getLogger(step))

    def write(draft: Path) -> Written:
        result = run_stage(function, request(draft), reporter=reporter, log_path=store.log_path(key))
        return Written(result.summary, result.peak_rss_bytes)

    return store.build(key, write)


Step = Callable[[Job], dict[str, Any] | None]
OURS: dict[str, Step] = {"merge": merge, "convert_ours": convert_ours, "gguf_ours": gguf_ours}
# In the order in which each finds what it reads.
STEPS: dict[str, Step] = {
    "copy": copy,
    "peft": merge_by_peft,
    "unsloth": merge_by_unsloth,
    "merge": merge,
    "convert": convert,
    "quantize": quantize,
    "convert_ours": convert_ours,
    "gguf_ours": gguf_ours,
}
_OTHERS: dict[str, Step] = {"inputs": make_inputs, "machine": describe_machine}


@click.command()
@click.argument("step", type=click.Choice([*STEPS, *_OTHERS]))
@click.argument("job", type=Job.model_validate_json)
def main(step: str, job: Job) -> None:
    """Do one step, and report its seconds, what it wrote and how long that still takes to the disk."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    started = time.perf_counter()
    found = (STEPS | _OTHERS)[step](job) or {}
    found = {"seconds": time.perf_counter() - started} | found
    if step in STEPS and job.out(step).is_dir():
        started = time.perf_counter()
        sync_tree(job.out(step))
        files = [path for path in job.out(step).rglob("*") if path.is_file()]
        found |= {
            "flush_seconds": time.perf_counter() - started,
            "size_bytes": sum(path.stat().st_size for path in files),
        }
    report(found)


if __name__ == "__main__":
    main()
