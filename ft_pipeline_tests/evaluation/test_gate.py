from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.gate import GateResult, judge
from ft_pipeline.evaluation.scores import Scoreboard, build_scoreboard
from ft_pipeline.recipe import GateSection
from ft_pipeline_tests.evaluation.scored import make_board, make_result

RIGHT, WRONG = [True] * 40, [False] * 40
HALF = [True, False] * 20


def rule(board: Scoreboard, name: str, **gate: Any) -> GateResult:
    return next(result for result in judge(board, GateSection(**gate)).results if result.name == name)


def test_publishes_what_keeps_every_rule_and_beats_the_base() -> None:
    verdict = judge(make_board({"base": WRONG, "challenger": RIGHT}), GateSection(min_exact_match=0.9))
    assert verdict.publish
    assert verdict.broken == ()
    assert [result.name for result in verdict.results] == ["exact_match", "stop_rate", "beats_base"]


def test_a_score_below_the_minimum_blocks() -> None:
    verdict = judge(make_board({"base": WRONG, "challenger": HALF}), GateSection(min_exact_match=0.9))
    assert not verdict.publish
    assert [(result.name, result.blocking) for result in verdict.broken] == [("exact_match", True)]
    assert verdict.broken[0].detail == "exact match is 50.0 % on held-out rows, below the limit 90.0 %"


def test_a_score_at_the_limit_passes() -> None:
    assert rule(make_board({"base": WRONG, "challenger": HALF}), "exact_match", min_exact_match=0.5).passed


def test_a_model_that_does_not_stop_blocks() -> None:
    board = make_board({"base": WRONG, "challenger": RIGHT})
    endless = replace(board.gated, rows=tuple(replace(row, stopped=False) for row in board.gated.rows))
    result = rule(build_scoreboard([board.opponent, endless]), "stop_rate")
    assert (result.passed, result.blocking, result.value) == (False, True, 0.0)


@pytest.mark.parametrize(("limit", "passed"), [(1.6, False), (1.7, True)])
def test_perplexity_is_asked_for_only_if_the_recipe_has_a_limit(limit: float, passed: bool) -> None:
    board = make_board({"base": WRONG, "challenger": RIGHT})
    assert rule(board, "perplexity", max_perplexity=limit).passed is passed
    assert "perplexity" not in [result.name for result in judge(board, GateSection()).results]


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
def test_what_is_no_number_never_passes(logprob: float) -> None:
    board = make_board({"base": WRONG, "challenger": RIGHT})
    broken = replace(board.gated, rows=tuple(replace(row, logprob=logprob) for row in board.gated.rows))
    result = rule(build_scoreboard([board.opponent, broken]), "perplexity", max_perplexity=1e300)
    assert not result.passed


def test_each_named_test_set_has_its_own_minimum() -> None:
    board = make_board({"base": WRONG, "challenger": RIGHT}, test_set=HALF)
    result = rule(board, "exact_match_other", min_test_set_exact_match={"other": 0.8})
    assert (result.passed, result.blocking, result.value) == (False, True, 0.5)


def test_a_test_set_without_rows_never_passes_not_even_a_minimum_of_zero() -> None:
    board = make_board({"base": WRONG, "challenger": RIGHT})
    result = rule(board, "exact_match_other", min_test_set_exact_match={"other": 0.0})
    assert not result.passed
    assert result.detail == "there are no other rows to score"


def test_a_challenger_that_is_worse_than_the_base_is_not_published_whoever_gets_a_tie() -> None:
    verdict = judge(make_board({"base": RIGHT, "challenger": HALF}), GateSection(tie="challenger"))
    assert not verdict.publish
    assert verdict.broken[0].name == "beats_base"
    assert "worse than base Q4_K_M by -50.0 points" in verdict.broken[0].detail


@pytest.mark.parametrize("tie", ["champion", "challenger"])
def test_a_tie_goes_to_whom_the_recipe_says(tie: str) -> None:
    result = rule(make_board({"base": WRONG, "champion": HALF, "challenger": HALF}), "beats_champion", tie=tie)
    assert result.passed is (tie == "challenger")
    assert not result.blocking
    assert f"gives a tie to the {tie}" in result.detail


def test_one_better_row_of_forty_is_a_tie() -> None:
    champion = [False, *RIGHT[1:]]
    result = rule(make_board({"base": WRONG, "champion": champion, "challenger": RIGHT}), "beats_champion")
    assert result.value == 0
    assert not result.passed


def test_the_champion_is_the_opponent_where_there_is_one() -> None:
    verdict = judge(make_board({"base": WRONG, "champion": RIGHT, "challenger": HALF}), GateSection())
    assert not verdict.publish
    assert verdict.results[-1].name == "beats_champion"


def test_the_opponent_has_the_challengers_quantization_if_it_may_be() -> None:
    challenger = make_result("challenger", RIGHT, "Q8_0")
    board = build_scoreboard([make_result("base", WRONG), make_result("base", WRONG, "Q8_0"), challenger])
    assert board.opponent.label == "base Q8_0"
    champion = make_result("champion", WRONG, "Q2_K")
    assert build_scoreboard([*board.results, champion]).opponent.label == "champion Q2_K"


def test_the_first_challenger_is_the_one_that_is_gated() -> None:
    results = [make_result("base", WRONG), make_result("challenger", HALF, "Q4_0"), make_result("challenger", RIGHT)]
    assert build_scoreboard(results).gated.label == "challenger Q4_0"


def test_says_who_is_missing_and_who_stands_twice() -> None:
    with pytest.raises(EvaluationError, match="needs a challenger; there is base Q4_K_M"):
        build_scoreboard([make_result("base", WRONG)])
    with pytest.raises(EvaluationError, match="needs a champion or a base"):
        build_scoreboard([make_result("challenger", RIGHT)])
