"""From what Dagster has on record of a run that has ended to the alert about it. Nothing here knows Dagster."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ft_pipeline.alerts.alert import Alert, AlertKind, Fault, Verdict, tell_failure, tell_verdict
from ft_pipeline.evaluation.rules import GATE

Ending = Literal["failed", "canceled", "succeeded"]
# What Dagster and Python write before an exception's own words.
_CLASS = re.compile(r"^(?:\w+\.)+\w+: ")
# What assets call their page for people.
_REPORTS = ("report", "data report")
_WILL_RETRY = "dagster/will_retry"


@dataclass(frozen=True)
class BlockingCheck:
    """A check of an asset that failed, and so has ended the run."""

    asset: str
    name: str
    said: str
    value: Any = None
    limit: Any = None

    @property
    def fault(self) -> Fault:
        """What it says, with its figures."""
        is_measured = self.value is not None and self.limit is not None
        figures = f" (found {self.value}, limit {self.limit})" if is_measured else ""
        return Fault(f"{self.asset}, {self.name}", f"{self.said}{figures}")


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended.

    Attributes:
        recipe: The name or path of its recipe.
        faults: What its failed steps said; what the run itself said if no step failed.
        checks: Those that have ended it.
        materialized: Plain metadata of the assets that it made, by name.
    """

    id: str
    recipe: str
    ending: Ending
    tags: Mapping[str, str]
    faults: Sequence[Fault] = ()
    checks: Sequence[BlockingCheck] = ()
    materialized: Mapping[str, Mapping[str, Any]] | None = None


def find_alert(run: EndedRun, kinds: frozenset[AlertKind]) -> Alert | None:
    """What people are to be told of a run; None: nothing that they want to know."""
    materialized = run.materialized or {}
    if run.ending != "succeeded":
        if run.tags.get(_WILL_RETRY) == "true" or "failure" not in kinds:
            return None  # the last try tells
        # The gate as a whole repeats what its rules say.
        checks = [check for check in run.checks if check.name != GATE] or run.checks
        faults = [check.fault for check in checks]
        faults += [Fault(fault.step, _CLASS.sub("", fault.message.strip())) for fault in run.faults]
        found = (materialized.get(check.asset, {}).get(name) for check in checks for name in _REPORTS)
        reports = sorted({str(path) for path in found if path})
        return tell_failure(run.recipe, run.id, faults, reports, canceled=run.ending == "canceled")
    if (published := materialized.get("published_model")) is None:
        return None
    verdict = Verdict(
        published=bool(published.get("published")),
        reason=str(published.get("reason", "")),
        score=published.get("score"),
        previous=published.get("previous_score"),
        report=materialized.get("evaluation_report", {}).get("report"),
    )
    alert = tell_verdict(run.recipe, run.id, verdict)
    return alert if alert.kind in kinds else None
