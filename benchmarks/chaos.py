"""What the pipeline survives: kills at any moment, full and read-only disks, damage, company, clocks, a dead daemon.

    python -m benchmarks.chaos --work FOLDER --out benchmarks/results     # chaos.json, chaos.md

Each event is one of `ft_pipeline_tests/chaos/`, of which the tests run some. Given the same folder again it goes on
where it was cut off. The folder of an event that was not survived stays there; to try it again, remove its line from
events.jsonl.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from benchmarks.tables import RESULTS, write_results
from ft_pipeline_tests.chaos.clocks import JUMPS, survive_jump
from ft_pipeline_tests.chaos.company import COMPANY, survive_company
from ft_pipeline_tests.chaos.damage import DAMAGES, TOLD, survive_damage
from ft_pipeline_tests.chaos.disks import FULL, READ_ONLY, survive_disk
from ft_pipeline_tests.chaos.kills import Moment, draw, survive_kill
from ft_pipeline_tests.chaos.outcome import Outcome
from ft_pipeline_tests.chaos.undisturbed import END, STAGES, START, Reference, make_reference

PROJECT = Path(__file__).parent.parent
# What is killed, and the test that plays it.
_DAEMON_TESTS = {
    "the daemon and a run, while another run is queued": "test_dead_daemon.py",
    "the daemon in the middle of a look, and when a run was just started": "test_killed_look.py",
}
# Publishing takes a second of a whole run: moments drawn from all of it meet it hardly ever.
_LAST_KILL, _LAST_KILLS = "kill while it publishes", 8


@dataclass(frozen=True)
class Event:
    """One disturbance: its name, and what plays it in a folder of its own."""

    name: str
    kind: str
    play: Callable[[Path], Outcome]


class Log:
    """What came of the events so far, a line each; several threads write."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        self.records: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def add(self, record: dict[str, Any]) -> None:
        """One more."""
        with self._lock:
            self.records.append(record)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="For projects, stores and the log.")
@click.option("--kills", default=50, help="How many processes are killed.")
@click.option("--seed", default=20261127, help="Of the moments and of the processes.")
@click.option("--at-once", default=1, help="Events that go on at the same time, each on a store of its own.")
@click.option("--no-more", is_flag=True, help="Only write the results of what was played so far.")
def main(out: Path, work: Path, kills: int, seed: int, at_once: int, *, no_more: bool) -> None:
    """Play all events that were not played yet, and write the results."""
    work.mkdir(parents=True, exist_ok=True)
    reference = make_reference(work.absolute() / "reference")
    log = Log(work / "events.jsonl")
    events, done = list_events(reference, kills, seed), {record["name"] for record in log.records}
    todo = [] if no_more else [event for event in events if event.name not in done]
    with ThreadPoolExecutor(at_once) as pool:
        for _ in pool.map(partial(_play, work.absolute() / "events", log), todo):
            pass
    found = {
        "machine": {"cores": len(os.sched_getaffinity(0)), "architecture": platform.machine()},
        "seed": seed,
        "at_once": at_once,
        "undisturbed_seconds": {name: round(seconds, 1) for name, seconds in reference.seconds.items()},
        "planned": len(events),
        "events": log.records,
    }
    write_results(out, "chaos", found, to_markdown(found))


def list_events(reference: Reference, kills: int, seed: int) -> list[Event]:
    """All events, the kinds mixed, so that a run that is cut off has met each."""
    groups = [
        [_make_kill(reference, seed, number) for number in range(kills)],
        [_make_last_kill(reference, seed, number) for number in range(_LAST_KILLS)],
        [
            *_make(FULL, [*STAGES.values(), END], lambda what, folder: _play_disk(FULL, reference, folder, what)),
            *_make(
                READ_ONLY,
                [START, "trained_adapter", END],
                lambda what, folder: _play_disk(READ_ONLY, reference, folder, what),
            ),
            *_make("damage", [*DAMAGES, *TOLD], lambda what, folder: survive_damage(reference, folder, what)),
            *_make("two at once", COMPANY, lambda what, folder: survive_company(reference, folder, what)),
            *_make("clock", JUMPS, lambda what, folder: survive_jump(reference, folder, what)),
            *_make("daemon", _DAEMON_TESTS, lambda what, folder: _kill_daemon(folder, what)),
        ],
    ]
    placed = [((at + 0.5) / len(group), event) for group in groups for at, event in enumerate(group)]
    return [event for _, event in sorted(placed, key=lambda pair: pair[0])]


def _make(kind: str, whats: Any, play: Callable[[str, Path], Outcome]) -> Iterator[Event]:
    for what in whats:
        yield Event(f"{kind}: {what}", kind, partial(play, what))


def _make_last_kill(reference: Reference, seed: int, number: int) -> Event:
    fraction = (number + 0.5) / _LAST_KILLS
    moment = Moment(END, fraction, at_once=bool(number % 2), is_whole=False, seed=f"{seed} {END} {number}")
    return Event(f"{_LAST_KILL}: {number + 1}", _LAST_KILL, lambda folder: survive_kill(reference, folder, moment))


def _make_kill(reference: Reference, seed: int, number: int) -> Event:
    moment = draw(seed, number, reference.seconds)
    return Event(f"kill: {number + 1}", "kill", lambda folder: survive_kill(reference, folder, moment))


def _play_disk(kind: str, reference: Reference, folder: Path, stage: str) -> Outcome:
    return survive_disk(kind, reference.project.parent, folder, stage)


def _kill_daemon(folder: Path, what: str) -> Outcome:
    folder.mkdir(parents=True)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--basetemp",
            str(folder / "run"),
            f"ft_pipeline_tests/chaos/{_DAEMON_TESTS[what]}",
        ],
        cwd=PROJECT,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        check=False,
    )
    outcome = Outcome("daemon", f"killed: {what}")
    if done.returncode:
        outcome.faults.append(done.stdout[-2000:])
    return outcome


def _play(folder: Path, log: Log, event: Event) -> None:
    place = folder / event.name.replace(": ", "-").replace(" ", "-")
    shutil.rmtree(place, ignore_errors=True)
    started = time.monotonic()
    try:
        outcome = event.play(place)
    except Exception as err:  # noqa: BLE001 - one event that breaks off is recorded as lost, and the others go on
        outcome = Outcome(event.kind, event.name, faults=[f"the event broke off: {type(err).__name__}: {err}"])
    outcome.kind = event.kind
    record = {"name": event.name, **outcome.to_record(), "wall_seconds": round(time.monotonic() - started, 1)}
    log.add(record)
    if outcome.is_survived:
        shutil.rmtree(place, ignore_errors=True)
    click.echo(f"{event.name}: {'survived' if outcome.is_survived else outcome.faults} {record['wall_seconds']} s")


def to_markdown(found: Mapping[str, Any]) -> str:
    """The result as tables for people."""
    events = found["events"]
    machine, undisturbed = found["machine"], sum(found["undisturbed_seconds"].values())
    hours = sum(event["wall_seconds"] for event in events) / 3600
    lines = [
        "# What the pipeline survived, by `python -m benchmarks.chaos`",
        "",
        f"{machine['cores']} cores, {machine['architecture']}; seed {found['seed']}; {hours:.1f} hours of events, "
        f"{found['at_once']} at once; a run takes {undisturbed:.0f} s undisturbed.",
        *_say_missing(found["planned"] - len(events)),
        "",
        *_tabulate(events),
        "",
        "## Kills, by the asset that was made and the process that was met",
        "",
        *_tabulate_kills([event for event in events if event["process"]]),
        "",
        *_tell_publishing(events),
        "## The others",
        "",
        "| kind | event | survived |",
        "| --- | --- | --- |",
        *(f"| {e['kind']} | {e['what']} | {_say(e)} |" for e in events if not e["process"]),
        "",
    ]
    return "\n".join(lines)


def _tell_publishing(events: list[dict[str, Any]]) -> list[str]:
    met = [event["facts"].get("is_published") for event in events if event["kind"] == _LAST_KILL]
    if not met:
        return []
    before, after = met.count(False), met.count(True)
    return [f"Of the kills while it publishes {before} came before the new champion was there, {after} after.", ""]


def _say_missing(count: int) -> list[str]:
    return ["", f"Cut off: {count} planned events were not played."] if count else []


def _say(event: Mapping[str, Any]) -> str:
    return "yes" if event["survived"] else "NO: " + event["faults"][0].splitlines()[0][:120]


def _tabulate(events: list[dict[str, Any]]) -> list[str]:
    kinds = list(dict.fromkeys(event["kind"] for event in events))
    rows = [(kind, [event["survived"] for event in events if event["kind"] == kind]) for kind in [*sorted(kinds)]]
    rows.append(("**all**", [event["survived"] for event in events]))
    lines = [f"| {kind} | {len(all_)} | {sum(all_)} | {len(all_) - sum(all_)} |" for kind, all_ in rows]
    return ["| kind | events | survived | lost |", "| --- | ---: | ---: | ---: |", *lines]


def _tabulate_kills(kills: list[dict[str, Any]]) -> list[str]:
    processes = sorted({kill["process"] for kill in kills})
    counts = Counter((kill["stage"], kill["process"]) for kill in kills)
    stages = [stage for stage in [START, *STAGES.values(), END] if any(kill["stage"] == stage for kill in kills)]
    stages += sorted({kill["stage"] for kill in kills} - set(stages))
    lines = [
        f"| {stage} | " + " | ".join(str(counts[stage, process] or "") for process in processes) + " |"
        for stage in stages
    ]
    return [f"| asset | {' | '.join(processes)} |", f"| --- |{' ---: |' * len(processes)}", *lines]


if __name__ == "__main__":
    main()
