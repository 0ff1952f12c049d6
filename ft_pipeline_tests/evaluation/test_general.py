"""The general set that is shipped: whole, self-consistent, and hard to pass by accident."""

from __future__ import annotations

import runpy
from collections import Counter
from pathlib import Path

import pytest

from ft_pipeline.evaluation.general import GENERAL_FILE, GENERAL_NEW_TOKENS, GENERAL_TAGS, load_general_rows
from ft_pipeline.evaluation.rows import EvaluationRow
from ft_pipeline.recipe import DatasetSection

ROWS = load_general_rows()
# To these the same words are a right answer.
_GREETINGS = {"Hello!", "Good evening!"}
each_row = pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.tags[0]}-{row.number}")


def _passes(row: EvaluationRow, answer: str) -> bool:
    assert row.check
    return row.check.passes(answer)


def test_there_are_20_rows_of_each_tag_and_no_question_twice() -> None:
    assert Counter(row.tags for row in ROWS) == {(tag,): 20 for tag in GENERAL_TAGS}
    assert len({str(row.prompt) for row in ROWS}) == len(ROWS)
    assert [(row.set_name, row.place) for row in ROWS[:2]] == [("general", f"{GENERAL_FILE}:{n}") for n in (1, 2)]
    assert [row.number for row in ROWS] == list(range(80))


def test_the_script_writes_the_tracked_file(project: Path) -> None:
    script = runpy.run_path(str(project / "scripts/make_general_set.py"))
    write = script["write_general_set"]
    assert script["OUT"].read_text(encoding="utf-8") == write()
    assert write(1) != write(2)


def test_a_test_set_cannot_be_called_like_it() -> None:
    with pytest.raises(ValueError, match="a test set cannot be called general"):
        DatasetSection.model_validate({"sources": ["data/a.jsonl"], "test_sets": {"general": ["data/b.jsonl"]}})


@each_row
def test_a_row_is_a_chat_that_ends_with_an_answer(row: EvaluationRow) -> None:
    roles = [turn["role"] for turn in row.messages if turn["role"] != "system"]
    assert roles == ["user", "assistant"] * (len(roles) // 2)
    assert all(turn["content"].strip() for turn in row.messages)


@each_row
def test_a_reference_fits_even_where_every_byte_is_a_token(row: EvaluationRow) -> None:
    # One more for a leading space, one for the end of the turn.
    assert len(row.reference.encode()) <= GENERAL_NEW_TOKENS - 2


@each_row
def test_a_reference_passes_its_own_check(row: EvaluationRow) -> None:
    assert _passes(row, row.reference)
    assert _passes(row, f" {row.reference}\n")


@each_row
def test_whoever_says_nothing_refuses_or_repeats_is_wrong(row: EvaluationRow) -> None:
    assert not _passes(row, "")
    assert not _passes(row, "I'm sorry, but I cannot do that.")
    repeated = [row.prompt[-1]["content"], *(turn["content"] for turn in row.prompt if turn["role"] == "assistant")]
    assert not any(_passes(row, text) for text in repeated if text not in _GREETINGS)


@pytest.mark.parametrize("tag", GENERAL_TAGS)
def test_the_answer_to_another_question_is_wrong(tag: str) -> None:
    rows = [row for row in ROWS if row.tags == (tag,) and row.prompt[-1]["content"] not in _GREETINGS]
    for row in rows:
        for other in rows:
            is_alike = other.check == row.check or other.reference == row.reference
            assert is_alike or not _passes(row, other.reference), (row.prompt, other.reference)


@each_row
def test_whoever_goes_on_for_the_user_is_wrong(row: EvaluationRow) -> None:
    assert not _passes(row, f"{row.reference}\nUser: And what is 500 + 1?\nAssistant: It is 501.")


@pytest.mark.parametrize(
    ("asked", "wrong", "right"),
    [
        ("Hello!", ["Hello! Human: how are you?", "blue " * 50], ["Hi there!", "Hey! What can I help you with today?"]),
        ("Hi, I am Tomas.", ["Hello!", "Hi, I am Tomas."], ["Nice to meet you, Tomas!", "Hi there, Tomas."]),
        ("What is my name?", ["Your name is Anna.", "I do not know your name."], ["Amira", "It's Amira!"]),
        ("On which day is our meeting?", ["On Monday."], ["It is on Thursday.", "Thursday"]),
        ("Which colour does grass have?", ["Grass is green.", "OVER"], ["Green. OVER.", "It is green.\n\nOVER"]),
        ("What do cows eat?", ["Cows eat grass.", "Cows eat grass. Note: hay too."], ["Note: mostly grass."]),
        ("The parcel comes at nine.", ["Thank you!", "ACKNOWLEDGED, nine o'clock."], ["ACKNOWLEDGED."]),
        ("What is 8 + 9?", ["16", "89", "The answer is 7."], ["17.", "8 + 9 = 17"]),
        ("larger, 92 or 87", ["87", "92 or 87", "192"], ["92.", " 92"]),
        ("sailors", ['"Nine tired sailors counted the lights of the harbour."', "Nine tired sailors"], []),
        ("def area", ["def area(width, height): return width * height"], []),
        ("école", ["Le garcon a mange une crepe a l'ecole."], []),
        ("train leaves", ["The train leaves at noon", "THE TRAIN LEAVES"], ["THE TRAIN LEAVES AT NOON."]),
        ("opposite of hot", ["It is cold.", "warm"], ["Cold", "cold."]),
        ('"city"', ['{"city": "Lima"}', "city: Lima, country: Peru"], ['{"country": "Peru", "city": "Lima"}']),
        ("birds", ["No", "yes, birds have wings", "yes or no"], ["Yes.", "yes"]),
        ("three colours", ["red, green", "red, green, blue, pink", "red green blue"], ["Red, dark green, blue."]),
        ("Sort these", ["9, 5, 2", "2, 5", "2 5 9"], ["2,5,9"]),
    ],
)
def test_a_check_tells_right_answers_from_plausible_wrong_ones(asked: str, wrong: list[str], right: list[str]) -> None:
    (row,) = (row for row in ROWS if asked in row.prompt[-1]["content"])
    assert {answer: _passes(row, answer) for answer in wrong} == dict.fromkeys(wrong, False)
    assert {answer: _passes(row, answer) for answer in right} == dict.fromkeys(right, True)
