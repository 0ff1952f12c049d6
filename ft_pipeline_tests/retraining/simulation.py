"""A year of one recipe's folder in seconds: files come and go, runs end well or badly, the daemon is killed.

Sensor and schedule are evaluated by Dagster itself. The clock, and when a file was changed, are simulated; what a run
does with its data is the pipeline's own code without the training.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import dagster as dg
from dagster._core.events import DagsterEvent, DagsterEventType, JobCanceledData, JobFailureData
from dagster._core.events.log import EventLogEntry

from ft_pipeline.errors import PipelineError
from ft_pipeline.recipe import Recipe
from ft_pipeline.retraining.ledger import Ledger, Outcome
from ft_pipeline.run import Run

ROW = '{"messages": [{"role": "user", "content": "say %d"}, {"role": "assistant", "content": "it is %d"}]}\n'
TICK = timedelta(seconds=30)


@dataclass
class SimulatedRun:
    """A run that was started."""

    id: str
    data: str
    attempt: int
    started_at: datetime
    outcome: str = "going"


@dataclass
class Folder:
    """The recipe's files, and when each was changed by the simulated clock."""

    path: Path
    clock: Callable[[], datetime]
    changed: dict[Path, float] = field(default_factory=dict)
    torn: set[str] = field(default_factory=set)
    rows: int = 0

    def new_rows(self, count: int) -> str:
        """Rows that were nowhere before."""
        first = self.rows
        self.rows += count
        return "".join(ROW % (number, number) for number in range(first, self.rows))

    def write(self, name: str, text: str) -> Path:
        """Write a file, as at this moment."""
        path = self.path / name
        path.write_text(text)
        self.touch(path)
        return path

    def touch(self, path: Path) -> None:
        """The file was changed at this moment."""
        self.changed[path] = self.clock().timestamp()

    def files(self) -> list[Path]:
        """All that are there."""
        return sorted(self.path.glob("*.jsonl"))


@dataclass
class World:
    """Everything at a simulated moment.

    Attributes:
        keys: Run keys that the daemon has seen; it launches none twice.
    """

    instance: dg.DagsterInstance
    recipe: Recipe
    root: Path
    store_root: Path
    folder: Folder
    chance: random.Random
    now: datetime
    runs: list[SimulatedRun] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    reasons: list[str] = field(default_factory=list)

    @property
    def going(self) -> SimulatedRun | None:
        """The run that goes on, if one does."""
        return next((run for run in self.runs if run.outcome == "going"), None)

    @property
    def ledger(self) -> Ledger:
        """What became of contents."""
        return Ledger(self.store_root, self.recipe.name)

    def evaluate(self, tick: Callable[[], Any], *, is_killed: bool = False) -> list[SimulatedRun]:
        """One tick as the daemon does it.

        Args:
            tick: Dagster's evaluation.
            is_killed: The daemon dies after the evaluation, before anything is launched.
        """
        data = tick()
        assert data.skip_message or data.run_requests, "a tick must say why it did nothing"
        if data.skip_message:
            self.reasons.append(data.skip_message)
        if is_killed:
            return []
        return [run for request in data.run_requests if (run := self._launch(request))]

    def _launch(self, request: dg.RunRequest) -> SimulatedRun | None:
        assert request.run_key
        if request.run_key in self.keys:
            return None
        self.keys.add(request.run_key)
        config = request.run_config["resources"]["pipeline"]["config"]
        run = SimulatedRun(str(uuid4()), config["data"], int(request.tags["ft_pipeline/attempt"]), self.now)
        self.instance.add_run(
            dg.DagsterRun(job_name="fine_tune", run_id=run.id, tags=request.tags, status=dg.DagsterRunStatus.STARTED)
        )
        self.runs.append(run)
        return run

    def end(self, run: SimulatedRun, outcome: Outcome | None, *, by_person: bool = False) -> None:
        """The run ends.

        Args:
            outcome: What it came to; None: it failed on the way, or was cancelled.
            by_person: It was cancelled in the page.
        """
        pipeline_run = Run(lambda: self.recipe, self.root, self.store_root, [run.id], run.data)
        try:
            pipeline_run.pin()
            if outcome:
                pipeline_run.judge(outcome, "v" * 24)
        except PipelineError as err:
            if "gone or was changed" not in str(err):
                raise
            outcome = None
        finally:
            pipeline_run.close()
        run.outcome = "cancelled" if by_person else outcome or "failed"
        failed = outcome not in ("published", "kept")
        if by_person:
            self._report(run, DagsterEventType.RUN_CANCELING, None)
            self._report(run, DagsterEventType.RUN_CANCELED, JobCanceledData(None))
        elif failed:
            self._report(run, DagsterEventType.RUN_FAILURE, JobFailureData(None))
        else:
            self._report(run, DagsterEventType.RUN_SUCCESS, None)

    def _report(self, run: SimulatedRun, kind: DagsterEventType, data: Any) -> None:
        event = DagsterEvent(kind.value, "fine_tune", message="", event_specific_data=data)
        self.instance.handle_new_event(
            EventLogEntry(  # type: ignore[no-untyped-call]
                error_info=None,
                level=20,
                user_message="",
                run_id=run.id,
                timestamp=self.now.timestamp(),
                job_name="fine_tune",
                dagster_event=event,
            )
        )
