from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.metrics.chrf import chrf
from ft_pipeline.evaluation.metrics.rouge_l import rouge_l
from ft_pipeline.evaluation.metrics.token_f1 import token_f1
from ft_pipeline_tests.evaluation.answers import answer, measure

OVERLAPS: dict[str, Callable[[str, str], float]] = {"token_f1": token_f1, "rouge_l": rouge_l, "chrf": chrf}
ASCII = st.text(alphabet=string.ascii_letters + string.digits + " .,'-_!?\n", max_size=80)


@pytest.mark.parametrize("name", OVERLAPS)
@given(one=st.text(max_size=60), other=st.text(max_size=60))
def test_an_overlap_is_a_share_and_that_of_a_text_with_itself_is_1(name: str, one: str, other: str) -> None:
    assert 0 <= OVERLAPS[name](one, other) <= 1 + 1e-12
    assert OVERLAPS[name](one, one) == pytest.approx(1)


@pytest.mark.parametrize("name", ["token_f1", "rouge_l"])
@given(one=st.text(max_size=60), other=st.text(max_size=60))
def test_an_overlap_of_words_is_the_same_both_ways(name: str, one: str, other: str) -> None:
    assert OVERLAPS[name](one, other) == pytest.approx(OVERLAPS[name](other, one))


@pytest.mark.parametrize("name", OVERLAPS)
def test_an_empty_answer_has_nothing_of_its_reference(name: str) -> None:
    assert OVERLAPS[name]("", "blue") == 0
    assert OVERLAPS[name]("?!", "blue") == 0


@given(one=ASCII, other=ASCII)
def test_token_f1_is_that_of_squad_but_for_the_articles(one: str, other: str) -> None:
    ours, theirs = (squad_tokens(text) for text in (one, other))
    if ours and theirs:
        common = sum((Counter(ours) & Counter(theirs)).values())
        precision, recall = common / len(ours), common / len(theirs)
        expected = 2 * precision * recall / (precision + recall) if common else 0.0
        assert token_f1(one, other) == pytest.approx(expected)


def squad_tokens(text: str) -> list[str]:
    """As in SQuAD's evaluate-v1.1.py, the articles kept."""
    return " ".join("".join(char for char in text.lower() if char not in set(string.punctuation)).split()).split()


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("the sky is blue", "The sky, is BLUE!", 1),
        ("a", "an", 0),  # articles are words
        ("STRASSE", "straße", 1),
        ("«oui»", "oui", 1),
        ("cafe\N{COMBINING ACUTE ACCENT}", "café", 1),
        ("天空是蓝色", "天空是红色", 0.8),
        ("हिन्दी भाषा", "हिन्दी", 2 / 3),  # vowel signs belong to their words
        ("red blue", "blue", 2 / 3),
    ],
)
def test_overlaps_of_words_know_scripts_other_than_latin(one: str, other: str, expected: float) -> None:
    assert token_f1(one, other) == pytest.approx(expected)
    assert rouge_l(one, other) == pytest.approx(expected)


def test_rouge_l_knows_the_order_of_words_and_token_f1_does_not() -> None:
    assert token_f1("blue is the sky", "the sky is blue") == 1
    assert rouge_l("blue is the sky", "the sky is blue") == 0.5


@given(one=ASCII, other=ASCII)
def test_rouge_l_is_that_of_the_library_of_google(one: str, other: str) -> None:
    from rouge_score.rouge_scorer import RougeScorer

    if re.search("[A-Za-z0-9]", one) and re.search("[A-Za-z0-9]", other):
        expected = RougeScorer(["rougeL"]).score(other, one)["rougeL"].fmeasure
        assert rouge_l(one, other) == pytest.approx(expected)


def test_chrf_is_that_of_sacrebleu() -> None:
    import sacrebleu

    expected = sacrebleu.sentence_chrf("the sky was bleu", ["the sky is blue"]).score / 100
    assert measure(METRICS["chrf"], answer("the sky was bleu", "the sky is blue")) == pytest.approx(expected)
    assert 0.4 < expected < 0.7
