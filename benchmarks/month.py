"""Thirty nights of one recipe: rows arrive, runs are killed, data is bad, labels are wrong, some nights bring nothing.

    .venv/bin/python -m benchmarks.month                 # writes benchmarks/results/month.json and month.md
    .venv/bin/python -m benchmarks.month --nights 6 --rows 30 --out /tmp/trial

Every night the sensor is asked by Dagster until it has nothing more to do, and the runs that it asks for are run for
real, on the demo's base and tickets, by `dagster job execute`. The retries are those of the recipe. The test set is the
same every night, so scores of all nights can be compared. In the morning what `make gc` runs is run by a clock that is
a hundred days ahead, for its limits are days: then all that may go at any time has gone. Needs Debian's `faketime`.
"""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import dagster as dg
import yaml

from benchmarks.tables import RESULTS, write_results
from ft_pipeline.artifacts import ArtifactStore
from ft_pipeline.defs import automation
from ft_pipeline.leftovers import measure_files
from ft_pipeline.publishing.alias import AliasState, JudgedModel, alias_folder, read_state
from ft_pipeline.publishing.folder import find_faults
from ft_pipeline.recipe_file import load_recipe
from ft_pipeline.retraining.declared import Declared
from ft_pipeline_tests.chaos.clocks import find_library

PROJECT = Path(__file__).parent.parent
GATED = "exact_match@unseen_phrasings"
# Night to what is special about it; the others bring rows and nothing goes wrong.
EVENTS = {
    4: "nothing new",
    6: "training killed",
    9: "broken rows",
    12: "wrong labels",
    15: "renamed and touched",
    18: "training killed",
    21: "nothing new",
    24: "wrong labels",
    27: "broken rows",
}
RETRAINING = {"retry_minutes": 0, "quiet_seconds": 1}
_MOST_TICKS = 6
_TEST_ROWS = 100
# What `make gc` runs; of Dagster's runs the last ten stay, however old, where its own limit is fifty.
_CARE = (["ft_pipeline", "gc"], ["ft_pipeline.defs.history", "--last", "10"])
_MOST_GROWTH = 1.25


@dataclass(frozen=True)
class Night:
    """What a night came to.

    Attributes:
        runs: Status of each run that was started.
        said: What the sensor said in the end.
        outcome: Of the last verdict on a model: promoted, rejected, or none that night.
        score: Of the model of the night on the test set.
        champion_score: Of the published one.
        store_mib: Size of the artifact store, hard links counted once.
        all_mib: Of everything: the store, what is published, the data, Dagster's home and its logs.
    """

    number: int
    event: str
    rows: int
    runs: list[str]
    said: str
    outcome: str
    score: float | None
    champion_score: float | None
    store_mib: float
    all_mib: float
    seconds: float


class Month:
    """A user's project, its Dagster instance, and the nights.

    Args:
        folder: For all of it.
        rows: That arrive in a night.
    """

    def __init__(self, folder: Path, rows: int) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.store = folder / "data/artifacts"
        self._log = folder / "commands.log"
        self._rows = rows
        self._later = _look_ahead(days=100)
        self._lines = _read_tickets()
        self._chance = random.Random(7)
        self._lay_out()
        self.recipe = load_recipe(folder / "recipes/tickets.yaml")
        self._sensor = automation.make_sensor(Declared("tickets", "tickets", self.recipe.retraining))

    @property
    def state(self) -> AliasState:
        """Champion, best and history."""
        return read_state(alias_folder(self.store), "tickets")

    def spend(self, number: int, instance: dg.DagsterInstance) -> Night:
        """One night: what happens in the folder, then what the sensor starts, until it has nothing more to do."""
        started, before = time.monotonic(), len(self.state.history)
        event = EVENTS.get(number, "rows")
        self._happen(number, event)
        runs: list[str] = []
        said = ""
        for _ in range(_MOST_TICKS):
            tick = self._sensor.evaluate_tick(dg.build_sensor_context(instance=instance))
            if tick.skip_message:
                said = tick.skip_message
                break
            (request,) = tick.run_requests or ()
            runs.append(self._run(request, is_killed=event == "training killed" and not runs))
        else:
            raise SystemExit(f"night {number}: the sensor does not come to rest: {runs}")
        self._clean_up()
        return self._describe(number, event, runs, said, before, time.monotonic() - started)

    def _lay_out(self) -> None:
        for name in ("data/rows", "data/test_sets", "recipes", "home"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "data/base_model").symlink_to(PROJECT / "data/base_model")
        (self.folder / "home/dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
        test_set = PROJECT / "data/test_sets/unseen_phrasings.jsonl"
        lines = test_set.read_text(encoding="utf-8").splitlines(keepends=True)[:_TEST_ROWS]
        (self.folder / "data/test_sets/unseen_phrasings.jsonl").write_text("".join(lines), encoding="utf-8")
        recipe = yaml.safe_load((PROJECT / "recipes/demo.yaml").read_text())
        recipe |= {"name": "tickets", "retraining": RETRAINING, "publishing": {"ollama": "never"}}
        recipe["dataset"]["sources"] = ["data/rows/*.jsonl"]
        recipe["dataset"]["allowed_roots"] = ["data"]
        recipe["quantization"]["types"] = ["Q4_K_M"]
        recipe["training"]["epochs"] = 2
        recipe["evaluation"] = {
            "max_new_tokens": 96,
            "general_set": False,
            "compare_with_16bit": False,
            "gate": {"rules": [f"{GATED} > champion"]},
        }
        (self.folder / "recipes/tickets.yaml").write_text(yaml.safe_dump(recipe))

    def _happen(self, number: int, event: str) -> None:
        data = self.folder / "data/rows"
        match event:
            case "nothing new":
                pass
            case "renamed and touched":
                for path in sorted(data.glob("*.jsonl"))[:5]:
                    path.rename(path.with_name(f"renamed-{path.name}")).touch()
            case "broken rows":
                (data / "broken.jsonl").write_text("this is no JSON\n" * (20 + self._count_rows() // 8))
            case "wrong labels":
                (data / "wrong.jsonl").write_text(self._shuffle(self._take(20 + self._count_rows())))
            case _:
                (data / f"night-{number:02}.jsonl").write_text("\n".join(self._take(self._rows, keep=True)) + "\n")

    def _clean_up(self) -> None:
        """In the morning a person removes what was wrong, and a timer what is old."""
        for name in ("broken", "wrong"):
            (self.folder / f"data/rows/{name}.jsonl").unlink(missing_ok=True)
        for command in _CARE:
            if self._execute([sys.executable, "-m", *command], self._later).wait():
                raise SystemExit(f"{command} failed: {self._log.read_text()[-2000:]}")

    def _take(self, count: int, *, keep: bool = False) -> list[str]:
        taken = self._lines[:count]
        if keep:
            del self._lines[:count]
        return taken

    def _shuffle(self, lines: list[str]) -> str:
        rows = [json.loads(line) for line in lines]
        answers = [row["messages"][-1] for row in rows]
        self._chance.shuffle(answers)
        for row, answer in zip(rows, answers, strict=True):
            row["messages"][-1] = answer
        return "".join(json.dumps(row) + "\n" for row in rows)

    def _count_rows(self) -> int:
        return sum(path.read_text().count("\n") for path in (self.folder / "data/rows").glob("*.jsonl"))

    def _run(self, request: dg.RunRequest, *, is_killed: bool) -> str:
        config = self.folder / "run.yaml"
        config.write_text(yaml.safe_dump(request.run_config))
        job = ["job", "execute", "-m", "ft_pipeline.definitions", "-j", "fine_tune"]
        options = ["--config", str(config), "--tags", json.dumps(request.tags)]
        process = self._execute([sys.executable, "-m", "dagster", *job, *options], {})
        if is_killed:
            _kill_training(process)
        return "ended well" if process.wait() == 0 else "killed" if is_killed else "failed"

    def _execute(self, command: list[str], variables: dict[str, str]) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as out:
            return subprocess.Popen(command, cwd=self.folder, env=os.environ | variables, stdout=out, stderr=out)

    def _read_score(self, model: JudgedModel) -> float:
        report = ArtifactStore(self.store).load("evaluation_report", model.evaluation_report)
        return float(report.manifest.summary.figures[GATED] or 0)

    def _describe(self, number: int, event: str, runs: list[str], said: str, before: int, seconds: float) -> Night:
        state = self.state
        events = state.history[before:]
        return Night(
            number=number,
            event=event,
            rows=self._count_rows(),
            runs=runs,
            said=said,
            outcome=events[-1].kind if events else "none",
            score=self._read_score(events[-1].model) if events else None,
            champion_score=self._read_score(state.champion) if state.champion else None,
            store_mib=_measure(self.store),
            all_mib=_measure(self.folder),
            seconds=round(seconds, 1),
        )


def _read_tickets() -> list[str]:
    """The demo's rows that keep the contract."""
    found = []
    for line in (PROJECT / "data/raw/tickets.jsonl").read_text(encoding="utf-8").splitlines():
        with suppress(ValueError, KeyError, TypeError):
            row = json.loads(line)
            if [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]:
                json.loads(row["messages"][-1]["content"])
                found.append(line)
    return found


def _kill_training(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the process that trains, as soon as there is one."""
    while process.poll() is None:
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == process.pid and b"trainer:train_adapter" in (folder / "cmdline").read_bytes():
                    time.sleep(5)
                    os.kill(int(folder.name), signal.SIGKILL)
                    return
        time.sleep(0.2)


def _look_ahead(days: int) -> dict[str, str]:
    """The environment of a process whose clock is so many days ahead; the times of files stay what they are."""
    library = find_library()
    if library is None:
        raise SystemExit("libfaketime is not installed: apt-get install faketime")
    words = {"LD_PRELOAD": str(library), "FAKETIME": f"+{days}d", "NO_FAKE_STAT": "1"}
    return words | {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}


def _measure(folder: Path) -> float:
    """MiB on the disk, a file of several names counted once."""
    return round(measure_files(folder, set()) / 2**20, 1)


@contextmanager
def _environment(folder: Path) -> Iterator[None]:
    words = {"ROOT": folder, "RECIPE": "tickets", "DEVICE": "cpu", "LOCK_DIR": folder / "locks"}
    os.environ.update({f"FT_PIPELINE_{name}": str(value) for name, value in words.items()})
    os.environ["DAGSTER_HOME"] = str(folder / "home")
    # Dagster's relative folder of logs lies in the folder that runs are started in.
    os.environ["PYTHONPATH"] = str(PROJECT)
    now = automation.now
    # The evening's files are an hour old at night.
    automation.now = lambda: datetime.now(UTC) + timedelta(hours=1)
    try:
        yield
    finally:
        automation.now = now


def judge(month: Month, nights: list[Night]) -> dict[str, Any]:
    """What must hold in the end, in figures."""
    scores = [night.score for night in nights if night.score is not None]
    champion = nights[-1].champion_score
    middle = [night.all_mib for night in nights[len(nights) // 3 : 2 * len(nights) // 3]]
    last = [night.all_mib for night in nights[2 * len(nights) // 3 :]]
    return {
        "nights": len(nights),
        "runs": sum(len(night.runs) for night in nights),
        "runs_that_failed_or_were_killed": sum(run != "ended well" for night in nights for run in night.runs),
        "promotions": sum(night.outcome == "promoted" for night in nights),
        "best_score_of_any_model": max(scores),
        "champion_score": champion,
        "published_files_with_faults": len(find_faults(month.store.parent / "published/tickets")),
        "largest_mib_in_the_middle_third": max(middle),
        "largest_mib_in_the_last_third": max(last),
    }


def find_faults_of(figures: dict[str, Any]) -> list[str]:
    """What does not hold of a month that was survived."""
    growth = figures["largest_mib_in_the_last_third"] / figures["largest_mib_in_the_middle_third"]
    best, champion = figures["best_score_of_any_model"], figures["champion_score"] or 0
    # A model that is level keeps the champion where it is: half the 95 % interval of a share of so many rows.
    noise = 1.96 * math.sqrt(max(best * (1 - best), 0.01) / _TEST_ROWS)
    promises = {
        f"no model of any night is better than the champion by more than chance ({noise:.3f})": best
        <= champion + noise,
        "what is published is whole": figures["published_files_with_faults"] == 0,
        f"the disk no longer grows by more than a quarter in ten nights ({growth:.2f})": growth <= _MOST_GROWTH,
    }
    return [promise for promise, holds in promises.items() if not holds]


def _to_markdown(found: dict[str, Any], nights: list[Night]) -> str:
    lines = ["# A month of nights", "", "| | |", "| --- | ---: |"]
    lines += [f"| {name.replace('_', ' ')} | {value} |" for name, value in found.items()]
    lines += [
        "",
        "| night | event | rows there | runs | verdict | score | champion | store MiB | all MiB | s |",
        "| ---: | --- | ---: | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for night in nights:
        score, champion = ("-" if value is None else f"{value:.3f}" for value in (night.score, night.champion_score))
        lines.append(
            f"| {night.number} | {night.event} | {night.rows} | {', '.join(night.runs) or 'none'} | {night.outcome} | "
            f"{score} | {champion} | {night.store_mib} | {night.all_mib} | {night.seconds:.0f} |"
        )
    return "\n".join(lines) + "\n"


@click.command()
@click.option("--nights", type=click.IntRange(3), default=30, show_default=True)
@click.option("--rows", type=click.IntRange(10), default=40, show_default=True, help="Rows that arrive in a night.")
@click.option("--work", type=click.Path(path_type=Path), help="Folder to work in, which stays.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
def main(nights: int, rows: int, work: Path | None, out: Path) -> None:
    """Live through a month and write down what became of it."""
    folder = (work or Path(tempfile.mkdtemp(prefix="ft_pipeline-month-"))).resolve()
    found: list[Night] = []
    month = Month(folder, rows)
    with _environment(folder), dg.DagsterInstance.get() as instance:
        for number in range(1, nights + 1):
            found.append(month.spend(number, instance))
            click.echo(json.dumps(asdict(found[-1])), err=True)
        figures = judge(month, found)
    write_results(
        out, "month", {"figures": figures, "nights": [asdict(night) for night in found]}, _to_markdown(figures, found)
    )
    if faults := find_faults_of(figures):
        raise SystemExit("not so: " + "; ".join(faults))


if __name__ == "__main__":
    main()
