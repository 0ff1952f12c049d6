from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from ft_pipeline.__main__ import main
from ft_pipeline.artifact import ArtifactKey, Written
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.base_model import BaseModel
from ft_pipeline.errors import ArtifactError, CorruptArtifact, ResourceError
from ft_pipeline.publishing.alias import JudgedModel, alias_folder, read_state, write_state
from ft_pipeline.publishing.history import promote, reject
from ft_pipeline.recipe import Recipe
from ft_pipeline.retention import Collected, collect_garbage
from ft_pipeline.run_record import RunFolder, RunRecord
from ft_pipeline.summary import Summary

ASSETS = ("trained_adapter", "merged_model", "gguf_model")
TODAY = datetime.now(UTC)


def _recipe(name: str, keep_last: int, keep_champions: int) -> Recipe:
    return Recipe.model_validate(
        {
            "name": name,
            "base_model": {"source": "base"},
            "dataset": {"sources": ["data/*.jsonl"]},
            "retention": {"keep_last": keep_last, "keep_champions": keep_champions},
        }
    )


class Machine:
    """A store, and runs that leave something on it."""

    def __init__(self, root: Path) -> None:
        self.store, self.runs = ArtifactStore(root), RunFolder(root)

    def run(
        self,
        number: int,
        recipe: str = "mine",
        *,
        days_ago: float = 0,
        keep_last: int = 2,
        keep_champions: int = 2,
    ) -> str:
        """A run that makes an adapter, merges and quantizes it.

        Returns:
            The fingerprint of its GGUF.
        """
        key: ArtifactKey | None = None
        made = []
        for asset in ASSETS:
            key = ArtifactKey(asset, {"of": [recipe, number]}, {key.asset: key.fingerprint} if key else {})
            self.store.build(key, _write)
            made.append((asset, key.fingerprint))
        record = RunRecord(
            recipe=_recipe(recipe, keep_last, keep_champions),
            data=(),
            base=BaseModel("base", Path("base"), "id"),
            generations={},
            began_at=TODAY - timedelta(days=days_ago) + timedelta(seconds=number),
            artifacts=tuple(made),
        )
        self.runs.write(f"{recipe}-{number}", record)
        return made[-1][1]

    def left(self, asset: str) -> set[tuple[str, int]]:
        """Recipe and number of the runs whose artifacts of this kind are there."""
        found = [a.manifest for a in self.store.list_artifacts() if a.manifest.asset == asset]
        return {(manifest.ingredients["of"][0], manifest.ingredients["of"][1]) for manifest in found}

    def left_reports(self) -> set[str]:
        """The GGUFs whose reports are there."""
        found = [a.manifest for a in self.store.list_artifacts() if a.manifest.asset == "evaluation_report"]
        return {manifest.upstream["gguf_model"] for manifest in found}

    def publish(self, gguf: str, recipe: str = "mine", *, score: float = 0.5, is_rejected: bool = False) -> None:
        """Make a GGUF the champion of a recipe, or the challenger; its run has made a report on it."""
        aliases = alias_folder(self.store.root)
        state = read_state(aliases, recipe)
        key = ArtifactKey("evaluation_report", {"of": [recipe, gguf]}, {"gguf_model": gguf})
        self.store.build(key, _write)
        for run in self.runs.list_runs():
            record = self.runs.read(run.id)
            if record and ("gguf_model", gguf) in record.artifacts:
                made = (*record.artifacts, (key.asset, key.fingerprint))
                self.runs.write(run.id, record.model_copy(update={"artifacts": made}))
        model = JudgedModel(
            gguf_model=gguf,
            evaluation_report=key.fingerprint,
            against=state.champion.gguf_model if state.champion else None,
            since=TODAY,
            score=score,
        )
        is_best = state.best is None or score > (state.best.score or 0)
        if is_rejected:
            state = reject(state, model, "run", "reason")
        else:
            state = promote(state, model, "run", "reason", is_best=is_best)
        write_state(aliases, recipe, state)

    def count_bytes(self) -> int:
        """Size of all artifacts, with their manifests."""
        return sum(path.stat().st_size for path in self.store.root.glob("[a-z]*/*/*"))

    def collect(self, *, dry_run: bool = False, keep_last: int | None = None) -> Collected:
        """Apply the rule."""
        return collect_garbage(self.store, dry_run=dry_run, keep_last=keep_last)


def _write(draft: Path) -> Written:
    (draft / "file").write_text("12345")
    return Written(Summary())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "store")


def test_the_champion_and_the_last_runs_stay(machine: Machine) -> None:
    ggufs = [machine.run(number) for number in range(5)]
    machine.publish(ggufs[0])
    dry, before = machine.collect(dry_run=True), machine.count_bytes()
    assert machine.left("gguf_model") == {("mine", number) for number in range(5)}
    assert machine.collect() == dry
    assert machine.left("gguf_model") == {("mine", 0), ("mine", 3), ("mine", 4)}
    assert machine.left("merged_model") == {("mine", 4)}, "16-bit weights go first"
    assert dry.freed_bytes == before - machine.count_bytes() > 8 * len("12345")


@pytest.mark.parametrize(
    ("keep_champions", "kept"),
    [(0, {0, 3, 4, 5, 9}), (1, {0, 3, 4, 5, 9}), (2, {0, 2, 3, 4, 5, 9}), (9, {0, 1, 2, 3, 4, 5, 9})],
)
def test_champion_best_challenger_and_the_last_earlier_champions_stay(
    machine: Machine, keep_champions: int, kept: set[int]
) -> None:
    ggufs = [machine.run(n, keep_last=1, keep_champions=keep_champions) for n in range(10)]
    for number, score in ((0, 0.9), (1, 0.1), (2, 0.2), (3, 0.3), (4, 0.4)):
        machine.publish(ggufs[number], score=score)
    machine.publish(ggufs[5], is_rejected=True)
    machine.collect()
    if keep_champions == 0:
        assert machine.left_reports() == {ggufs[0], ggufs[4], ggufs[5]}, "of 3 the files alone, which 4 was scored with"
    else:
        assert machine.left_reports() == {ggufs[number] for number in kept if number != 9}
    assert machine.left("gguf_model") == {("mine", number) for number in kept}
    assert machine.left("trained_adapter") == {("mine", number) for number in kept}
    assert machine.left("merged_model") == {("mine", 9)}


def test_what_champions_are_made_of_stays_though_the_weights_between_are_gone_for_long(machine: Machine) -> None:
    ggufs = [machine.run(number, keep_last=1) for number in range(3)]
    for gguf in ggufs[:2]:
        machine.publish(gguf)
    for number in range(3, 6):
        machine.run(number, keep_last=1)
        machine.collect()
    assert machine.left("merged_model") == {("mine", 5)}
    assert machine.left("trained_adapter") == {("mine", 0), ("mine", 1), ("mine", 5)}


def test_traces_of_what_was_removed_go_with_what_they_lead_to(machine: Machine) -> None:
    for number in range(6):
        machine.run(number, keep_last=1)
        machine.collect()
    left = machine.store.root / "_traces"
    assert list(left.iterdir()) == [], "nothing that is there was made of anything that is gone"


def test_how_many_earlier_champions_stay_is_what_the_newest_run_of_the_recipe_says(machine: Machine) -> None:
    ggufs = [machine.run(number, keep_last=1, keep_champions=9 if number < 5 else 1) for number in range(6)]
    for gguf in ggufs[:4]:
        machine.publish(gguf)
    machine.collect()
    assert machine.left("gguf_model") == {("mine", number) for number in (0, 2, 3, 5)}


def test_each_recipe_has_its_own_last_runs(machine: Machine) -> None:
    for number in range(3):
        machine.run(number, "rare", keep_last=1)
    for number in range(10, 14):
        machine.run(number, "frequent", keep_last=2)
    machine.collect()
    assert machine.left("gguf_model") == {("rare", 2), ("frequent", 12), ("frequent", 13)}


def test_what_a_live_run_needs_stays_however_old_it_is(machine: Machine) -> None:
    for number in range(5):
        machine.run(number)
    waiting = machine.runs.hold("mine-0")
    machine.collect()
    assert ("mine", 0) in machine.left("gguf_model")
    assert ("mine", 0) in machine.left("merged_model")
    os.close(waiting)
    machine.collect()
    assert ("mine", 0) not in machine.left("gguf_model")


def _run_to_the_report(machine: Machine, *, is_evaluated: bool) -> None:
    chain = ("trained_adapter", "merged_model", "f16_gguf", "gguf_model", "evaluation_report")
    key: ArtifactKey | None = None
    made = []
    for asset in chain if is_evaluated else chain[:-1]:
        key = ArtifactKey(asset, {"of": ["mine", 0]}, {key.asset: key.fingerprint} if key else {})
        machine.store.build(key, _write)
        made.append((asset, key.fingerprint))
    machine.run(0)
    record = machine.runs.read("mine-0")
    assert record
    machine.runs.write("mine-0", record.model_copy(update={"artifacts": tuple(made)}))


@pytest.mark.parametrize("is_evaluated", [False, True])
def test_the_16_bit_gguf_stays_until_the_evaluation_has_used_it(machine: Machine, is_evaluated: bool) -> None:
    _run_to_the_report(machine, is_evaluated=is_evaluated)
    machine.collect()
    assert machine.left("f16_gguf") == (set() if is_evaluated else {("mine", 0)})
    assert machine.left("merged_model") == {("mine", 0)}


def test_a_run_that_publishes_gives_up_its_16_bit_gguf_while_it_lives(machine: Machine) -> None:
    _run_to_the_report(machine, is_evaluated=True)
    held = machine.runs.hold("mine-0")
    machine.collect()
    assert machine.left("f16_gguf") == {("mine", 0)}, "another run's collection takes nothing from it"
    collect_garbage(machine.store, evaluated="mine-0")
    assert machine.left("f16_gguf") == set()
    os.close(held)


def test_a_run_that_only_reused_does_not_push_another_one_out(machine: Machine) -> None:
    machine.run(1)
    machine.run(2)
    for repeated in range(3, 8):
        record = machine.runs.read("mine-2")
        assert record
        machine.runs.write(
            f"mine-{repeated}", record.model_copy(update={"began_at": TODAY + timedelta(seconds=repeated)})
        )
    machine.collect()
    assert machine.left("gguf_model") == {("mine", 1), ("mine", 2)}


def test_monthly_runs_keep_their_place_and_only_records_of_nothing_go(machine: Machine) -> None:
    for number in range(4):
        machine.run(number, days_ago=30 * (4 - number))
    machine.collect()
    machine.collect()
    assert machine.left("gguf_model") == {("mine", 2), ("mine", 3)}
    assert [run.id for run in machine.runs.list_runs()] == ["mine-3", "mine-2"]


def test_a_record_does_not_stay_for_what_all_runs_use(machine: Machine) -> None:
    machine.run(0, days_ago=200)
    shared = machine.runs.read("mine-0")
    assert shared
    for number in range(1, 5):
        machine.run(number, days_ago=30 * (5 - number))
        record = machine.runs.read(f"mine-{number}")
        assert record
        artifacts = (*record.artifacts, *shared.artifacts[:1])
        machine.runs.write(f"mine-{number}", record.model_copy(update={"artifacts": artifacts}))
    machine.collect()
    machine.collect()
    assert ("mine", 0) in machine.left("trained_adapter")
    assert [run.id for run in machine.runs.list_runs()] == ["mine-4", "mine-3"]


def test_what_no_record_mentions_stays_for_a_while(machine: Machine) -> None:
    machine.run(1)
    machine.runs.forget("mine-1")
    machine.collect()
    assert machine.left("gguf_model") == {("mine", 1)}


def test_a_live_run_whose_record_does_not_read_stops_the_collection(machine: Machine) -> None:
    for number in range(4):
        machine.run(number)
    (machine.store.root / "_runs/mine-0.json").write_text("{}")
    held = machine.runs.hold("mine-0")
    with pytest.raises(ArtifactError, match="no record of a run that this version reads"):
        machine.collect()
    os.close(held)
    machine.collect()
    assert machine.left("gguf_model") >= {("mine", 2), ("mine", 3)}


def test_a_champion_that_is_damaged_stops_the_collection(machine: Machine) -> None:
    champion = machine.run(0)
    machine.publish(champion)
    (machine.store.root / "gguf_model" / champion / "manifest.json").write_text("{")
    with pytest.raises(CorruptArtifact, match="does not read"):
        machine.collect()


@pytest.mark.parametrize("how", ["file", "file by a fingerprint", "folder", "link", "linked asset"])
def test_what_is_no_artifact_is_passed_over(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    ggufs = [machine.run(number) for number in range(4)]
    elsewhere = tmp_path / "elsewhere"
    (machine.store.root / "gguf_model" / ggufs[0]).rename(elsewhere)
    match how:
        case "file":
            (machine.store.root / "gguf_model/backup").touch()
        case "file by a fingerprint":
            (machine.store.root / "gguf_model" / ggufs[0]).touch()
        case "folder":
            (machine.store.root / "gguf_model/backup").mkdir()
        case "link":
            (machine.store.root / "gguf_model" / ggufs[0]).symlink_to(elsewhere)
        case "linked asset":
            (machine.store.root / "thing").symlink_to(elsewhere)
    machine.collect()
    assert machine.left("gguf_model") == {("mine", 2), ("mine", 3)}
    assert (elsewhere / "file").exists()
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(machine.store.root))
    for command in ("gc", "verify"):
        assert CliRunner().invoke(main, [command], catch_exceptions=False).exit_code == 0


def test_files_of_others_in_the_store_are_left_alone(machine: Machine) -> None:
    machine.run(1)
    for name in ("gguf_model/.DS_Store", "_runs/my-1 (copy).json"):
        (machine.store.root / name).touch()
    machine.collect()
    assert (machine.store.root / "gguf_model/.DS_Store").exists()


def test_what_cannot_be_removed_is_named_and_the_rest_goes(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    ggufs = [machine.run(number) for number in range(4)]
    before = machine.collect(dry_run=True)
    rmtree = shutil.rmtree

    def refuse(path: Path, *, ignore_errors: bool = False) -> None:
        if ggufs[0] not in path.name:
            rmtree(path)
        elif not ignore_errors:
            raise PermissionError(13, "Permission denied", "file")  # of a file that is another user's

    monkeypatch.setattr(shutil, "rmtree", refuse)
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(machine.store.root))
    done = CliRunner().invoke(main, ["gc"])
    assert machine.left("gguf_model") == machine.left("trained_adapter") == {("mine", 2), ("mine", 3)}
    (stuck,) = (machine.store.root / "gguf_model").glob(f".{ggufs[0]}.removed-*")
    assert isinstance(done.exception, ResourceError)
    assert str(stuck) in str(done.exception)
    assert f"gone: gguf_model/{ggufs[1]}" in done.output
    again = machine.collect()
    assert (again.stuck, again.freed_bytes) == ((stuck,), 0)
    assert before.freed_bytes > 0


def test_a_lock_of_another_user_stops_no_collection(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        machine.run(number)
    draft = machine.store.root / "gguf_model" / f".{'a' * 24}.draft-00000000"
    draft.mkdir()
    opened = os.open

    def refuse(path: Any, *arguments: Any, **more: Any) -> int:
        if str(path).endswith(f"_locks/gguf_model-{'a' * 24}"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **more)

    monkeypatch.setattr(os, "open", refuse)
    machine.collect()
    assert machine.left("gguf_model") == {("mine", 2), ("mine", 3)}
    assert draft.exists()


def test_an_artifact_that_cannot_be_read_is_passed_over_unless_it_is_needed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.publish(machine.run(0))
    lone = machine.store.root / "gguf_model" / ("a" * 24)
    (lone / "manifest.json").mkdir(parents=True)  # `open` fails, as that of a file which is another user's
    machine.collect()
    monkeypatch.setenv("FT_PIPELINE_ARTIFACTS", str(machine.store.root))
    for command in ("gc", "verify"):
        output = CliRunner().invoke(main, [command], catch_exceptions=False).output
        assert f"{lone}/manifest.json must be readable, and is not: Is a directory." in output
    (manifest := machine.store.root / "gguf_model" / machine.run(0) / "manifest.json").unlink()
    manifest.mkdir()
    with pytest.raises(ArtifactError, match="must be readable"):
        machine.collect()
