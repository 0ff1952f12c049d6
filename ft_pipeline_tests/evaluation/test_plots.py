from __future__ import annotations

import math
import re
from dataclasses import replace
from importlib.resources import files
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest

from ft_pipeline.evaluation.report.plots import (
    ROLE_COLOURS,
    PlotTitle,
    draw_plots,
    plot_fidelity,
    plot_scores,
    plot_tags,
)
from ft_pipeline.evaluation.scores import ContestantResult, build_scoreboard
from ft_pipeline.plots import plot_loss, to_inline_svg
from ft_pipeline_tests.evaluation.scored import (
    change_rows,
    make_board,
    make_outcome,
    make_result,
    make_rich_board,
)

LOSSES = ({"step": 1.0, "loss": 2.0}, {"step": 2.0, "loss": math.nan}, {"step": 3.0, "loss": 0.1})


def labels(axes: Any) -> list[str]:
    return [tick.get_text() for tick in axes.get_yticklabels()]


def test_a_rich_board_has_every_plot() -> None:
    drawn = draw_plots(make_outcome(make_rich_board(), loss_history=LOSSES))
    assert list(drawn) == list(PlotTitle)


def test_nothing_is_drawn_where_there_is_nothing_to_draw() -> None:
    board = make_board({"base": [False, True], "challenger": [True, True]})
    assert list(draw_plots(make_outcome(board))) == [PlotTitle.SCORES, PlotTitle.LENGTHS]
    assert PlotTitle.LOSS not in draw_plots(make_outcome(board, loss_history=({"step": 1.0, "loss": math.nan},)))


def test_scores_have_a_panel_for_what_decides_first_and_a_row_for_everybody() -> None:
    board = make_rich_board()
    figure = plot_scores(make_outcome(board, ("json_fields > champion", "kld <= 0.08")))
    assert [axes.get_title("left") for axes in figure.axes][:2] == ["JSON fields", "KL divergence"]
    assert labels(figure.axes[0]) == [result.label for result in board.results]
    assert len(labels(figure.axes[1])) == 4


@pytest.mark.parametrize("rights", [[True] * 40, [True] * 38 + [False] * 2, [False] * 40])
def test_the_scale_of_a_share_ends_at_its_limits(rights: list[bool]) -> None:
    figure = plot_scores(make_outcome(make_board({"base": [not right for right in rights], "challenger": rights})))
    level = plot_scores(make_outcome(make_board({"base": rights, "challenger": rights})))
    for axes in (figure.axes[0], level.axes[0]):
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert min(ticks) >= 0
        assert max(ticks) <= 100
        assert low < 0 or high > 100, "the marks have room"


def test_figures_of_one_page_share_no_id_and_refer_to_their_own() -> None:
    drawn = draw_plots(make_outcome(make_rich_board(), loss_history=LOSSES))
    found = [to_inline_svg(figure, title) for title, figure in drawn.items()]
    ids = [re.findall(r'<\w[^<>]* id="([^"]*)"', svg) for svg in found]
    assert len({name for names in ids for name in names}) == sum(map(len, ids))
    for svg, names in zip(found, ids, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', svg)) == set(names)


def test_a_figure_that_is_no_number_is_left_out() -> None:
    board = make_board({"base": [True], "challenger": [True]})
    board = change_rows(board, "base Q4_K_M", lambda row: replace(row, logprob=math.nan))
    figure = plot_scores(make_outcome(board, ("exact_match > champion", "perplexity <= 9")))
    perplexity = next(axes for axes in figure.axes if axes.get_title("left") == "perplexity")
    assert labels(perplexity) == ["challenger Q4_K_M"]


def test_divergence_stands_over_the_size_of_every_quantized_file() -> None:
    axes = plot_fidelity(make_outcome(make_rich_board())).axes[0]
    assert {text.get_text() for text in axes.texts} == {"Q4_K_M", "Q8_0", "Q5_K_M", "Q3_K_M"}
    points = [line for line in axes.lines if len(line.get_xdata()) == 1]
    assert sorted(float(line.get_xdata()[0]) for line in points) == [4, 6, 6, 7]


def test_a_broken_file_without_a_divergence_leaves_the_others_in_the_plot() -> None:
    def spoil(row: Any) -> Any:
        return replace(row, divergence=row.divergence and replace(row.divergence, kl_sum=math.nan))

    axes = plot_fidelity(make_outcome(change_rows(make_rich_board(), "challenger Q8_0", spoil))).axes[0]
    assert "Q8_0" not in {text.get_text() for text in axes.texts}


def test_names_of_tags_are_drawn_as_they_are() -> None:
    svg = to_inline_svg(plot_tags(make_outcome(make_rich_board())), "tags")
    assert "$a$ (" in svg
    assert "&lt;b&gt; (" in svg
    assert "\x1b" not in svg


@pytest.mark.parametrize("opponent", [True, False])
def test_every_plot_is_well_formed_and_in_the_pages_ink(opponent: bool) -> None:
    board = make_rich_board()
    if not opponent:
        board = replace(board, opponent=None)
    outcome = make_outcome(board, loss_history=LOSSES)
    for title, figure in draw_plots(outcome).items():
        svg = to_inline_svg(figure, title)
        assert svg.startswith(f'<svg role="img" aria-label="{title}"')
        assert "currentColor" in svg
        assert "<script" not in svg
        ElementTree.fromstring(svg)  # noqa: S314 - our own


def test_a_plot_is_the_same_every_time() -> None:
    outcome = make_outcome(make_rich_board())
    assert to_inline_svg(plot_tags(outcome), "tags") == to_inline_svg(plot_tags(outcome), "tags")


def test_eight_contestants_overlap_nowhere() -> None:
    results = [make_result("base", [True] * 4), *(_challenger(number) for number in range(7))]
    figure = plot_scores(make_outcome(build_scoreboard(results, make_rich_board().metrics)))
    figure.draw_without_rendering()
    boxes = [tick.get_window_extent() for tick in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))


def test_a_loss_that_is_no_number_is_left_out_of_the_curve() -> None:
    line = plot_loss([*LOSSES, {"step": 4.0}]).axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 3]


def test_page_and_plots_have_the_same_colours() -> None:
    css = files("ft_pipeline").joinpath("report.css").read_text(encoding="utf-8")
    assert {role: re.search(rf"--{role}: (#\w+);", css)[1] for role in ROLE_COLOURS} == ROLE_COLOURS  # type: ignore[index]


@pytest.mark.parametrize("ground", ["#ffffff", "#1b1d21"])
def test_the_colours_of_the_roles_are_seen_on_white_and_in_the_dark(ground: str) -> None:
    for role, colour in ROLE_COLOURS.items():
        lighter, darker = sorted((_luminance(colour), _luminance(ground)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3, role  # WCAG 2.2, success criterion 1.4.11


def _luminance(colour: str) -> float:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _challenger(number: int) -> ContestantResult:
    return make_result("challenger", [True, True, bool(number % 2), False], f"Q{number}_K_M")
