"""Works off the runs that have ended: each alert reaches each receiver once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from ft_pipeline.alerts.alert import Alert
from ft_pipeline.alerts.delivery import TRY_SECONDS, Receiver, deliver
from ft_pipeline.alerts.mail import MailReceiver
from ft_pipeline.alerts.settings import AlertSettings
from ft_pipeline.alerts.webhook import WebhookReceiver
from ft_pipeline.errors import AlertError

# A receiver that takes nothing for so long is given up; the alert is in the log then.
KEEP_TRYING = timedelta(days=1)
# Dagster ends a sensor's tick after 60 s.
ROUND_SECONDS = 40.0


@dataclass(frozen=True)
class RunEnd:
    """A run that has ended.

    Attributes:
        done: Names of the receivers that have its alert, or have been given up.
        tried: When a receiver was first found not to take it. A machine that was off for days has tried nothing.
    """

    run: str
    alert: Alert
    done: frozenset[str] = frozenset()
    tried: Mapping[str, datetime] = field(default_factory=dict)


class Marks(Protocol):
    """Where it is kept what became of a run's alert."""

    def told(self, run: str, receiver: str) -> None:
        """The receiver has it."""

    def tried(self, run: str, receiver: str, at: datetime) -> None:
        """The receiver has not taken it, for the first time."""

    def given_up(self, run: str, receiver: str) -> None:
        """The receiver will not get it."""


@dataclass
class Outcome:
    """What became of the alerts.

    Attributes:
        delivered: Sentences: what has reached whom.
        warnings: Sentences: who was left out of that.
        given_up: Sentences: what will reach nobody, in full.
        waiting: Sentences: what is to be tried again, and why.
        left: Sentences: what there was no time for.
    """

    delivered: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def list_receivers(settings: AlertSettings) -> list[Receiver]:
    """Who is to be told."""
    receivers: list[Receiver] = [WebhookReceiver(settings.webhook)] if settings.webhook else []
    if settings.mail_server:
        receivers.append(MailReceiver(settings.mail_server, settings.sender, settings.recipients))
    return receivers


def work_off(
    ends: Iterable[RunEnd],
    receivers: Sequence[Receiver],
    marks: Marks,
    now: datetime,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Tell every receiver of every run that it was not told of.

    A receiver that does not take an alert is left alone for the rest of this round. Each has its share of the round's
    time, so that one that is slow takes nothing from the others.

    Args:
        ends: In the order in which they are told.
        receivers: Who is told.
        marks: Told of each alert's fate as soon as it is known.
        now: The time.
        clock: What the round's time is taken by.
    """
    outcome, ends = Outcome(), list(ends)
    for receiver in receivers:
        fault: AlertError | None = None
        until = clock() + ROUND_SECONDS / len(receivers)
        for end in ends:
            if receiver.name in end.done:
                continue
            seconds = until - clock()
            if fault is None and seconds < TRY_SECONDS:
                outcome.left.append(f"{_name(end)}: no time was left for {receiver.name}; the next tick goes on")
                continue
            fault = fault or _try(end, receiver, seconds, marks, outcome, clock)
            if fault:
                _put_off(end, receiver.name, fault, marks, now, outcome)
    return outcome


def _try(
    end: RunEnd, receiver: Receiver, seconds: float, marks: Marks, outcome: Outcome, clock: Callable[[], float]
) -> AlertError | None:
    try:
        warning = deliver(end.alert, receiver, seconds=seconds, clock=clock)
    except AlertError as err:
        return err
    marks.told(end.run, receiver.name)
    outcome.delivered.append(f"{receiver.name}: {_name(end)}")
    if warning:
        outcome.warnings.append(f"{_name(end)} has not reached everybody: {warning}")
    return None


def _put_off(end: RunEnd, receiver: str, fault: AlertError, marks: Marks, now: datetime, outcome: Outcome) -> None:
    first = end.tried.get(receiver)
    if first is None:
        marks.tried(end.run, receiver, now)
    if now - (first or now) > KEEP_TRYING:
        marks.given_up(end.run, receiver)
        outcome.given_up.append(f"{receiver} was not told, and will not be: {fault}. {end.alert.text}")
    else:
        outcome.waiting.append(f"{_name(end)} has not reached {receiver}: {fault}")


def _name(end: RunEnd) -> str:
    return f"{end.alert.title} (run {end.run})"
