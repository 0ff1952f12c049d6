"""From what Dagster has on record of a run that has ended to the alert about it. Nothing here knows Dagster."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ft_pipeline.alerts.alert import Alert, AlertKind, Fault, Verdict, tell_failure, tell_verdict

Ending = Literal["failed", "canceled", "succeeded"]
# What Dagster and Python write before an exception's own words.
_CLASS = re.compile(r"^(?:\w+\.)+\w+: ")
_WILL_RETRY = "dagster/will_retry"


@dataclass(frozen=True)
class EndedRun:
    """A run that has ended.

    Attributes:
        recipe: The name or path of its recipe.
        faults: What its failed steps said; what the run itself said if no step failed.
        materialized: Plain metadata of the assets that it made, by name.
    """

    id: str
    recipe: str
    ending: Ending
    tags: Mapping[str, str]
    faults: Sequence[Fault] = ()
    materialized: Mapping[str, Mapping[str, Any]] | None = None


def find_alert(run: EndedRun, kinds: frozenset[AlertKind]) -> Alert | None:
    """What people are to be told of a run; None: nothing that they want to know."""
    if run.ending != "succeeded":
        if run.tags.get(_WILL_RETRY) == "true" or "failure" not in kinds:
            return None  # the last try tells
        faults = [Fault(fault.step, _CLASS.sub("", fault.message.strip())) for fault in run.faults]
        return tell_failure(run.recipe, run.id, faults, canceled=run.ending == "canceled")
    materialized = run.materialized or {}
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


def find_recipe_name(run_config: Mapping[str, Any], default: str) -> str:
    """The recipe that a run's configuration names."""
    place: Any = run_config
    for key in ("resources", "pipeline", "config", "recipe"):
        place = place.get(key) if isinstance(place, Mapping) else None
    return str(place or default)
