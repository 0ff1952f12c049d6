"""A round of alerts, by a clock of the test's own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ft_pipeline.alerts import delivery
from ft_pipeline.alerts.alert import Alert
from ft_pipeline.alerts.delivery import TIMEOUT_SECONDS, TemporaryFault
from ft_pipeline.alerts.outbox import KEEP_TRYING, ROUND_SECONDS, Outcome, RunEnd, work_off

NOW = datetime(2026, 1, 5, 8, tzinfo=UTC)
ALERT = Alert("failure", "a run of demo failed", ("why",))


class Clock:
    """Stands still but for what takes time."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A receiver that takes its time, and then an alert or none."""

    def __init__(self, clock: Clock, name: str, seconds: float, *, is_down: bool = False) -> None:
        self.name, self.tries = name, 0
        self._clock, self._seconds, self._is_down = clock, seconds, is_down

    def send(self, _alert: Alert) -> str:
        self.tries += 1
        self._clock.now += self._seconds
        if self._is_down:
            raise TemporaryFault("it must be reachable")
        return ""


class Marks:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.kept: list[tuple[Any, ...]] = []

    def told(self, *what: Any) -> None:
        self.kept.append(("told", *what))

    def tried(self, *what: Any) -> None:
        self.kept.append(("tried", *what))

    def given_up(self, *what: Any) -> None:
        self.kept.append(("given up", *what))


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_receivers_that_do_not_answer_leave_a_tick_within_its_minute(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PAUSES_SECONDS", (0.0, 0.0))
    dead = [Slow(clock, name, TIMEOUT_SECONDS, is_down=True) for name in ("webhook", "e-mail")]
    outcome = _work_off(clock, 25, *dead)
    assert clock.now <= ROUND_SECONDS
    assert all(receiver.tries for receiver in dead)
    assert len(outcome.waiting) == 50


def test_what_a_slow_receiver_has_no_time_for_is_left_and_no_fault(clock: Clock) -> None:
    marks = Marks()
    outcome = _work_off(clock, 25, Slow(clock, "webhook", 8), marks=marks)
    assert clock.now <= ROUND_SECONDS
    assert len(outcome.delivered) == len(marks.kept) == 4
    assert len(outcome.left) == 21
    assert outcome.waiting == []


def test_what_ended_while_the_machine_was_off_is_tried_for_a_day_from_now(
    clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "PAUSES_SECONDS", ())
    marks, down = Marks(), Slow(clock, "webhook", 0, is_down=True)
    outcome = _work_off(clock, 2, down, marks=marks)
    assert (len(outcome.waiting), outcome.given_up) == (2, [])
    assert marks.kept == [("tried", "0", "webhook", NOW), ("tried", "1", "webhook", NOW)]


def test_alerts_that_are_given_up_are_marked_after_a_single_try(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "PAUSES_SECONDS", ())
    marks, down = Marks(), Slow(clock, "webhook", 0, is_down=True)
    tried = {"webhook": NOW - KEEP_TRYING - timedelta(seconds=1)}
    ends = [RunEnd(str(number), ALERT, tried=tried) for number in range(25)]
    outcome = work_off(ends, [down], marks, NOW, clock)
    assert (down.tries, len(outcome.given_up), outcome.waiting) == (1, 25, [])
    assert marks.kept == [("given up", str(number), "webhook") for number in range(25)]


def test_whatever_a_receiver_raises_is_its_fault_alone_and_is_told_without_its_words(clock: Clock) -> None:
    class Odd(Slow):
        def send(self, _alert: Alert) -> str:
            raise LookupError("S3CRET")

    marks, other = Marks(), Slow(clock, "e-mail", 1)
    outcome = _work_off(clock, 1, Odd(clock, "webhook", 1), other, marks=marks)
    assert outcome.waiting == [
        "a run of demo failed (run 0) has not reached webhook: webhook must take an alert; it ends with LookupError"
    ]
    assert marks.kept == [("tried", "0", "webhook", NOW), ("told", "0", "e-mail")]


def _work_off(clock: Clock, ends: int, *receivers: Slow, marks: Marks | None = None) -> Outcome:
    return work_off([RunEnd(str(number), ALERT) for number in range(ends)], receivers, marks or Marks(), NOW, clock)
