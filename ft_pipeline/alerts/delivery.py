"""Brings an alert to a receiver, again after a pause where that may help."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from ft_pipeline.alerts.alert import Alert
from ft_pipeline.errors import AlertError

PAUSES_SECONDS = (1.0, 4.0)


class TemporaryFault(AlertError):
    """Another try may succeed."""


class Receiver(Protocol):
    """A way to tell people."""

    @property
    def name(self) -> str:
        """What it is called where it is written down whom a run's alert has reached."""

    def send(self, alert: Alert) -> None:
        """Tell them once.

        Raises:
            TemporaryFault: another try may succeed.
            AlertError: no other try will.
        """


def deliver(alert: Alert, receiver: Receiver, sleep: Callable[[float], None] = time.sleep) -> None:
    """Tell a receiver, up to three times.

    Raises:
        AlertError: it was not told; no secret is in the message.
    """
    for pause_seconds in PAUSES_SECONDS:
        try:
            receiver.send(alert)
        except TemporaryFault:
            sleep(pause_seconds)
        else:
            return
    receiver.send(alert)
