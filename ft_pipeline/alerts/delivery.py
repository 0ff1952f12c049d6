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
# A server that says nothing for so long is taken for one that is not there.
TIMEOUT_SECONDS = 10.0
# What a try is waited for, whatever a server does: say a word now and then, or have addresses that answer nothing.
TRY_SECONDS = 14.0


class TemporaryFault(AlertError):
    """Another try may succeed."""


class Overdue(TemporaryFault):
    """A try goes on for longer than it is waited for."""


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
        except Overdue:
            raise
        except TemporaryFault:
            if clock() - started + pause_seconds + TRY_SECONDS > seconds:
                raise
            sleep(pause_seconds)
    return _send(alert, receiver)


class _Try:
    """A try under way, in a thread of its own: no library ends one in time."""

    def __init__(self, alert: Alert, receiver: Receiver) -> None:
        self.outcome: str | Exception | None = None
        self._alert, self._receiver = alert, receiver
        self.thread = threading.Thread(target=self._send, name=f"alert by {receiver.name}", daemon=True)
        self.thread.start()

    def _send(self) -> None:
        try:
            self.outcome = self._receiver.send(self._alert)
        except Exception as err:  # noqa: BLE001 - whatever a library raises, other receivers are to be told
            self.outcome = err


# Those that were not waited for to their end, by the receiver's name: one at a time, and what comes of it counts.
_late: dict[tuple[str, Alert], _Try] = {}


def _send(alert: Alert, receiver: Receiver) -> str:
    name = receiver.name
    found = _late.pop((name, alert), None)
    if found is None:
        if any(other == name and late.thread.is_alive() for (other, _), late in _late.items()):
            raise Overdue(f"{name} must take one alert after the other, and is still at an earlier one")
        found = _Try(alert, receiver)
    found.thread.join(TRY_SECONDS)
    if found.outcome is None:
        _late[name, alert] = found
        raise Overdue(f"{name} must take an alert within {TRY_SECONDS:g} s; it is still at it")
    if isinstance(found.outcome, AlertError):
        raise found.outcome
    if isinstance(found.outcome, Exception):
        # No words of the library: they may hold the address.
        raise AlertError(f"{name} must take an alert; it ends with {type(found.outcome).__name__}")
    return found.outcome
