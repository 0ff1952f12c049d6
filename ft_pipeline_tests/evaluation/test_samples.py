from __future__ import annotations

import math
from dataclasses import replace

import pytest

from ft_pipeline.evaluation.report.samples import choose_samples
from ft_pipeline.evaluation.scores import build_scoreboard
from ft_pipeline_tests.evaluation.scored import change_rows, make_board, make_outcome, make_result, make_rich_board


def test_samples_begin_with_what_the_opponent_had_right_and_end_with_what_is_right() -> None:
    outcome = make_outcome(make_board({"base": [False, True, False, True], "challenger": [True, False, False, True]}))
    assert [sample.row.number for sample in choose_samples(outcome, 4)] == [1, 2, 3, 0]
    assert [sample.row.number for sample in choose_samples(outcome, 2)] == [1, 2]
    assert choose_samples(outcome, 0) == []


@pytest.mark.parametrize("worst", [-9.0, -math.inf, math.nan])
def test_among_wrong_answers_the_least_likely_reference_comes_first(worst: float) -> None:
    board = make_board({"base": [False] * 3, "challenger": [False] * 3})
    board = change_rows(
        board, "challenger Q4_K_M", lambda row: replace(row, logprob=worst) if row.row.number == 2 else row
    )
    assert [sample.row.number for sample in choose_samples(make_outcome(board), 3)] == [2, 0, 1]


def test_samples_show_base_champion_and_the_gated_challenger_once_each() -> None:
    board = make_board({"challenger": [True], "champion": [False], "base": [False]})
    answers = choose_samples(make_outcome(board), 1)[0].answers
    assert [one.result.label for one in answers] == ["base Q4_K_M", "champion Q4_K_M", "challenger Q4_K_M"]


def test_everybody_else_is_shown_where_his_answer_differs_and_named_where_it_does_not() -> None:
    results = [make_result("base", [False]), make_result("challenger", [True]), make_result("merged", [True], "F16")]
    results.append(make_result("challenger", [False], "Q2_K"))
    sample = choose_samples(make_outcome(build_scoreboard(results, make_rich_board().metrics)), 1)[0]
    assert [one.result.label for one in sample.others] == ["challenger Q2_K"]
    assert [result.label for result in sample.same] == ["merged F16"]


def test_an_answer_with_the_right_fields_in_another_order_is_right() -> None:
    board = make_rich_board()
    row = next(row for row in board.gated.rows if row.row.set_name == "held_out" and row.row.number == 3)
    turned = '{"n": 3, "who": "", "tag": "<0>"}'
    board = change_rows(board, board.gated.label, lambda one: replace(one, prediction=turned, stopped=True))
    found = {sample.row.place: sample for sample in choose_samples(make_outcome(board), 1000)}
    assert found[row.row.place].is_right


def test_a_contestant_that_was_not_asked_a_set_has_no_answer_there() -> None:
    board = make_board({"base": [True, True], "challenger": [False, False]}, test_set=[False])
    board = build_scoreboard(
        [replace(result, rows=result.rows[: 2 if result.label.startswith("base") else 3]) for result in board.results],
        board.metrics,
    )
    sample = next(one for one in choose_samples(make_outcome(board), 3) if one.row.set_name == "other")
    assert [one.result.label for one in sample.answers] == ["challenger Q4_K_M"]
