"""The steps of an export that `benchmarks.export` times, each in a process of its own: ours, and what others do.

python -m benchmarks.export_steps STEP JSON     # the fields of `Job`; one JSON object on stdout
"""

from __future__ import annotations

import ctypes
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
from pydantic import BaseModel

from benchmarks.apart import report
from benchmarks.export_inputs import LINEAR, RANK, make_inputs
from ft_pipeline.artifact import Artifact, ArtifactKey, Written
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.durable import sync, sync_tree
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.processes.launcher import run_stage
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.quantization.convert import default_converter
from ft_pipeline.quantization.files import gguf_file_name

NAME, TYPE = "bench", "Q4_K_M"
_BLOCK = 1 << 23
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
    model = FastLanguageModel.get_peft_model(model, r=RANK, target_modules=list(LINEAR), lora_alpha=RANK)
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
    """llama.cpp's quantizer alone, as it is distributed where that was given."""
    if job.llama_baseline:
        os.environ["LLAMA_CPP_LIB_PATH"] = str(job.llama_baseline)
    return _quantize(job, "quantize")


def quantize_same(job: Job) -> dict[str, Any]:
    """The quantizer of the library that ours uses, alone: what is left of our time is our own cost."""
    if not job.llama_baseline:
        return {"skipped": "the same as above"}
    return _quantize(job, "quantize_same")


def _quantize(job: Job, step: str) -> dict[str, Any]:
    import llama_cpp

    job.out(step).mkdir()
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{TYPE}")
    parameters.nthread = len(os.sched_getaffinity(0))
    source, target = job.out("convert") / "f16.gguf", job.out(step) / f"{TYPE}.gguf"
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
        "keeps_bytecode": not sys.dont_write_bytecode,
        "versions": {"python": platform.python_version()} | {name: _find_version(name) for name in _PACKAGES},
    }


def _describe_llama() -> str:
    """What the loaded library was built for: its speed depends on it."""
    import llama_cpp

    flags = str(llama_cpp.llama_print_system_info().decode())
    # A build with another source, but the same flags, is told apart by its hash only.
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    library = next(line.split()[-1] for line in maps.splitlines() if "libggml-base" in line)
    flags = flags.rstrip("| ").replace(" |", ",").replace(" = 1", "")
    return f"libggml-base {hash_file(Path(library))[:12]}, {flags}"


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
    "quantize_same": quantize_same,
    "convert_ours": convert_ours,
    "gguf_ours": gguf_ours,
}
_OTHERS: dict[str, Step] = {
    "inputs": lambda job: make_inputs(job.base, job.adapter, job.shape),
    "machine": describe_machine,
}


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
