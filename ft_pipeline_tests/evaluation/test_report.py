from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.evaluation.plots import plot_exact_match
from ft_pipeline.evaluation.samples import choose_samples
from ft_pipeline.evaluation.text_marks import MAX_CHARS, mark_differences, show_text
from ft_pipeline.plots import plot_loss, to_inline_svg
from ft_pipeline_tests.evaluation.scored import make_board

TAGS = re.compile(r'</?(?:ins|del|span)(?: class="(?:whole|escape|cut)")?>')


@given(st.text(max_size=80), st.text(max_size=80))
def test_whatever_a_model_says_only_our_own_tags_are_in_the_html(reference: str, text: str) -> None:
    bare = TAGS.sub("", mark_differences(reference, text))
    assert "<" not in bare
    assert ">" not in bare


@given(st.text(alphabet='abc {}":,', max_size=60), st.text(alphabet='abc {}":,', max_size=60))
def test_the_marked_text_is_the_text_once_what_is_missing_is_left_out(reference: str, text: str) -> None:
    from html import unescape

    marked = re.sub(r"<del>.*?</del>", "", mark_differences(reference, text), flags=re.DOTALL)
    assert unescape(TAGS.sub("", marked)) == text


def test_marks_what_is_wrong_and_what_is_missing() -> None:
    marked = mark_differences('{"urgency": "low", "n": 1}', '{"urgency": "high", "n": 1}')
    assert marked == "{&#34;urgency&#34;: &#34;<del>low</del><ins>high</ins>&#34;, &#34;n&#34;: 1}"


def test_a_text_that_shares_nothing_is_one_mark() -> None:
    assert mark_differences("blue", "salad fork") == '<ins class="whole">salad fork</ins>'


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", r"\x1b"),
        ("\u202e", r"\u202e"),
        ("\x00", r"\x00"),
        ("\u200b", r"\u200b"),
        ("\U000e0041", r"\U000e0041"),
    ],
)
def test_characters_that_cannot_be_seen_are_written_out(text: str, shown: str) -> None:
    assert f'<span class="escape">{shown}</span>' in show_text(text)
    assert text[0] not in show_text(text)


def test_a_long_text_is_cut_and_says_so() -> None:
    shown = show_text("x" * (MAX_CHARS + 1234))
    assert shown.startswith("x" * MAX_CHARS + "<span")
    assert "1,234 more characters" in shown


def test_samples_begin_with_what_the_opponent_had_right_and_end_with_what_is_right() -> None:
    board = make_board({"base": [False, True, False, True], "challenger": [True, False, False, True]})
    assert [sample.row.number for sample in choose_samples(board, 4)] == [1, 2, 3, 0]
    assert len(choose_samples(board, 2)) == 2
    assert choose_samples(board, 0) == []


def test_samples_show_base_champion_and_the_gated_challenger_once_each() -> None:
    board = make_board({"challenger": [True], "champion": [False], "base": [False]})
    labels = [label for label, _ in choose_samples(board, 1)[0].answers]
    assert labels == ["base Q4_K_M", "champion Q4_K_M", "challenger Q4_K_M"]


def test_plots_take_the_colour_of_the_page_and_are_the_same_every_time() -> None:
    board = make_board({"base": [False, True], "challenger": [True, True]}, test_set=[True])
    svg = to_inline_svg(plot_exact_match(board), "Exact match")
    assert svg.startswith('<svg role="img" aria-label="Exact match"')
    assert "currentColor" in svg
    assert "<script" not in svg
    assert svg == to_inline_svg(plot_exact_match(board), "Exact match")


def test_a_loss_that_is_no_number_is_left_out_of_the_curve() -> None:
    losses = {1.0: 2.0, 2.0: float("nan"), 3.0: 0.1}
    history = [{"step": step, "loss": loss} for step, loss in losses.items()] + [{"step": 4.0}]
    line = plot_loss(history).axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 3]
