"""A thousand ticks of arrivals, renames, deletions, failures and restarts, judged by what must always hold."""

from __future__ import annotations

import hashlib
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from ft_pipeline.defs import automation
from ft_pipeline.recipe_file import load_recipe
from ft_pipeline.retraining import arrivals
from ft_pipeline.retraining.content import ContentFolder
from ft_pipeline.retraining.declared import Declared
from ft_pipeline_tests.retraining.simulation import TICK, Folder, SimulatedRun, World
from ft_pipeline_tests.user_project import RECIPE, make_project

TICKS = 1000
SETTINGS: dict[str, Any] = {
    "quiet_seconds": 60,
    "min_new_rows": 5,
    "min_hours_between_runs": 0.5,
    "max_retries": 2,
    "retry_minutes": 3,
    "cron": "0 * * * *",
}


@pytest.fixture
def world(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    root = make_project(tmp_path / "root", tiny_base, monkeypatch)
    (root / "data/rows.jsonl").unlink()
    (root / "recipes/mine.yaml").write_text(yaml.safe_dump({**RECIPE, "retraining": SETTINGS}))
    recipe = load_recipe(root / "recipes/mine.yaml")
    with dg.instance_for_test() as instance:
        started = datetime(2026, 1, 1, tzinfo=UTC)
        folder = Folder(root / "data", lambda: found.now)
        found = World(instance, recipe, root, root / "data/artifacts", folder, random.Random(1), started)
        monkeypatch.setattr(automation, "now", lambda: found.now)
        clock = type("clock", (datetime,), {"now": classmethod(lambda _cls, _zone: found.now)})
        for module in ("run", "run_record"):
            monkeypatch.setattr(f"ft_pipeline.{module}.datetime", clock)
        monkeypatch.setattr(arrivals, "changed_at", lambda path: folder.changed[path])
        yield found


def sensor_tick(world: World) -> Callable[[], Any]:
    sensor = automation.make_sensor(Declared("mine", "mine", world.recipe.retraining))
    return lambda: sensor.evaluate_tick(dg.build_sensor_context(instance=world.instance))


def schedule_tick(world: World) -> Callable[[], Any]:
    schedule = automation.make_schedule(Declared("mine", "mine", world.recipe.retraining))
    return lambda: schedule.evaluate_tick(
        dg.build_schedule_context(instance=world.instance, scheduled_execution_time=world.now)
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_a_thousand_ticks_of_the_sensor(world: World, seed: int) -> None:
    world.chance = random.Random(seed)
    tick = sensor_tick(world)
    unfinished: list[Callable[[], None]] = []
    for number in range(TICKS):
        world.now += TICK
        is_outage = number % 250 >= 200  # nobody comes, and whatever runs fails
        if not is_outage:
            happen(world, unfinished)
        advance_run(world, is_outage=is_outage)
        if world.chance.random() < 0.05:
            arrivals._hashes.clear()  # the code server was started again
        launched = world.evaluate(tick, is_killed=world.chance.random() < 0.03)
        assert_fit(world, launched, number)
    settle(world, tick, unfinished)
    assert_exactly_once(world)
    assert_all_rows_trained(world)
    assert len(set(map(kind_of, world.reasons))) >= 5, Counter(map(kind_of, world.reasons))


@pytest.mark.slow
@pytest.mark.long
def test_three_hundred_looks_of_the_schedule(world: World) -> None:
    tick = schedule_tick(world)
    unfinished: list[Callable[[], None]] = []
    for number in range(300):
        if number % 3 == 2:
            for finish in unfinished:  # before the day is over
                finish()
            unfinished.clear()
            world.now += timedelta(days=1)
        else:
            world.now += timedelta(minutes=3)
        happen(world, unfinished)
        advance_run(world, is_outage=number % 50 >= 45)
        assert_fit(world, world.evaluate(tick, is_killed=world.chance.random() < 0.03), number)
    settle(world, tick, unfinished)
    assert_exactly_once(world, tries=2)
    assert_all_rows_trained(world)


def happen(world: World, unfinished: list[Callable[[], None]]) -> None:
    """Somebody does something in the folder, or nothing."""
    chance, folder = world.chance, world.folder
    if unfinished and chance.random() < 0.3:
        unfinished.pop(0)()
    files = [path for path in folder.files() if sha256(path) not in folder.torn]
    name = f"{chance.randrange(10**9)}.jsonl"
    match chance.choices(
        ["nothing", "arrive", "half", "touch", "same", "rename", "delete", "append", "copy"],
        [60, 8, 4, 5, 4, 5, 3, 5, 3],
    )[0]:
        case "arrive":
            for number in range(chance.randint(1, 4)):
                folder.write(f"{number}-{name}", folder.new_rows(chance.randint(1, 8)))
        case "half":
            unfinished.append(write_half(folder, name, chance.randint(2, 6)))
        case "touch" if files:
            folder.touch(chance.choice(files))
        case "same" if files:
            path = chance.choice(files)
            folder.write(path.name, path.read_text())
        case "rename" if files:
            path = chance.choice(files)
            folder.touch(path.rename(path.with_name(name)))
        case "delete" if len(files) > 3:
            chance.choice(files).unlink()
        case "append" if files:
            path = chance.choice(files)
            folder.write(path.name, path.read_text().rstrip("\n") + "\n" + folder.new_rows(chance.randint(1, 6)))
        case "copy" if files:
            shutil.copy(path := chance.choice(files), folder.path / name)
            folder.touch(path.with_name(name))


def write_half(folder: Folder, name: str, rows: int) -> Callable[[], None]:
    """The first half of a file; what comes back writes the whole of it."""
    text = folder.new_rows(rows)
    half = text[: text.rindex("\n", 0, -1) + 20]  # in the last row
    path = folder.write(name, half)
    folder.torn.add(sha256(path))

    def finish() -> None:
        folder.write(name, text)

    return finish


def advance_run(world: World, *, is_outage: bool) -> None:
    """The run that goes on may end, well or badly."""
    chance, run = world.chance, world.going
    if run is None or chance.random() > 0.25:
        return
    outcomes = ["published", "kept", "stopped", "refused", "failed", "cancelled"]
    match "failed" if is_outage else chance.choices(outcomes, [30, 30, 5, 3, 30, 2])[0]:
        case "failed":
            world.end(run, None)
        case "cancelled":
            world.end(run, None, by_person=True)
        case "published" | "kept" | "stopped" | "refused" as outcome:
            world.end(run, outcome)


def settle(world: World, tick: Callable[[], Any], unfinished: list[Callable[[], None]]) -> None:
    """Everything that was begun is ended, new rows come once more, and nothing fails any more."""
    for finish in unfinished:
        finish()
    world.folder.write("last.jsonl", world.folder.new_rows(10))
    for _ in range(40):
        world.now += timedelta(minutes=5)
        if world.going:
            world.end(world.going, "published")
        world.evaluate(tick)
    assert world.going is None
    before = len(world.runs)
    for _ in range(20):
        world.now += timedelta(days=1)
        world.evaluate(tick)
    assert len(world.runs) == before, "nothing is new, and nothing may start"


def assert_fit(world: World, launched: list[SimulatedRun], number: int) -> None:
    """What must hold of each run that starts."""
    assert sum(run.outcome == "going" for run in world.runs) <= 1
    for run in launched:
        content = ContentFolder(world.store_root, "mine").read(run.data)
        shas = {file.sha256 for file in content.files}
        assert not shas & world.folder.torn, f"tick {number}: a half-written file is trained on"
        trained = [entry for entry in world.ledger.read().judged if entry.was_trained]
        assert run.data not in {entry.data for entry in trained}, f"tick {number}: this content was trained on"
        if run.attempt == 1 and trained:
            assert timedelta(hours=0.5) <= run.started_at - begun(world, trained[-1].run)


def begun(world: World, run_id: str) -> datetime:
    entry = next(entry for entry in world.ledger.read().judged if entry.run == run_id)
    return entry.began_at


def assert_exactly_once(world: World, tries: int = 3) -> None:
    by_data = Counter(run.data for run in world.runs)
    for data, count in by_data.items():
        outcomes = [run.outcome for run in world.runs if run.data == data]
        assert outcomes[:-1] == ["failed"] * (count - 1), (data, outcomes)
        assert count <= 1 + world.recipe.retraining.max_retries
    assert sum(run.outcome in {"published", "kept"} for run in world.runs) >= 10, "the simulation must train"
    assert any(run.attempt == tries for run in world.runs), "the simulation must retry"


def assert_all_rows_trained(world: World) -> None:
    last = world.ledger.read().last_trained
    assert last is not None
    trained = {file.sha256 for file in ContentFolder(world.store_root, "mine").read(last.data).files}
    there = {sha256(path) for path in world.folder.files()}
    assert there == trained


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kind_of(reason: str) -> str:
    """A reason without its figures and names."""
    return " ".join(word for word in reason.split()[:4] if word.isalpha())
