"""Which device trains, found out without touching it: a waiting process must hold none of a GPU's memory."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

from ft_pipeline.errors import EnvironmentMismatch, ResourceError
from ft_pipeline.finetuning import nvidia_smi
from ft_pipeline.finetuning.nvidia_smi import Gpu
from ft_pipeline.finetuning.torch_build import TorchBuild, read_torch_build

CPU = "cpu"
_SETTLE_TRIES, _SETTLE_SECONDS = 20, 0.5

_BF16_CAPABILITY = (8, 0)
# Unsloth's floor (its requirements page); bitsandbytes' is 6.0 (its installation page).
_LEAST_CAPABILITY = (7, 0)
# CUDA 13 compiles for nothing older than Turing (its release notes): torch's builds with it lack kernels for Volta.
_LEAST_CAPABILITY_BY_CUDA = {13: (7, 5)}
# The oldest Linux driver of each CUDA, minor versions being compatible: docs.nvidia.com/deploy/cuda-compatibility.
_LEAST_DRIVER_BY_CUDA = {11: 450, 12: 525, 13: 580}
_ON_CPU = "or FT_PIPELINE_DEVICE=cpu to train on the CPU"
_NO_ROCM = "AMD's cards (ROCm) are not supported: the 4-bit kernels and the lease are for NVIDIA's driver"


@dataclass(frozen=True)
class GpuSettings:
    """How the device may be used: what Dagster's `GpuResource` holds.

    Attributes:
        device: `auto`, `cpu`, or a GPU's index or UUID.
        lock_dir: The machine's folder of device locks.
        vram_limit_bytes: More of the GPU's memory is never taken, what the driver needs included.
        wait_seconds: How long to wait for the device.
    """

    device: str
    lock_dir: Path
    vram_limit_bytes: int | None = None
    wait_seconds: float = 0.0


@dataclass(frozen=True)
class Device:
    """The CPU, or one NVIDIA GPU.

    Attributes:
        name: `cpu`, or the GPU's UUID; the lease goes by it.
        label: What people call it.
        free_bytes: Its memory that nobody uses now.
        compute_capability: What NVIDIA calls the generation; None for the CPU, or if the driver does not say.
        driver_version: Of NVIDIA's driver; empty for the CPU.
        notes: What is unusual about it and no error, for the log.
    """

    name: str
    label: str
    free_bytes: int
    total_bytes: int
    compute_capability: tuple[int, int] | None = None
    driver_version: str = ""
    notes: tuple[str, ...] = ()

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return self.name != CPU

    @property
    def supports_bf16(self) -> bool:
        """Whether it multiplies bf16 in hardware; else a GPU trains in fp16."""
        return self.compute_capability is not None and self.compute_capability >= _BF16_CAPABILITY


def find_device(wanted: str) -> Device:
    """The device to train on, fit for it.

    Args:
        wanted: `auto` (the first visible GPU, else the CPU), `cpu`, or a GPU's index or UUID.

    Raises:
        ResourceError: the GPU that was asked for is not there, is not NVIDIA's or is too old; or the driver fails.
        EnvironmentMismatch: the driver is too old for the installed torch, which may also be one for the CPU.
    """
    if wanted == CPU:
        return _describe_cpu()
    gpus = nvidia_smi.list_gpus()
    if not gpus:
        return _do_without_nvidia(wanted)
    if wanted == "auto":
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        wanted = gpus[0].index if visible is None else visible.split(",")[0].strip()
        if wanted in ("", "-1"):
            return _describe_cpu()
    for gpu in gpus:
        if wanted == gpu.index or gpu.uuid.startswith(wanted):
            _require_fit(gpu, read_torch_build())
            return _describe_gpu(gpu)
    known = ", ".join(f"{gpu.index}: {gpu.name} {gpu.uuid}" for gpu in gpus)
    raise ResourceError(
        f"the device must be 'cpu', 'auto' or a GPU of this machine, got '{wanted}'. GPUs here: {known}."
    )


def find_settled(device: Device) -> Device:
    """The device as it is now, not when waiting began; the one before us may still be giving its memory back."""
    now = find_device(device.name)
    for _ in range(_SETTLE_TRIES if device.is_gpu else 0):
        time.sleep(_SETTLE_SECONDS)
        before, now = now, find_device(device.name)
        if now.free_bytes <= before.free_bytes:
            break
    return now


def _do_without_nvidia(wanted: str) -> Device:
    build = read_torch_build()
    uses_rocm = bool(shutil.which("rocm-smi") or (build and build.is_rocm))
    if wanted != "auto" or uses_rocm:
        reason = f" {_NO_ROCM}." if uses_rocm or _has_amd_card() else ""
        raise ResourceError(
            f"the device must be 'cpu' or an NVIDIA GPU that its driver shows, got '{wanted}'; NVIDIA GPUs here: none."
            f"{reason} Check nvidia-smi, {_ON_CPU}."
        )
    # A processor's built-in graphics are one too, and no reason to refuse the demo.
    return _describe_cpu((f"{_NO_ROCM}; training runs on the CPU",) if _has_amd_card() else ())


def _has_amd_card() -> bool:
    return Path("/dev/kfd").exists()


def _require_fit(gpu: Gpu, build: TorchBuild | None) -> None:
    if build is None:
        return
    if build.is_cpu_only or build.is_rocm:
        kind = "ROCm" if build.is_rocm else "the CPU alone"
        raise EnvironmentMismatch(
            f"torch must be a CUDA build to use {gpu.name}, torch {build.version} is one for {kind}. "
            f"Run make clean setup TORCH_BACKEND=auto, {_ON_CPU}."
        )
    if build.cuda:
        _require_capability(gpu, build.cuda)
        _require_driver(gpu, build.cuda)


def _require_capability(gpu: Gpu, cuda: tuple[int, int]) -> None:
    least = _LEAST_CAPABILITY_BY_CUDA.get(cuda[0], _LEAST_CAPABILITY)
    found = gpu.compute_capability
    if found is None or found >= least:
        return
    older = (
        f"Install torch for an older CUDA: make clean setup TORCH_BACKEND=cu126, {_ON_CPU}."
        if found >= _LEAST_CAPABILITY
        else f"Take a newer card, {_ON_CPU}."
    )
    raise ResourceError(
        f"the GPU's compute capability must be {_dotted(least)} or more for 4-bit training with torch for CUDA "
        f"{_dotted(cuda)}, {gpu.name} has {_dotted(found)}. {older}"
    )


def _require_driver(gpu: Gpu, cuda: tuple[int, int]) -> None:
    runs = nvidia_smi.read_cuda_version()
    least = _LEAST_DRIVER_BY_CUDA.get(cuda[0], 0)
    major = gpu.driver_version.split(".")[0]
    # Minor versions of CUDA are compatible. What the driver says wins: a compatibility package may have raised it.
    is_new_enough = runs[0] >= cuda[0] if runs else not major.isdigit() or int(major) >= least
    if not is_new_enough:
        shown = f", which runs CUDA up to {_dotted(runs)}" if runs else ""
        raise EnvironmentMismatch(
            f"the NVIDIA driver must be {least} or newer for torch's CUDA {_dotted(cuda)}, it is {gpu.driver_version}"
            f"{shown}. Update the driver, or install torch for its CUDA: make clean setup TORCH_BACKEND=auto."
        )


def _describe_gpu(gpu: Gpu) -> Device:
    capability = gpu.compute_capability
    notes: tuple[str, ...] = ()
    if capability and capability < _BF16_CAPABILITY:
        notes = (f"{gpu.name} has no bf16 (compute capability {_dotted(capability)}, bf16 needs 8.0): fp16 is used",)
    shared_free, shared_total = _measure_memory()
    return Device(
        name=gpu.uuid,
        label=gpu.name,
        free_bytes=shared_free if gpu.free_bytes is None else gpu.free_bytes,
        total_bytes=shared_total if gpu.total_bytes is None else gpu.total_bytes,
        compute_capability=capability,
        driver_version=gpu.driver_version,
        notes=notes,
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def _describe_cpu(notes: tuple[str, ...] = ()) -> Device:
    free, total = _measure_memory()
    return Device(CPU, f"CPU, {len(os.sched_getaffinity(0))} cores", free, total, notes=notes)


def _measure_memory() -> tuple[int, int]:
    """Bytes of the machine's memory: available, and in all."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return _available_bytes() or total, total


def _available_bytes() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:  # noqa: PTH123 - no file on a disk
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["MemAvailable"].split()[0]) << 10
    except (OSError, KeyError):
        return None
