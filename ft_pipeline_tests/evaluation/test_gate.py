from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.gate import GateResult, judge
from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.request import Absence, Role, find_gated
from ft_pipeline.evaluation.scores import Scoreboard, build_scoreboard, find_opponent
from ft_pipeline.recipe_evaluation import GateSection, RuleSection
from ft_pipeline_tests.evaluation.scored import make_board, make_result

RIGHT, WRONG = [True] * 40, [False] * 40
HALF = [True, False] * 20
DECIDES = "exact_match > champion"


def gate(*rules: Any, **fields: Any) -> GateSection:
    return GateSection(rules=rules or (DECIDES,), **fields)


def find(board: Scoreboard, name: str, section: GateSection) -> GateResult:
    return next(result for result in judge(board, section).results if result.rule.name == name)


def rebuild(board: Scoreboard, **changes: Any) -> Scoreboard:
    """The board with another challenger, whose rows are all changed so."""
    gated = replace(board.gated, rows=tuple(replace(row, **changes) for row in board.gated.rows))
    others = [result for result in board.results if result is not board.gated]
    return build_scoreboard([*others, gated], METRICS)


def test_publishes_what_keeps_every_rule_and_beats_the_base() -> None:
    verdict = judge(
        make_board({"base": WRONG, "challenger": RIGHT}), gate(DECIDES, "exact_match >= 0.9", "stop_rate >= 99 %")
    )
    assert verdict.publish
    assert verdict.is_best
    assert verdict.refusals == ()
    assert [result.rule.name for result in verdict.results] == [
        "exact_match_vs_champion",
        "exact_match_min",
        "stop_rate_min",
    ]


def test_a_score_below_the_minimum_blocks_and_says_value_and_limit() -> None:
    verdict = judge(make_board({"base": WRONG, "challenger": HALF}), gate(DECIDES, "exact_match >= 0.9"))
    assert not verdict.publish
    (broken,) = verdict.refusals
    assert (broken.rule.name, broken.blocking, broken.value, broken.rule.limit) == ("exact_match_min", True, 0.5, 0.9)
    assert broken.detail == "exact_match is 50.0 % on held_out rows, not within the limit >= 90.0 %"


def test_a_score_at_the_limit_passes() -> None:
    assert find(make_board({"base": WRONG, "challenger": HALF}), "exact_match_min", gate("exact_match >= 0.5")).passed


def test_a_model_that_does_not_stop_blocks() -> None:
    board = rebuild(make_board({"base": WRONG, "challenger": RIGHT}), stopped=False)
    result = find(board, "stop_rate_min", gate(DECIDES, "stop_rate >= 0.99"))
    assert (result.passed, result.blocking, result.value) == (False, True, 0.0)


@pytest.mark.parametrize("logprob", [math.nan, -math.inf])
@pytest.mark.parametrize("text", ["perplexity <= 1e300", "perplexity < champion", "perplexity <= base + 1e300"])
def test_what_is_no_number_never_passes(logprob: float, text: str) -> None:
    board = rebuild(make_board({"base": WRONG, "challenger": RIGHT}), logprob=logprob)
    assert not judge(board, gate(DECIDES, text)).results[1].passed


def test_a_rule_about_what_no_row_has_never_passes() -> None:
    board = make_board({"base": WRONG, "challenger": RIGHT})
    result = find(board, "json_fields_min", gate(DECIDES, "json_fields >= 0"))
    assert not result.passed
    assert math.isnan(result.value)
    assert result.detail == "there is nothing on held_out rows to take json_fields from"


def test_a_test_set_has_rules_of_its_own() -> None:
    board = make_board({"base": WRONG, "challenger": RIGHT}, test_set=HALF)
    assert not find(board, "exact_match_other_min", gate(DECIDES, "exact_match@other >= 0.8")).passed


def test_what_a_file_costs_can_be_limited() -> None:
    board = make_board({"base": WRONG, "challenger": RIGHT})
    size = board.gated.costs.size_bytes
    assert find(board, "size_bytes_max", gate(DECIDES, f"size_bytes <= {size}")).passed
    assert not find(board, "size_bytes_max", gate(DECIDES, f"size_bytes < {size}")).passed


def test_a_rule_that_only_warns_stops_nothing() -> None:
    board = make_board({"base": WRONG, "challenger": HALF})
    verdict = judge(board, gate(DECIDES, RuleSection(rule="exact_match >= 0.9", on_failure="warn")))
    assert verdict.publish
    assert not verdict.results[1].passed
    assert not verdict.results[1].blocking


def test_a_worse_challenger_keeps_the_champion_and_does_not_fail_the_run() -> None:
    verdict = judge(make_board({"base": WRONG, "champion": RIGHT, "challenger": HALF}), gate())
    (result,) = verdict.results
    assert (verdict.publish, verdict.is_best, result.passed, result.blocking) == (False, False, False, False)
    assert "worse than champion Q4_K_M" in result.detail
    assert "−50.0 points" in result.detail


def test_a_tie_keeps_the_champion() -> None:
    board = make_board({"base": WRONG, "champion": [True] * 20 + [False] * 20, "challenger": HALF})
    verdict = judge(board, gate())
    assert not verdict.publish
    assert "the recipe gives a tie to the champion" in verdict.results[0].detail


def test_a_tie_goes_to_the_challenger_where_the_recipe_prefers_newer_data() -> None:
    board = make_board({"base": WRONG, "champion": [True] * 20 + [False] * 20, "challenger": HALF})
    assert judge(board, gate(tie="newer")).publish


def test_newer_data_are_no_excuse_for_a_worse_model() -> None:
    assert not judge(make_board({"base": WRONG, "champion": RIGHT, "challenger": HALF}), gate(tie="newer")).publish


def test_a_tie_may_not_fall_below_the_best_champion_ever() -> None:
    best, champion = [True] * 38 + [False] * 2, [True] * 36 + [False] * 4
    rights: Mapping[Role, Sequence[bool]] = {
        "base": WRONG,
        "best": best,
        "champion": champion,
        "challenger": [True] * 35 + [False] * 5,
    }
    verdict = judge(make_board(rights), gate(tie="newer", max_loss_from_best=0.05))
    tie, bound = verdict.results
    assert tie.passed
    assert not bound.passed
    assert bound.rule.name == "exact_match_tie_bound"
    assert not verdict.publish
    assert judge(make_board(rights), gate(tie="newer", max_loss_from_best=0.1)).publish


def test_what_beats_the_champion_is_not_held_against_the_best() -> None:
    rights: Mapping[Role, Sequence[bool]] = {"base": WRONG, "best": RIGHT, "champion": WRONG, "challenger": HALF}
    verdict = judge(make_board(rights), gate(tie="newer"))
    assert verdict.publish
    assert not verdict.is_best


def test_thirty_ties_in_a_row_cannot_lose_a_point_each() -> None:
    generator, rows = random.Random(7), 400
    champion = best = [True] * 360 + [False] * 40
    for _ in range(30):
        challenger = list(champion)
        for index in generator.sample([i for i, right in enumerate(champion) if right], 4):
            challenger[index] = False
        board = make_board({"base": [False] * rows, "best": best, "champion": champion, "challenger": challenger})
        verdict = judge(board, gate(tie="newer", max_loss_from_best=0.02))
        if verdict.publish:
            champion = challenger
        assert not verdict.is_best
    assert sum(champion) / rows >= 0.9 - 0.02


def test_a_measure_of_which_less_is_better_is_compared_the_other_way_round() -> None:
    board = rebuild(make_board({"base": WRONG, "challenger": RIGHT}), logprob=-0.5)
    section = gate("perplexity < champion")
    assert judge(board, section).publish
    assert not judge(rebuild(board, logprob=-2.0), section).publish


def test_an_absent_champion_is_nobody_to_compare_with_and_the_base_no_stand_in() -> None:
    results = [make_result("base", WRONG), make_result("challenger", RIGHT)]
    gone = Absence(role="champion", reason="gguf_model 12ab is not in the store")
    verdict = judge(build_scoreboard(results, METRICS, [gone]), gate(DECIDES, "exact_match >= base"))
    assert not verdict.publish
    assert verdict.results[0].detail == "the champion could not be scored: gguf_model 12ab is not in the store"
    assert verdict.results[1].passed


def test_where_the_best_is_gone_a_tie_is_not_taken_and_a_better_model_sets_the_mark_anew() -> None:
    gone = [Absence(role="best", reason="gone")]
    level = build_scoreboard([make_result(role, HALF) for role in ("base", "champion", "challenger")], METRICS, gone)
    verdict = judge(level, gate(tie="newer"))
    assert (verdict.publish, verdict.is_best) == (False, False)
    assert verdict.results[1].detail == "the best could not be scored: gone"
    better = build_scoreboard([make_result("champion", HALF), make_result("challenger", RIGHT)], METRICS, gone)
    verdict = judge(better, gate(tie="newer"))
    assert (verdict.publish, verdict.is_best) == (True, True)


@pytest.mark.parametrize(("won", "published"), [(4, False), (5, False), (6, True)])
def test_a_few_rows_that_were_won_are_no_proof(won: int, published: bool) -> None:
    rights = [True] * (40 - won)
    board = make_board({"champion": rights + [False] * won, "challenger": RIGHT})
    verdict = judge(board, gate())
    assert verdict.results[0].difference is not None
    assert verdict.results[0].difference.interval.low > 0
    assert verdict.publish is published


def test_a_margin_on_the_losing_side_does_not_decide() -> None:
    section = gate(DECIDES, "exact_match@other > champion - 0.9", tie="newer")
    assert [rule.decides for rule in section.parsed] == [True, False, False]


def test_a_rule_may_ask_for_the_difference_itself() -> None:
    board = make_board({"base": RIGHT, "challenger": [True] * 38 + [False] * 2})
    assert find(board, "exact_match_vs_base", gate(DECIDES, "exact_match >= base - 0.05")).passed
    assert not find(board, "exact_match_vs_base", gate(DECIDES, "exact_match >= base - 0.04")).passed


def test_the_rival_is_the_one_of_the_same_quantization() -> None:
    results = [make_result("base", WRONG, "Q8_0"), make_result("base", RIGHT), make_result("challenger", RIGHT)]
    board = build_scoreboard(results, METRICS)
    assert board.opponent is results[1]
    assert board.find_rival("base") is results[1]


def test_refuses_a_contest_without_a_challenger_or_without_a_rival() -> None:
    base, challenger = (make_result(role, RIGHT).contestant for role in ("base", "challenger"))
    with pytest.raises(EvaluationError, match="needs a challenger; there is base Q4_K_M"):
        find_gated([base])
    with pytest.raises(EvaluationError, match="there is neither"):
        find_opponent([challenger])
    with pytest.raises(EvaluationError, match="base Q4_K_M stands twice"):
        find_gated([base, base, challenger])
