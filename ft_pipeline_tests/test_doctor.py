from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline import doctor
from ft_pipeline.doctor import examine
from ft_pipeline.finetuning import device as device_module
from ft_pipeline.finetuning.torch_build import TorchBuild
from ft_pipeline.operations.finding import Finding
from ft_pipeline_tests.finetuning.fake_driver import RTX_4090, FakeDriver, make_driver

_PROCESSES = "Process ID : 4711\n Type : C\n Name : ollama\n Used GPU Memory : 900 MiB\n"


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    monkeypatch.setattr(device_module, "read_torch_build", lambda: TorchBuild("2.13.0+cu130", (13, 0), is_rocm=False))
    return make_driver(tmp_path / "bin", monkeypatch)


def _examine(project: Path, folder: Path, device: str = "auto") -> dict[str, Finding]:
    return {finding.subject: finding for finding in examine(project, "demo", folder, device)}


def test_a_card_is_shown_with_what_decides_whether_it_trains(driver: FakeDriver, project: Path, tmp_path: Path) -> None:
    driver.show(RTX_4090, processes=_PROCESSES)
    found = _examine(project, tmp_path)
    assert found["device"] == Finding(
        "device",
        "NVIDIA GeForce RTX 4090, 22.5 of 24.0 GiB free, driver 580.82.07, compute capability 8.9, bf16",
    )
    assert "900 MiB of its memory is held by ollama (process 4711)" in found["others on the card"].state


def test_a_card_that_does_not_fit_comes_with_a_fix(driver: FakeDriver, project: Path, tmp_path: Path) -> None:
    driver.show(RTX_4090, cuda="12.4")
    found = _examine(project, tmp_path)
    assert "must be 580 or newer for torch's CUDA 13.0" in found["device"].state
    assert found["device"].fix
    assert "others on the card" not in found


@pytest.mark.usefixtures("driver")
def test_a_machine_without_a_card_trains_on_its_processor(project: Path, tmp_path: Path) -> None:
    found = _examine(project, tmp_path, "cpu")
    assert found["device"].state.startswith("CPU, ")
    assert found["device"].fix == ""
    assert found["torch"].state.startswith("2.")
    assert found["recipe demo"].fix == ""


def test_what_breaks_a_look_off_is_a_finding_and_the_rest_is_looked_at(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_folder: Path) -> Finding:
        raise PermissionError(13, "Permission denied", "postgresql://ops:hunter2@host/locks")

    monkeypatch.setattr(doctor, "examine_locks", fail)
    found = _examine(project, tmp_path)
    assert found["locks of devices"].fix
    assert "it cannot be looked at: PermissionError" in found["locks of devices"].state
    assert "hunter2" not in found["locks of devices"].state
    assert "artifact store" in found


def test_who_is_told_of_runs_is_shown_without_addresses(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_PIPELINE_ALERT_WEBHOOK", "https://hooks.example.org/T0P-S3CRET")
    found = _examine(project, tmp_path)["alerts"]
    assert (found.fix, found.state.partition(";")[0]) == ("", "webhook: failure, promotion")
    assert "S3CRET" not in found.state
    monkeypatch.setenv("FT_PIPELINE_ALERT_WEBHOOK", "hooks.example.org/T0P-S3CRET")
    found = _examine(project, tmp_path)["alerts"]
    assert found.fix
    assert "S3CRET" not in found.state
