"""A loss that goes wrong ends the training and names the rows."""

from __future__ import annotations

import json
import math

import pytest

from ft_pipeline.errors import TrainingError
from ft_pipeline.finetuning.guards import LossGuard, name_worst_rows


def rows() -> str:
    return "data/a.jsonl:17 (loss 9.000)"


def never() -> str:
    raise AssertionError("rows are named only if something is wrong")


def guard_after(losses: list[float], max_jump: float = 4.0) -> LossGuard:
    guard = LossGuard(max_jump)
    for step, loss in enumerate(losses, start=1):
        guard.check(step, loss, 1.0, never)
    return guard


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_no_number_ends_the_training_at_the_first_step(bad: float) -> None:
    with pytest.raises(
        TrainingError,
        match=rf"loss must be a finite number, got {bad} at step 1\. Rows of this step: data/a\.jsonl:17 "
        r"\(loss 9\.000\)\. Look at them, or lower training\.learning_rate",
    ):
        LossGuard(4.0).check(1, bad, 1.0, rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_gradient_that_is_no_number_ends_the_training_and_blames_no_row(bad: float) -> None:
    with pytest.raises(
        TrainingError,
        match=rf"gradient norm must be a finite number, got {bad} at step 1, whose loss is 1\.000\. Lower "
        r"training\.learning_rate\. Rows of this step with the highest losses: data/a\.jsonl:17 \(loss 9\.000\)\. "
        r"They need not be the cause\.$",
    ):
        LossGuard(4.0).check(1, 1.0, bad, rows)


def test_a_jump_ends_the_training_with_its_rule_value_place_and_remedy() -> None:
    guard = guard_after([2.0] * 8)
    with pytest.raises(
        TrainingError,
        match=r"at most 4 nats \(training\.execution\.max_loss_jump\) above the median of the last 8 steps, 2\.000; "
        r"got 6\.010 at step 9\. Rows of this step: data/a\.jsonl:17 .*lower training\.learning_rate, or raise "
        r"training\.execution\.max_loss_jump",
    ):
        guard.check(9, 6.01, 1.0, rows)


def test_a_rise_up_to_the_limit_and_any_fall_are_no_jump() -> None:
    guard_after([2.0] * 8).check(9, 6.0, 1.0, never)
    guard_after([9.0] * 8).check(9, 0.1, 1.0, never)


def test_the_first_steps_may_jump_as_nothing_is_known_of_them() -> None:
    guard_after([1.0] * 7).check(8, 50.0, 1.0, never)


def test_only_the_last_32_steps_are_the_measure() -> None:
    guard = guard_after([9.0] * 40 + [1.0] * 32)
    with pytest.raises(TrainingError, match=r"median of the last 32 steps, 1\.000; got 5\.500"):
        guard.check(73, 5.5, 1.0, rows)


def test_one_high_step_does_not_move_the_measure() -> None:
    guard = guard_after([1.0] * 8 + [4.9])
    with pytest.raises(TrainingError, match=r"the last 9 steps, 1\.000"):
        guard.check(10, 5.1, 1.0, rows)


def test_a_training_that_goes_on_is_judged_as_before() -> None:
    state = json.loads(json.dumps(guard_after([1.0] * 40).state()))
    guard = LossGuard(4.0)
    guard.restore(state)
    assert guard.state() == state
    with pytest.raises(TrainingError, match="the last 32 steps"):
        guard.check(41, 5.5, 1.0, rows)


def test_what_is_wrong_is_told_also_when_the_rows_cannot_be() -> None:
    def out_of_memory() -> str:
        raise RuntimeError("CUDA out of memory")

    with pytest.raises(
        TrainingError, match=r"got nan at step 1\. Rows of this step: not known.*\(CUDA out of memory\)"
    ):
        LossGuard(4.0).check(1, math.nan, 1.0, out_of_memory)


def test_rows_without_a_number_come_first_and_then_the_highest() -> None:
    losses = {3: 1.0, 4: math.nan, 5: 9.0, 6: math.inf, 7: 2.0}
    named = name_worst_rows(losses, lambda row: f"a.jsonl:{row}", most=4)
    assert sorted(named[: named.index(", a.jsonl:5")].split(", ")) == ["a.jsonl:4 (loss nan)", "a.jsonl:6 (loss inf)"]
    assert named.endswith("a.jsonl:5 (loss 9.000), a.jsonl:7 (loss 2.000) and 1 more")


def test_all_rows_are_named_when_they_are_few() -> None:
    assert name_worst_rows({0: 1.0}, lambda row: f"a.jsonl:{row}") == "a.jsonl:0 (loss 1.000)"
