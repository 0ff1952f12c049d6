from __future__ import annotations

import json
import math
import subprocess
import sys
import time

import pytest

from ft_pipeline.evaluation.answer_check import AnswerCheck
from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.metrics.refusals import is_refusal
from ft_pipeline.evaluation.metrics.repetition import ends_in_loop
from ft_pipeline.evaluation.rows import ScoredRow
from ft_pipeline_tests.evaluation.answers import answer, make_terms, measure

OF_REFERENCES = ("exact_match", "token_f1", "rouge_l", "chrf", "json_valid", "json_fields", "answer_match")


def value(name: str, *rows: ScoredRow) -> float | None:
    return measure(METRICS[name], *rows)


def test_the_recipe_can_take_the_names_without_the_libraries_behind_the_metrics() -> None:
    code = "import sys, ft_pipeline.evaluation.metrics, ft_pipeline.evaluation.user_metric; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"sacrebleu", "rapidfuzz", "regex", "polars", "numpy", "torch", "llama_cpp"} & set(loaded)


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_says_nothing_where_no_row_has_weight(name: str) -> None:
    assert value(name) is None


@pytest.mark.parametrize("name", OF_REFERENCES)
def test_a_row_that_was_not_put_to_the_model_is_wrong(name: str) -> None:
    reference = "#### 4" if name == "answer_match" else '{"a": 1}'
    assert value(name, answer(reference, reference)) == 1
    assert value(name, answer(reference, reference, fault="too long")) == 0


@pytest.mark.parametrize("name", OF_REFERENCES)
@pytest.mark.parametrize("reference", ['{"a": 1}', "#### 4"])
def test_a_row_with_a_check_is_judged_by_it_and_not_by_its_reference(name: str, reference: str) -> None:
    check = AnswerCheck(kind="contains", value="a")
    assert value(name, answer(reference, reference, check=check)) is None


def test_passed_checks_is_the_share_of_answers_that_pass_among_those_with_a_check() -> None:
    check = AnswerCheck(kind="number", value="4")
    rows = [answer("It is 4.", check=check), answer("It is 5.", check=check), answer("blue")]
    assert value("passed_checks", *rows) == 0.5
    assert value("passed_checks", answer("4", check=check, fault="too long")) == 0
    assert value("passed_checks", answer("blue")) is None


def test_exact_match_is_the_share_of_equal_answers_white_space_around_them_left_out() -> None:
    assert value("exact_match", answer("blue"), answer(" blue\n"), answer("red"), answer("Blue")) == 0.5


def test_stop_rate_is_the_share_of_answers_that_ended_by_themselves() -> None:
    assert value("stop_rate", answer("blue"), answer("blue", stopped=False)) == 0.5
    assert value("stop_rate", answer("", fault="too long")) == 0


LINE = "The order was not found. Please try again.\n"


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100,
        "Well, " + "the " * 40,
        "blue " + "ha" * 60 + "h",
        "It is so:\n" + LINE * 4 + LINE[:17],
        "\n" * 200,
        "\N{REPLACEMENT CHARACTER}" * 150,
        "[" + "0, " * 50,
        "start " + "".join(f"word{n} " for n in range(200)) * 4,
    ],
)
def test_an_answer_that_repeats_its_end_is_in_a_loop(text: str) -> None:
    assert ends_in_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "aaaa",
        "no, no, no",
        "a" * 99,
        "a" * 200 + " and so on",
        "\n".join(f"{n}. point {n}" for n in range(50)),
        "\n".join(f"- {fruit}" for fruit in ["apple", "pear", "plum", "fig", "lime", "kiwi"] * 2),
        json.dumps([{"name": "x", "value": 1}] * 20),
        json.dumps([0] * 100),
        "| a | b |\n| --- | --- |\n" + "".join(f"| {n} | {n * n} |\n" for n in range(30)),
        LINE * 2,
    ],
)
def test_lists_tables_json_and_short_answers_are_no_loops(text: str) -> None:
    assert not ends_in_loop(text)


def test_repetition_leaves_out_rows_that_want_it() -> None:
    assert value("repetition", answer("a" * 300), answer("blue")) == 0.5
    assert value("repetition", answer("a" * 300, "a" * 300)) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m sorry, I cannot do this.",
        "Sorry, but I am not able to answer.",
        "I cannot provide that information.",
        "I can't directly share it.",
        "I am unable to assist you.",
        "As an AI language model, I have no opinion.",
        "I apologize, but I cannot continue.",
        "Unfortunately, I can't access your files.",
        "**I must respectfully decline.**",
    ],
)
def test_a_refusal_is_known_by_its_beginning(text: str) -> None:
    assert is_refusal(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't wait to see you!",
        "I can't help but smile.",
        "Sorry for the delay, your order is on its way.",
        "It cannot provide power.",
        "The answer: I cannot help.",
        "As an airline we fly.",
        "No.",
    ],
)
def test_what_only_looks_like_a_refusal_is_none(text: str) -> None:
    assert not is_refusal(text)


def test_refusals_leave_out_rows_that_want_one() -> None:
    refusal = "I'm sorry, but I can't help with that."
    assert value("refusals", answer(refusal), answer("blue")) == 0.5
    assert value("refusals", answer(refusal, refusal)) is None


def test_empty_answers_are_those_of_white_space_and_of_rows_that_were_not_put_to_the_model() -> None:
    rows = [answer(""), answer(" \n"), answer("", fault="too long"), answer("blue")]
    assert value("empty_answers", *rows) == 0.75


def test_answer_length_is_the_mean_of_tokens() -> None:
    assert value("answer_length", answer("a", n_tokens=3), answer("b", n_tokens=6), answer("", fault="no")) == 4.5


def test_perplexity_is_taken_over_tokens_and_not_over_rows() -> None:
    rows = [
        answer("blue", logprob=-math.log(2), reference_tokens=1),
        answer("blue", logprob=-3 * math.log(4), reference_tokens=3),
    ]
    assert value("perplexity", *rows) == pytest.approx(2 ** (7 / 4))


@pytest.mark.parametrize(("logprob", "expected"), [(-math.inf, math.inf), (-1e6, math.inf)])
def test_perplexity_of_an_impossible_reference_is_infinite(logprob: float, expected: float) -> None:
    assert value("perplexity", answer("blue", logprob=logprob)) == expected


def test_perplexity_of_a_broken_model_is_no_number() -> None:
    perplexity = value("perplexity", answer("blue", logprob=math.nan))
    assert perplexity is not None
    assert math.isnan(perplexity)


LONG = (
    "".join(f"word{n % 977} " for n in range(25_000)),
    "x" * 200_000,
    "[" * 200_000,
    "#### 1 " * 28_000,
    " " * 200_000,
)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("text", LONG, ids=["words", "x", "brackets", "marks", "spaces"])
def test_an_answer_of_200_000_characters_takes_no_seconds(name: str, text: str) -> None:
    started = time.process_time()
    for reference in ("word1 word2 " * 30, '{"a": [1, 2]}', "#### 5"):
        make_terms(METRICS[name], answer(text, reference))
    assert time.process_time() - started < 2
