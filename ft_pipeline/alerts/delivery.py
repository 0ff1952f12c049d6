"""Brings an alert to a receiver, again after a pause where that may help."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

from ft_pipeline.alerts.alert import Alert
from ft_pipeline.errors import AlertError

PAUSES_SECONDS = (1.0, 4.0)
# What one try may take, whatever a server does: say a word now and then, or have addresses that answer nothing.
TIMEOUT_SECONDS = 10.0


class TemporaryFault(AlertError):
    """Another try may succeed."""


class Receiver(Protocol):
    """A way to tell people."""

    @property
    def name(self) -> str:
        """What it is called where it is written down whom a run's alert has reached."""

    def send(self, alert: Alert) -> str:
        """Tell them once.

        Returns:
            Whom it has not reached, though others are told: to tell all again would tell those twice. Empty: nobody.

        Raises:
            TemporaryFault: another try may succeed.
            AlertError: no other try will.
        """


def deliver(
    alert: Alert,
    receiver: Receiver,
    sleep: Callable[[float], None] = time.sleep,
    *,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> str:
    """Tell a receiver, up to three times; no try begins that may not end within the seconds.

    Returns:
        Whom of several it has not reached.

    Raises:
        AlertError: it was not told; no secret is in the message.
    """
    started = clock()
    for pause_seconds in PAUSES_SECONDS:
        try:
            return _send(alert, receiver)
        except TemporaryFault:
            if clock() - started + pause_seconds + TIMEOUT_SECONDS > seconds:
                raise
            sleep(pause_seconds)
    return _send(alert, receiver)


def _send(alert: Alert, receiver: Receiver) -> str:
    outcome: list[str | Exception] = []

    def send() -> None:
        try:
            outcome.append(receiver.send(alert))
        except Exception as err:  # noqa: BLE001 - whatever a library raises, other receivers are to be told
            outcome.append(err)

    thread = threading.Thread(target=send, name=f"alert by {receiver.name}", daemon=True)
    thread.start()
    thread.join(TIMEOUT_SECONDS)
    if not outcome:
        raise TemporaryFault(f"{receiver.name} must take an alert within {TIMEOUT_SECONDS:g} s")
    found = outcome[0]
    if isinstance(found, AlertError):
        raise found
    if isinstance(found, Exception):
        # No words of the library: they may hold the address.
        raise AlertError(f"{receiver.name} must take an alert; it ends with {type(found).__name__}")
    return found
