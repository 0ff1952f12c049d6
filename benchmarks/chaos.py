"""What the pipeline survives: kills at random moments, full disks, clocks that jump, damage, company, a dead daemon.

    python -m benchmarks.chaos --out benchmarks/results     # chaos.json, chaos.md

Goes on where it was cut off, if it is given the same --work folder and seed. Each event is one of
`ft_pipeline_tests/chaos/`, which the tests run some of.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import click

from ft_pipeline_tests.chaos.kills import draw, survive_kill
from ft_pipeline_tests.chaos.undisturbed import make_reference


@click.command()
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--kills", default=50)
@click.option("--seed", default=20261127)
def main(work: Path, kills: int, seed: int) -> None:
    work.mkdir(parents=True, exist_ok=True)
    pins = {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": str(work / "bytecode")}
    reference = make_reference(work / "reference", pins)
    log = work / "events.jsonl"
    done = {json.loads(line)["id"] for line in log.read_text().splitlines()} if log.exists() else set()
    for number in range(kills):
        name = f"kill-{number}"
        if name in done:
            continue
        folder = work / name
        shutil.rmtree(folder, ignore_errors=True)
        started = time.monotonic()
        try:
            outcome = survive_kill(reference, folder, draw(seed, number, reference.seconds), pins).to_record()
        except Exception as err:
            outcome = {"kind": "kill", "faults": [repr(err)], "survived": False}
        outcome |= {"id": name, "wall_seconds": round(time.monotonic() - started, 1)}
        with log.open("a") as out:
            out.write(json.dumps(outcome) + "\n")
        click.echo(json.dumps(outcome))
        if outcome["survived"]:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
