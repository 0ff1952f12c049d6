from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.rules import Answerable, find_faults, parse_rule

DECIDES = "exact_match > champion"


@pytest.mark.parametrize(
    ("text", "measure", "set_name", "rival", "limit", "name"),
    [
        ("exact_match > champion", "exact_match", "held_out", "champion", 0.0, "exact_match_vs_champion"),
        ("stop_rate >= 0.99", "stop_rate", "held_out", None, 0.99, "stop_rate_min"),
        ("stop_rate>=99%", "stop_rate", "held_out", None, 0.99, "stop_rate_min"),
        ("kld <= 8e-2", "kld", "held_out", None, 0.08, "kld_max"),
        ("exact_match@other >= .8", "exact_match", "other", None, 0.8, "exact_match_other_min"),
        ("general >= base - 5 %", "passed_checks", "general", "base", -0.05, "passed_checks_general_vs_base"),
        ("kld < merged + 0.5", "kld", "held_out", "merged", 0.5, "kld_vs_merged"),
        ("size_bytes <= 5e9", "size_bytes", "held_out", None, 5e9, "size_bytes_max"),
        ("exact_match@set-1.b > 0", "exact_match", "set-1.b", None, 0.0, "exact_match_set_1_b_min"),
    ],
)
def test_reads_a_rule(text: str, measure: str, set_name: str, rival: str | None, limit: float, name: str) -> None:
    rule = parse_rule(text)
    assert (rule.measure, rule.set_name, rule.rival, rule.name) == (measure, set_name, rival, name)
    assert rule.limit == pytest.approx(limit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "exact_match",
        "exact_match > ",
        "exact_match = 1",
        "exact_match >= yesterday",
        "0.9 <= exact_match",
        "exact_match >= 0.9 and stop_rate >= 1",
        "exact_match >= __import__('os')",
        "exact_match@ > 1",
        "general@other >= 0.5",
        "exact_match > 1e999",
        "tokens_per_second > champion",
        "size_bytes@other < 5",
        "exact_match >= nan",
    ],
)
def test_refuses_what_is_no_rule_and_says_which(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(text))):
        parse_rule(text)


@given(st.text(max_size=40))
def test_any_text_is_a_rule_or_a_clear_error(text: str) -> None:
    try:
        rule = parse_rule(text)
    except ValueError as err:
        assert repr(text) in str(err)  # noqa: PT017 - either is right
    else:
        assert re.fullmatch(r"[a-z][a-z0-9_]*", rule.name)
        assert math.isfinite(rule.limit)


def test_only_a_strict_rule_against_the_champion_keeps_the_run_going() -> None:
    kept = {text: parse_rule(text) for text in ("exact_match > champion", "kld < 0.1", "general >= base")}
    assert [rule.on_failure for rule in kept.values()] == ["keep", "fail", "fail"]
    assert [rule.decides for rule in kept.values()] == [True, False, False]
    assert parse_rule("kld < 0.1", "warn").on_failure == "warn"


@pytest.mark.parametrize(("text", "bound"), [("exact_match > champion", -0.02), ("kld < champion", 0.02)])
def test_ties_are_bound_to_the_best_in_the_direction_of_the_measure(text: str, bound: float) -> None:
    rule = parse_rule(text).bound_to_best(0.02)
    assert (rule.rival, rule.limit, rule.bounds_ties, rule.decides) == ("best", bound, True, False)
    assert parse_rule(rule.text).limit == pytest.approx(bound)


def faults_of(*texts: str, has_16bit: bool = True) -> str:
    known = Answerable({**METRICS, "mine": None}, ["held_out", "other", "a.b", "a-b", "general"], has_16bit=has_16bit)
    return "\n".join(find_faults([parse_rule(text) for text in (DECIDES, *texts)], known))


def test_rules_that_can_be_answered_have_no_faults() -> None:
    texts = (
        "general >= base - 0.1",
        "kld <= 0.08",
        "exact_match@other >= merged - 2 %",
        "mine < 5 %",
        "size_bytes < 9",
    )
    assert faults_of(*texts) == ""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("exact_mach >= 0.5", r"'exact_mach >= 0.5': there is no measure 'exact_mach'. Did you mean exact_match\?"),
        ("exact_match@others <= 1", r"there is no set 'others' \(has: held_out, other, "),
        ("perplexity <= champion + 5 %", "'perplexity' is no share; write its limit without %"),
        ("size_bytes <= 5 %", "'size_bytes' is no share"),
        ("kld@other <= 0.1", "'kld' is of the challenger on held-out rows"),
        ("kld < champion", "'kld' is of the challenger on held-out rows"),
        ("general >= merged - 0.1", "the 16-bit model is not asked the general set"),
        ("exact_match@general >= 0.1", "the general set is judged by passed_checks"),
        ("passed_checks >= 0.1", "the general set is judged by passed_checks"),
        ("exact_match@other < champion", "a challenger is not better by that: of 'exact_match' higher is"),
        ("answer_length > champion", "a challenger is not better by that: of 'answer_length' neither is"),
    ],
)
def test_a_rule_that_nothing_could_answer_is_found_before_training(text: str, fault: str) -> None:
    assert re.search(fault, faults_of(text))


@pytest.mark.parametrize("text", ["kld <= 0.1", "exact_match >= merged"])
def test_without_the_16_bit_model_nothing_is_compared_with_it(text: str) -> None:
    assert "compare_with_16bit is off" in faults_of(text, has_16bit=False)


def test_two_rules_that_are_one_check_are_named() -> None:
    assert "'kld <= 0.1' and 'kld < 0.2' are one check, kld_max; keep one" in faults_of("kld <= 0.1", "kld < 0.2")
    assert "'exact_match@a.b > 0' and 'exact_match@a-b > 0' are one check" in faults_of(
        "exact_match@a.b > 0", "exact_match@a-b > 0"
    )


def test_a_rule_must_say_in_what_a_challenger_is_better() -> None:
    known = Answerable(METRICS, ["held_out"], has_16bit=True)
    for text in ("exact_match >= champion", "exact_match > champion - 0.1", "exact_match > base"):
        (fault,) = find_faults([parse_rule(text)], known)
        assert "better than what runs today: 'exact_match > champion'" in fault


@pytest.mark.parametrize(
    ("operator", "holds"), [(">", (0, 0, 1)), (">=", (0, 1, 1)), ("<", (1, 0, 0)), ("<=", (1, 1, 0))]
)
def test_an_operator_holds_as_it_reads_and_never_for_what_is_no_number(operator: str, holds: tuple[int, ...]) -> None:
    rule = parse_rule(f"kld {operator} 0.5")
    assert tuple(int(rule.holds(value, 0.5)) for value in (0.4, 0.5, 0.6)) == holds
    assert not rule.holds(math.nan, 0.5)
