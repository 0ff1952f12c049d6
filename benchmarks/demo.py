"""Seconds and memory of the demo: each stage, what is orchestration, and a rerun in which everything is reused.

    .venv/bin/python benchmarks/demo.py            # writes benchmarks/results/demo.json and demo.md

It runs the demo recipe twice through `dagster asset materialize`, in a fresh Dagster instance and an empty artifact
store. A stage's own time is what its artifact's manifest says; orchestration is the rest of the run: Dagster's start, the
loading of the definitions, its events, and the fingerprints.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from ft_pipeline.artifacts import ArtifactStore

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
_SAMPLE_SECONDS = 0.2


@dataclass(frozen=True)
class Measurement:
    """One run of the demo.

    Attributes:
        peak_rss_bytes: Largest sum of the resident memory of all processes of the run, sampled five times a second;
            pages that processes share are counted in each.
    """

    wall_seconds: float
    peak_rss_bytes: int


def main() -> int:
    """Run, measure, write."""
    with tempfile.TemporaryDirectory(prefix="ft_pipeline-benchmark-") as folder:
        home = Path(folder)
        (home / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text())
        first = run_demo(home)
        store = ArtifactStore(home / "artifacts")
        manifests = [artifact.manifest for artifact in store.list_artifacts()]
        rerun = run_demo(home)
    stages = {m.asset: {"wall_seconds": m.wall_seconds, "peak_rss_bytes": m.peak_rss_bytes} for m in manifests}
    # base_gguf is built inside the step of evaluation_report, as an artifact of its own.
    in_stages = sum(m.wall_seconds for m in manifests)
    result = {
        "machine": {
            "cpu_count": len(os.sched_getaffinity(0)),
            "machine": platform.machine(),
            "python": platform.python_version(),
        },
        "stages": stages,
        "first_run": asdict(first),
        "orchestration_seconds": round(first.wall_seconds - in_stages, 1),
        "orchestration_share": round(1 - in_stages / first.wall_seconds, 3),
        "rerun": asdict(rerun),
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "demo.json").write_text(json.dumps(result, indent=1) + "\n")
    text = to_markdown(result, stages)
    (RESULTS / "demo.md").write_text(text)
    sys.stdout.write(text)
    return 0


def run_demo(home: Path) -> Measurement:
    """Materialize all assets of the demo recipe; fail loudly if that fails."""
    environment = os.environ | {
        "DAGSTER_HOME": str(home),
        "FT_PIPELINE_ARTIFACTS": str(home / "artifacts"),
        "FT_PIPELINE_RECIPE": "demo",
    }
    command = [
        sys.executable,
        "-m",
        "dagster",
        "asset",
        "materialize",
        "--select",
        "*",
        "-m",
        "ft_pipeline.definitions",
    ]
    started = time.monotonic()
    with (home / "run.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=log, stderr=subprocess.STDOUT)
        peak = _watch(process)
    if process.returncode:
        raise SystemExit((home / "run.log").read_text()[-5000:])
    return Measurement(round(time.monotonic() - started, 1), peak)


def _watch(process: subprocess.Popen[bytes]) -> int:
    peak = 0
    done = threading.Event()
    waiter = threading.Thread(target=lambda: (process.wait(), done.set()))
    waiter.start()
    while not done.wait(_SAMPLE_SECONDS):
        peak = max(peak, sum(_rss_bytes(pid) for pid in _tree(process.pid)))
    waiter.join()
    return peak


def _tree(root: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def _rss_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * resource.getpagesize()


def to_markdown(result: dict[str, object], stages: dict[str, dict[str, float | int | None]]) -> str:
    """The result as a table for people."""
    first, rerun = result["first_run"], result["rerun"]
    assert isinstance(first, dict)
    assert isinstance(rerun, dict)
    lines = [
        "# The demo, measured by `benchmarks/demo.py`",
        "",
        f"Machine: {json.dumps(result['machine'])}",
        "",
        "| stage | seconds | peak memory of its process, MB |",
        "| --- | ---: | ---: |",
    ]
    for name, stage in stages.items():
        peak = stage["peak_rss_bytes"]
        lines.append(f"| {name} | {stage['wall_seconds']:.1f} | {'' if peak is None else round(peak / 1e6)} |")
    lines += [
        f"| orchestration | {result['orchestration_seconds']} ({result['orchestration_share']:.1%}) | |",
        f"| **all** | **{first['wall_seconds']}** | **{round(first['peak_rss_bytes'] / 1e6)}** (all processes) |",
        f"| rerun, all reused | {rerun['wall_seconds']} | {round(rerun['peak_rss_bytes'] / 1e6)} |",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
