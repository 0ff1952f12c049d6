from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from ft_pipeline.errors import EnvironmentMismatch, ResourceError
from ft_pipeline.finetuning import device as device_module
from ft_pipeline.finetuning.device import CPU, find_device
from ft_pipeline.finetuning.torch_build import TorchBuild, read_torch_build
from ft_pipeline_tests.finetuning.fake_driver import RTX_4090, UUID, FakeDriver, make_driver

_CUDA_13 = TorchBuild("2.13.0+cu130", (13, 0), is_rocm=False)
_CUDA_12 = TorchBuild("2.13.0+cu126", (12, 6), is_rocm=False)
_SECOND = "1, GPU-99990000-aaaa, NVIDIA H200, 140000, 3000, 143771, 580.82.07, 9.0"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    _install(monkeypatch, _CUDA_13)
    monkeypatch.setattr(device_module, "_has_amd_card", lambda: False)
    return make_driver(tmp_path / "bin", monkeypatch)


def _install(monkeypatch: pytest.MonkeyPatch, build: TorchBuild | None) -> None:
    monkeypatch.setattr(device_module, "read_torch_build", lambda: build)


def _card(capability: str, driver_version: str = "580.82.07") -> str:
    return f"0, {UUID}, NVIDIA Card, 23000, 1064, 24564, {driver_version}, {capability}"


def test_a_card_is_known_by_its_uuid_with_its_generation_and_driver(driver: FakeDriver) -> None:
    driver.show(RTX_4090)
    found = find_device("auto")
    assert (found.name, found.label, found.is_gpu) == (UUID, "NVIDIA GeForce RTX 4090", True)
    assert (found.free_bytes, found.total_bytes) == (23000 << 20, 24564 << 20)
    assert (found.compute_capability, found.driver_version) == ((8, 9), "580.82.07")
    assert found.supports_bf16
    assert found.notes == ()


@pytest.mark.parametrize("wanted", ["1", "GPU-99990000-aaaa", "GPU-9999"])
def test_a_card_is_asked_for_by_index_or_uuid(driver: FakeDriver, wanted: str) -> None:
    driver.show(RTX_4090, _SECOND)
    assert find_device(wanted).label == "NVIDIA H200"


@pytest.mark.parametrize(
    ("visible", "label"), [("1,0", "NVIDIA H200"), ("GPU-5e1a", "NVIDIA GeForce RTX 4090"), ("", "CPU"), ("-1", "CPU")]
)
def test_auto_takes_the_first_visible_card(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, visible: str, label: str
) -> None:
    driver.show(RTX_4090, _SECOND)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_device("auto").label.startswith(label)


def test_a_card_that_is_not_there_is_an_error_that_lists_those_that_are(driver: FakeDriver) -> None:
    driver.show(RTX_4090)
    with pytest.raises(ResourceError, match=rf"got '7'\. GPUs here: 0: NVIDIA GeForce RTX 4090 {UUID}"):
        find_device("7")


@pytest.mark.usefixtures("driver")
def test_without_a_driver_auto_is_the_cpu_and_a_card_is_an_error() -> None:
    found = find_device("auto")
    assert (found.name, found.supports_bf16, found.notes) == (CPU, False, ())
    assert 0 < found.free_bytes <= found.total_bytes
    with pytest.raises(ResourceError, match=r"got '0'; NVIDIA GPUs here: none\. Check nvidia-smi"):
        find_device("0")


def test_the_cpu_can_be_asked_for_on_a_machine_with_a_card(driver: FakeDriver) -> None:
    driver.show(RTX_4090)
    assert find_device("cpu").name == CPU


@pytest.mark.parametrize(
    "said", ["No devices were found", "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."]
)
def test_a_driver_without_a_card_is_no_card(driver: FakeDriver, said: str) -> None:
    driver.fail(9, said)
    assert find_device("auto").name == CPU


def test_a_driver_of_two_versions_is_an_error(driver: FakeDriver) -> None:
    driver.fail(18, "Failed to initialize NVML: Driver/library version mismatch\nNVML library version: 580.82\n")
    with pytest.raises(EnvironmentMismatch, match=r"of two.*NVML library version: 580\.82 Restart the machine"):
        find_device("auto")


def test_a_driver_that_fails_otherwise_is_an_error_with_its_words(driver: FakeDriver) -> None:
    driver.fail(255, "Unable to determine the device handle for GPU0000:01:00.0: Unknown Error")
    with pytest.raises(ResourceError, match=r"must answer and fails\. nvidia-smi: Unable to determine the device"):
        find_device("auto")


def test_a_driver_that_hangs_is_an_error(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    driver.show(RTX_4090)
    monkeypatch.setattr("ft_pipeline.finetuning.nvidia_smi._ANSWER_SECONDS", 0.001)
    with pytest.raises(ResourceError, match="did not: the driver hangs"):
        find_device("auto")


def test_an_answer_of_another_shape_is_an_error(driver: FakeDriver) -> None:
    driver.show("0, GPU-1")
    with pytest.raises(ResourceError, match=r"must name a card in 8 fields, got '0, GPU-1'"):
        find_device("auto")


def test_a_driver_that_does_not_know_the_compute_capability_is_asked_without(driver: FakeDriver) -> None:
    unknown = 'Field "compute_cap" is not a valid field to query.\n'
    driver.answer(
        ("compute_cap", (2, unknown, "")),
        ("--query-gpu", (0, f"0, {UUID}, Tesla T4, 15000, 100, 15109, 580.1\n", "")),
        ("", (0, "CUDA Version: 13.0", "")),
    )
    found = find_device("auto")
    assert (found.label, found.compute_capability, found.supports_bf16) == ("Tesla T4", None, False)


def test_a_card_that_shares_the_machines_memory_has_what_is_free_of_it(driver: FakeDriver) -> None:
    driver.show(f"0, {UUID}, NVIDIA GB10, [N/A], [N/A], [N/A], 580.95.05, 12.1")
    found = find_device("auto")
    assert 0 < found.free_bytes <= found.total_bytes


def test_a_card_without_bf16_is_noted_and_no_error(driver: FakeDriver) -> None:
    driver.show(_card("7.5"))
    found = find_device("auto")
    assert not found.supports_bf16
    assert found.notes == ("NVIDIA Card has no bf16 (compute capability 7.5, bf16 needs 8.0): fp16 is used",)


@pytest.mark.parametrize(
    ("build", "capability", "message"),
    [
        (_CUDA_13, "6.1", r"must be 7\.5 or more .* for CUDA 13\.0, NVIDIA Card has 6\.1\. Take a newer card"),
        (_CUDA_12, "6.1", r"must be 7\.0 or more .* for CUDA 12\.6, NVIDIA Card has 6\.1\. Take a newer card"),
        (_CUDA_13, "7.0", r"must be 7\.5 or more .* has 7\.0\. Install torch .*TORCH_BACKEND=cu126"),
    ],
)
def test_a_card_that_is_too_old_is_an_error(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, build: TorchBuild, capability: str, message: str
) -> None:
    _install(monkeypatch, build)
    driver.show(_card(capability))
    with pytest.raises(ResourceError, match=message):
        find_device("auto")


def test_an_older_card_trains_with_torch_for_an_older_cuda(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, _CUDA_12)
    driver.show(_card("7.0"))
    assert find_device("auto").compute_capability == (7, 0)


def test_a_driver_older_than_torchs_cuda_is_an_error(driver: FakeDriver) -> None:
    driver.show(_card("8.9", "550.54.15"), cuda="12.4")
    with pytest.raises(
        EnvironmentMismatch,
        match=r"must be 580 or newer for torch's CUDA 13\.0, it is 550\.54\.15, which runs CUDA up to 12\.4\. Update",
    ):
        find_device("auto")


def test_a_newer_minor_version_of_cuda_runs_on_the_driver(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    _install(monkeypatch, TorchBuild("2.13.0+cu129", (12, 9), is_rocm=False))
    driver.show(_card("8.9", "550.54.15"), cuda="12.4")
    assert find_device("auto").is_gpu


@pytest.mark.parametrize(("version", "fits"), [("580.65.06", True), ("575.57.08", False), ("unknown", True)])
def test_a_driver_that_names_no_cuda_is_judged_by_its_version(driver: FakeDriver, version: str, fits: bool) -> None:
    driver.show(_card("8.9", version), cuda="N/A")
    if fits:
        assert find_device("auto").driver_version == version
    else:
        with pytest.raises(EnvironmentMismatch, match=r"it is 575\.57\.08\. Update the driver"):
            find_device("auto")


@pytest.mark.parametrize(
    ("build", "kind"),
    [(TorchBuild("2.13.0+cpu", None, is_rocm=False), "the CPU alone"), (TorchBuild("2.13.0", None, True), "ROCm")],
)
def test_a_card_with_a_torch_that_cannot_use_it_is_an_error(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch, build: TorchBuild, kind: str
) -> None:
    _install(monkeypatch, build)
    driver.show(RTX_4090)
    with pytest.raises(EnvironmentMismatch, match=rf"is one for {kind}\. Run make clean setup TORCH_BACKEND=auto"):
        find_device("auto")


def test_a_machine_with_rocm_is_told_that_it_is_not_supported(
    driver: FakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.folder.mkdir()
    (driver.folder / "rocm-smi").touch(0o755)
    with pytest.raises(ResourceError, match=r"got 'auto'.*\(ROCm\) are not supported.*FT_PIPELINE_DEVICE=cpu"):
        find_device("auto")
    assert find_device("cpu").name == CPU
    (driver.folder / "rocm-smi").unlink()
    _install(monkeypatch, TorchBuild("2.13.0+rocm7.0", None, is_rocm=True))
    with pytest.raises(ResourceError, match=r"\(ROCm\) are not supported"):
        find_device("auto")


@pytest.mark.usefixtures("driver")
def test_built_in_amd_graphics_leave_the_cpu_with_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_module, "_has_amd_card", lambda: True)
    assert "(ROCm) are not supported" in find_device("auto").notes[0]
    with pytest.raises(ResourceError, match=r"NVIDIA GPUs here: none\. AMD's cards \(ROCm\) are not supported"):
        find_device("0")


@pytest.mark.parametrize(
    ("cuda", "hip", "build"),
    [
        ("'13.0'", "None", TorchBuild("2.13.0+x", (13, 0), is_rocm=False)),
        ("None", "None", TorchBuild("2.13.0+x", None, is_rocm=False)),
        ("None", "'7.0.1'", TorchBuild("2.13.0+x", None, is_rocm=True)),
    ],
)
def test_the_build_of_torch_is_read_from_its_file(tmp_path: Path, cuda: str, hip: str, build: TorchBuild) -> None:
    (tmp_path / "version.py").write_text(
        f"from typing import Optional\n__version__ = '2.13.0+x'\ndebug = False\ncuda: Optional[str] = {cuda}\n"
        f"git_version = 'cf30'\nhip: Optional[str] = {hip}\n"
    )
    assert read_torch_build(tmp_path) == build
    assert build.is_cpu_only == (cuda == hip)


def test_the_installed_build_of_torch_is_read_without_importing_it() -> None:
    build = read_torch_build()
    assert build is not None
    assert build.version.split("+")[0] == importlib.metadata.version("torch").split("+")[0]


def test_a_torch_that_does_not_say_what_it_is(tmp_path: Path) -> None:
    assert read_torch_build(tmp_path) is None
    (tmp_path / "version.py").write_text("# nothing\n")
    assert read_torch_build(tmp_path) is None
