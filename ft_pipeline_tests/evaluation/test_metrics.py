from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline_tests.evaluation.scored import make_scored


def test_exact_match_is_the_share_of_equal_answers_white_space_around_them_left_out() -> None:
    rows = [
        make_scored(),
        replace(make_scored(), prediction=" blue\n"),
        make_scored(right=False),
        make_scored(right=False),
    ]
    assert METRICS["exact_match"](rows) == 0.5


def test_a_row_that_was_not_put_to_the_model_is_wrong() -> None:
    assert METRICS["exact_match"]([replace(make_scored(), fault="too long")]) == 0


def test_perplexity_is_taken_over_tokens_and_not_over_rows() -> None:
    rows = [
        replace(make_scored(), logprob=-math.log(2), reference_tokens=1),
        replace(make_scored(), logprob=-3 * math.log(4), reference_tokens=3),
    ]
    assert METRICS["perplexity"](rows) == pytest.approx(2 ** (7 / 4))


@pytest.mark.parametrize(("logprob", "expected"), [(-math.inf, math.inf), (-1e6, math.inf)])
def test_perplexity_of_an_impossible_reference_is_infinite(logprob: float, expected: float) -> None:
    assert METRICS["perplexity"]([make_scored(logprob=logprob)]) == expected


def test_perplexity_of_a_broken_model_is_no_number() -> None:
    assert math.isnan(METRICS["perplexity"]([make_scored(logprob=math.nan)]))


def test_stop_rate_is_the_share_of_answers_that_ended_by_themselves() -> None:
    assert METRICS["stop_rate"]([make_scored(), make_scored(stopped=False)]) == 0.5


@pytest.mark.parametrize("name", METRICS)
def test_no_metric_is_taken_over_nothing(name: str) -> None:
    with pytest.raises(EvaluationError, match="needs rows to be taken over; there are 0"):
        METRICS[name]([])
    with pytest.raises(EvaluationError, match="needs one row at least"):
        METRICS[name].interval([])


@pytest.mark.parametrize("name", METRICS)
def test_the_interval_of_a_metric_holds_its_value(name: str) -> None:
    rows = [make_scored(n % 3 == 0, logprob=-0.1 * n, stopped=n % 4 != 0) for n in range(50)]
    interval = METRICS[name].interval(rows)
    assert interval.low < METRICS[name](rows) < interval.high
