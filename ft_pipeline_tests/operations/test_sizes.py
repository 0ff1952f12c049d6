from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from ft_pipeline.__main__ import main
from ft_pipeline.operations.sizes import measure_store, render_columns
from ft_pipeline_tests.test_retention import Machine


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A store with a champion, four later runs, and one that goes on."""
    machine = Machine(tmp_path / "store")
    machine.publish(machine.run(0))
    for number in range(1, 6):
        machine.run(number)
    return machine


def test_each_kind_is_there_with_its_size_by_the_reason_why_it_stays(machine: Machine) -> None:
    held = machine.runs.hold("mine-1")
    rows = {row.name: row for row in measure_store(machine.store.root, machine.collect(dry_run=True))}
    os.close(held)
    one = rows["gguf_model"].kept_bytes["published"]
    assert rows["gguf_model"].count == 6
    assert rows["gguf_model"].kept_bytes == {"published": one, "last runs": 2 * one, "live run": one, "new": 0}
    assert rows["gguf_model"].going_bytes == 2 * one
    assert rows["gguf_model"].total_bytes == 6 * one
    assert rows["merged_model"].kept_bytes["published"] == 0, "of 16 bits nothing is published"
    assert rows["_runs"].total_bytes > 0


def test_what_goes_but_has_another_name_that_stays_gives_nothing_back(machine: Machine) -> None:
    judged = machine.collect(dry_run=True).judged
    gone = next(one.artifact for one in judged if one.reason is None)
    kept = next(one.artifact for one in judged if one.reason is not None)
    before = machine.collect(dry_run=True).freed_bytes
    (gone.path / "file").unlink()
    os.link(kept.path / "file", gone.path / "file")
    assert machine.collect(dry_run=True).freed_bytes == before - len("12345")


def test_the_command_shows_the_table_first_and_removes_only_without_dry_run(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(machine.store.root))
    before = machine.count_bytes()
    shown = CliRunner().invoke(main, ["gc", "--dry-run"], catch_exceptions=False).output
    assert machine.count_bytes() == before
    assert "would go: gguf_model/" in shown
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["evaluation_report", "gguf_model", "merged_model"]
    done = CliRunner().invoke(main, ["gc"], catch_exceptions=False).output
    assert done.splitlines()[:5] == shown.splitlines()[:5], "the table is of before"
    assert done.splitlines()[-1].split()[0] == shown.splitlines()[-1].split()[0]
    assert machine.count_bytes() < before
    assert "gone" not in CliRunner().invoke(main, ["gc"], catch_exceptions=False).output


def test_a_dry_run_shows_what_killed_writers_have_left_and_the_real_one_counts_it(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.collect()
    store = machine.store.root
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(store))
    forsaken, other = (f"_checkpoints/trained_adapter-{digit * 24}" for digit in "ab")
    left = {"gguf_model/.00ff.draft-aabb": 3, forsaken: 2, f"{other}/scratch-1": 1}
    for name, mebibytes in left.items():
        (store / name).mkdir(parents=True)
        (store / name / "file").write_bytes(bytes(mebibytes << 20))
    os.utime(store / forsaken, (0, 0))
    for words, said in ((["gc", "--dry-run"], "would go"), (["gc"], "gone")):
        shown = CliRunner().invoke(main, words, catch_exceptions=False).output
        assert {line for line in shown.splitlines() if line.startswith(said)} == {f"{said}: {name}" for name in left}
        cells = {line.split()[0]: line.split()[-1] for line in shown.splitlines()}
        assert (cells["drafts"], cells["_checkpoints"], cells["all"]) == ("3.0", "3.0", "6.0")
        assert shown.splitlines()[-1].startswith("6.0 MiB")
    assert not any((store / name).exists() for name in left)


def test_what_lies_behind_links_is_not_the_stores(machine: Machine, tmp_path: Path) -> None:
    before = measure_store(machine.store.root, machine.collect(dry_run=True))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/.hidden").write_text("12345")
    for name in ("linked", "_linked"):
        (machine.store.root / name).symlink_to(tmp_path / "elsewhere")
    assert measure_store(machine.store.root, machine.collect(dry_run=True)) == before


def test_columns_are_ranged_right_but_for_the_first() -> None:
    assert render_columns([["", "MiB"], ["gguf", "1.5"], ["all", "12345.0"]]) == [
        "          MiB",
        "gguf      1.5",
        "all   12345.0",
    ]


def test_what_does_not_read_is_in_the_table_too(machine: Machine) -> None:
    lost = machine.store.root / "gguf_model" / ("a" * 24)
    lost.mkdir()
    (lost / "model.gguf").write_bytes(bytes(3 << 20))
    rows = {row.name: row for row in measure_store(machine.store.root, machine.collect(dry_run=True))}
    assert (rows["do not read"].count, rows["do not read"].total_bytes, rows["do not read"].going_bytes) == (
        1,
        3 << 20,
        0,
    )
