from __future__ import annotations

import os
from pathlib import Path

import pytest

from ft_pipeline.finetuning.neighbours import Neighbour, describe_neighbours, list_neighbours
from ft_pipeline_tests.finetuning.fake_driver import UUID, FakeDriver, make_driver

_PROCESS = """\
        GPU instance ID                   : N/A
        Compute instance ID               : N/A
        Process ID                        : {pid}
            Type                          : {type}
            Name                          : {name}
            Used GPU Memory               : {memory}
"""
_QUERY = """\

==============NVSMI LOG==============

Timestamp                                 : Wed Nov 25 07:00:00 2026
Driver Version                            : 580.82.07
CUDA Version                              : 13.0

Attached GPUs                             : 1
GPU 00000000:01:00.0
    Processes{processes}
"""


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    return make_driver(tmp_path / "bin", monkeypatch)


def _show(driver: FakeDriver, used_mib: str, *processes: tuple[int, str, str]) -> None:
    shown = "".join(_PROCESS.format(pid=pid, type="C", name=name, memory=memory) for pid, name, memory in processes)
    card = f"0, {UUID}, NVIDIA GeForce RTX 4090, 12000, {used_mib}, 24564, 580.82.07, 8.9"
    driver.show(card, processes=_QUERY.format(processes=f"\n{shown}" if shown else "                         : None"))


def test_strangers_on_the_card_are_named_with_their_memory_the_largest_first(driver: FakeDriver) -> None:
    _show(driver, "7100", (812, "/usr/lib/xorg/Xorg", "312 MiB"), (4711, "/usr/local/bin/ollama runner", "6402 MiB"))
    found = list_neighbours(UUID)
    assert found == [
        Neighbour(4711, "/usr/local/bin/ollama runner", 6402 << 20),
        Neighbour(812, "/usr/lib/xorg/Xorg", 312 << 20),
    ]
    assert describe_neighbours(found) == [
        "the card is shared: 6,402 MiB of its memory is held by /usr/local/bin/ollama runner (process 4711). "
        "`ollama stop MODEL` frees it.",
        "the card is shared: 312 MiB of its memory is held by /usr/lib/xorg/Xorg (process 812).",
    ]


def test_a_card_of_our_own_has_no_neighbours(driver: FakeDriver) -> None:
    _show(driver, "900", (os.getpid(), "python", "500 MiB"))
    assert list_neighbours(UUID) == []
    _show(driver, "600")
    assert list_neighbours(UUID) == []


def test_memory_that_no_process_here_accounts_for_is_somebody_elses(driver: FakeDriver) -> None:
    _show(driver, "9000", (4711, "python", "2000 MiB"))
    assert describe_neighbours(list_neighbours(UUID))[0] == (
        "the card is shared: 7,000 MiB of its memory is held by processes that cannot be seen from here."
    )


def test_a_driver_that_does_not_say_how_much_names_the_process_alone(driver: FakeDriver) -> None:
    _show(driver, "9000", (4711, "game\x1b[2J", "N/A"))
    found = list_neighbours(UUID)
    assert found == [Neighbour(4711, "game[2J", None)]
    assert describe_neighbours(found) == [
        "the card is shared: an unknown share of its memory is held by game[2J (process 4711)."
    ]


def test_the_cpu_and_a_machine_without_a_driver_have_no_neighbours(driver: FakeDriver) -> None:
    assert list_neighbours(UUID) == []
    driver.fail(1, "asked though it should not be")
    assert list_neighbours("cpu") == []


def test_a_driver_that_fails_names_nobody(driver: FakeDriver) -> None:
    driver.fail(255, "Unknown Error")
    assert list_neighbours(UUID) == []
