"""Whether a run is due. It says why, in either case, and remembers nothing: all it goes by is what it is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from ft_pipeline.listing import tell_some
from ft_pipeline.recipe import RetrainingSection
from ft_pipeline.retraining.arrivals import Arrivals, Unsettled
from ft_pipeline.retraining.ledger import Book

RunState = Literal["unlaunched", "going", "succeeded", "failed", "cancelled"]
_SHOWN = 3


@dataclass(frozen=True)
class StartedRun:
    """A run that retraining has started.

    Attributes:
        data: Digest of the content that it was started for.
        attempt: The how-manyth on this data it was.
        state: unlaunched: it is on record and nobody has begun with it. cancelled: by a person.
        ended_at: None while it goes on.
    """

    id: str
    data: str
    attempt: int
    state: RunState
    ended_at: datetime | None = None


@dataclass(frozen=True)
class Situation:
    """All that is known at one moment.

    Attributes:
        data: Digest of the files that are settled.
        contract: Hash of the recipe's words on the data.
        book: What became of earlier contents.
        started: What retraining has started, oldest first.
        live: Runs of the recipe that go on, whoever has started them, by the digest of their data.
        is_cut: A file that was trained on last is not among the settled ones.
        count_new_rows: Asked only if it matters.
        waited: For how long the oldest file that is new has been there.
        is_patient: Files that are on their way are waited for; else the others are taken now.
    """

    now: datetime
    arrivals: Arrivals
    data: str
    contract: str
    book: Book
    started: Sequence[StartedRun]
    live: Mapping[str, str]
    is_cut: bool
    count_new_rows: Callable[[], int]
    waited: timedelta
    is_patient: bool


@dataclass(frozen=True)
class Start:
    """A run is due; `attempt` is a number that no run on this content that has begun has had."""

    attempt: int
    reason: str


@dataclass(frozen=True)
class Rest:
    """Nothing is to be done."""

    reason: str


def decide(at: Situation, settings: RetrainingSection) -> Start | Rest:
    """Whether a run is due now."""
    for find_reason in (_is_busy, _is_on_its_way, _is_known, _has_given_up):
        if reason := find_reason(at, settings):
            return Rest(reason)
    attempt = 1 + max((run.attempt for run in _find_begun(at)), default=0)
    failed = _find_failed(at)
    if failed:
        return Start(attempt, f"try {len(failed) + 1} of {settings.max_retries + 1}: run {failed[-1].id} failed")
    new = at.count_new_rows()
    if reason := _is_too_little(new, settings) or _is_too_soon(at, settings):
        return Rest(reason)
    left_out = f"; left out: {_show(at.arrivals.unsettled)}" if at.arrivals.unsettled else ""
    return Start(attempt, f"{_count(new, 'new row')} in {_count(len(at.arrivals.files), 'file')}{left_out}")


def _is_busy(at: Situation, _: RetrainingSection) -> str:
    going = next((run for run in at.started if run.state == "going"), None)
    if going:
        what = "this data" if going.data == at.data else "earlier data; what has come since waits for its end"
        return f"run {going.id} is at {what}"
    if run := at.live.get(at.data):
        return f"run {run}, which was not started by retraining, is at this data"
    return ""


def _is_on_its_way(at: Situation, settings: RetrainingSection) -> str:
    unsettled, longest = at.arrivals.unsettled, timedelta(minutes=settings.longest_wait_minutes)
    if not at.arrivals.files:
        return f"no file is quiet and whole yet: {_show(unsettled)}"
    if tested := [file for file in unsettled if file.is_tested]:
        return f"waits for a test set, without which nothing is judged: {_show(tested)}"
    if at.is_cut and (unknown := [file for file in unsettled if file.is_unknown]):
        return f"waits for files that may hold what was trained on before: {_show(unknown)}"
    if unsettled and at.is_patient and at.waited < longest:
        return f"waits for files that are on their way: {_show(unsettled)}"
    return ""


def _is_known(at: Situation, _: RetrainingSection) -> str:
    entry = at.book.find(at.data, at.contract)
    if entry is None:
        done = next((run for run in at.started if run.data == at.data and run.state == "succeeded"), None)
        return f"nothing new: run {done.id} was trained on this data" if done else ""
    day = f"{entry.at:%Y-%m-%d %H:%M}"
    if entry.was_trained:
        return f"nothing new: run {entry.run} was trained on this data, {day} ({entry.outcome})"
    return (
        f"run {entry.run} has refused this data, {day}: it breaks its contract. Mend or remove the files, or change "
        "the recipe's dataset section"
    )


def _has_given_up(at: Situation, settings: RetrainingSection) -> str:
    cancelled = next((run for run in at.started if run.data == at.data and run.state == "cancelled"), None)
    if cancelled:
        return f"run {cancelled.id} on this data was cancelled by a person; waits for other data"
    failed = _find_failed(at)
    if len(failed) > settings.max_retries:
        return (
            f"{len(failed)} runs on this data have failed, the last is {failed[-1].id}; waits for other data. Mend "
            "what its log names and materialize by hand"
        )
    if failed and failed[-1].ended_at:
        wait = timedelta(minutes=settings.retry_minutes * 2 ** (len(failed) - 1))
        elapsed = at.now - failed[-1].ended_at
        if timedelta() <= elapsed < wait:
            return f"run {failed[-1].id} on this data failed; it is tried again in {_span(wait - elapsed)}"
    return ""


def _is_too_little(new: int, settings: RetrainingSection) -> str:
    if new >= settings.min_new_rows:
        return ""
    return f"{new} new training rows, retraining.min_new_rows is {settings.min_new_rows}"


def _is_too_soon(at: Situation, settings: RetrainingSection) -> str:
    last = at.book.last_trained
    if last is None:
        return ""
    # The beginnings of runs only grow; after a jump of the clock they are ahead of it for a while.
    began_at = min(last.began_at, last.at)
    elapsed, least = at.now - began_at, timedelta(hours=settings.min_hours_between_runs)
    if timedelta() <= elapsed < least:
        return (
            f"new data waits for {_span(least - elapsed)} more: run {last.run} began {_span(elapsed)} ago, "
            f"retraining.min_hours_between_runs is {settings.min_hours_between_runs:g}"
        )
    return ""


def _find_begun(at: Situation) -> list[StartedRun]:
    """Runs on this data but for one that is on record alone, which Dagster launches if it is asked for it again."""
    return [run for run in at.started if run.data == at.data and run.state != "unlaunched"]


def _find_failed(at: Situation) -> list[StartedRun]:
    """Runs on this data that came to no verdict; a refusal, or a gate that was not passed, is one.

    Where other data was trained on since, this one comes anew.
    """
    judged, last = {entry.run for entry in at.book.judged}, at.book.last_trained
    failed = [run for run in at.started if run.data == at.data and run.state == "failed" and run.id not in judged]
    return [run for run in failed if not (last and run.ended_at and run.ended_at < last.at)]


def _show(files: Sequence[Unsettled]) -> str:
    return tell_some([file.sentence for file in files], _SHOWN)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _span(time: timedelta) -> str:
    minutes = time.total_seconds() / 60
    if minutes < 2:
        return f"{minutes * 60:.0f} s"
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
