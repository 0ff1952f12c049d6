"""Works off the runs that have ended: each alert reaches each receiver once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from ft_pipeline.alerts.alert import Alert
from ft_pipeline.alerts.delivery import Receiver, deliver
from ft_pipeline.alerts.mail import MailReceiver
from ft_pipeline.alerts.settings import AlertSettings
from ft_pipeline.alerts.webhook import WebhookReceiver
from ft_pipeline.errors import AlertError

# A receiver that takes nothing for so long is given up; the alert is in the log then.
KEEP_TRYING = timedelta(days=1)


@dataclass(frozen=True)
class RunEnd:
    """A run that has ended.

    Attributes:
        at: When.
        told: Names of the receivers that have its alert.
    """

    run: str
    at: datetime
    alert: Alert
    told: frozenset[str] = frozenset()


@dataclass
class Outcome:
    """What became of the alerts.

    Attributes:
        delivered: Sentences: what has reached whom.
        given_up: Sentences: what will reach nobody, in full.
        waiting: Sentences: what is to be tried again, and why.
    """

    delivered: list[str] = field(default_factory=list)
    given_up: list[str] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


def list_receivers(settings: AlertSettings) -> list[Receiver]:
    """Who is to be told."""
    receivers: list[Receiver] = [WebhookReceiver(settings.webhook)] if settings.webhook else []
    if settings.mail_server:
        receivers.append(MailReceiver(settings.mail_server, settings.sender, settings.recipients))
    return receivers


def work_off(
    ends: Iterable[RunEnd], receivers: Sequence[Receiver], mark: Callable[[RunEnd, str], None], now: datetime
) -> Outcome:
    """Tell every receiver of every run that it was not told of.

    A receiver that cannot be reached is left alone for the rest of this round.

    Args:
        ends: In the order in which they are told.
        receivers: Who is told.
        mark: Called with the run and the receiver's name as soon as it is told.
        now: The time.
    """
    outcome = Outcome()
    faults: dict[str, AlertError] = {}
    for end in ends:
        for receiver in receivers:
            if receiver.name in end.told:
                continue
            fault = faults.get(receiver.name) or _try(end, receiver)
            if fault is None:
                mark(end, receiver.name)
                outcome.delivered.append(f"{receiver.name}: {end.alert.title} (run {end.run})")
            elif now - end.at > KEEP_TRYING:
                outcome.given_up.append(f"{receiver.name} was not told, and will not be: {fault}. {end.alert.text}")
            else:
                faults[receiver.name] = fault
                outcome.waiting.append(f"{end.alert.title} (run {end.run}) has not reached {receiver.name}: {fault}")
    return outcome


def _try(end: RunEnd, receiver: Receiver) -> AlertError | None:
    try:
        deliver(end.alert, receiver)
    except AlertError as err:
        return err
    return None
