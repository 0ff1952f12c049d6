"""The report for people: one HTML file."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from ft_pipeline.evaluation.figures import format_number, format_points, format_share, format_size
from ft_pipeline.evaluation.intervals import SIGNIFICANCE, Difference
from ft_pipeline.evaluation.metrics import METRICS, Metric
from ft_pipeline.evaluation.report.fidelity import find_fidelity
from ft_pipeline.evaluation.report.forgetting import find_forgetting
from ft_pipeline.evaluation.report.groups import (
    group_by_answer_length,
    group_by_error,
    group_by_field,
    group_by_prompt_length,
    group_by_tag,
)
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.report.plots import PlotTitle
from ft_pipeline.evaluation.report.samples import choose_samples
from ft_pipeline.evaluation.report.verdict import (
    explain_verdict,
    make_tiles,
    name_state,
    show_asked,
    show_difference,
    show_estimate,
    show_found,
)
from ft_pipeline.evaluation.rules import HELD_OUT
from ft_pipeline.evaluation.scores import ContestantResult, Scoreboard
from ft_pipeline.plots import to_inline_svg
from ft_pipeline.report_page import make_environment
from ft_pipeline.text_marks import mark_differences

if TYPE_CHECKING:
    from ft_pipeline.evaluation.harness import HarnessScore

_TEMPLATE = "evaluation_report.html.jinja"
FAMILY_TITLES = {
    "task": "Task",
    "answers": "What answers are like",
    "likelihood": "Likelihood of the references",
    "fidelity": "Fidelity to 16 bits",
}
_BREACHES = {"fail": "fails the run", "keep": "keeps the champion", "warn": "only warns"}
_MOST_GROUPS, _MOST_LOST = 40, 10


def write_html(path: Path, outcome: Outcome, plots: Mapping[PlotTitle, Any]) -> None:
    """Write the report for people.

    Args:
        path: The file to write.
        outcome: What to say.
        plots: Title to a matplotlib figure, as `draw_plots` makes them.
    """
    environment = make_environment("ft_pipeline.evaluation.report")
    environment.filters |= {"size": format_size, "share": format_share, "number": _format_count}
    page = environment.get_template(_TEMPLATE).render(
        **_collect_figures(outcome),
        **_collect_functions(outcome),
        plots={title: to_inline_svg(figure, title) for title, figure in plots.items()},
        titles=PlotTitle,
        metrics=METRICS,
        held_out=HELD_OUT,
        most_lost=_MOST_LOST,
        arrows={"higher": "↑", "lower": "↓"},
    )
    # A lone surrogate, which JSON can escape, is no UTF-8.
    path.write_text(page, encoding="utf-8", errors="backslashreplace")


def _collect_figures(outcome: Outcome) -> dict[str, Any]:
    """What the template shows."""
    return {
        "created": datetime.now(UTC),
        "outcome": outcome,
        "request": outcome.request,
        "board": outcome.board,
        "verdict": outcome.verdict,
        "columns": _order_columns(outcome.board),
        "reason": explain_verdict(outcome),
        "tiles": make_tiles(outcome),
        "rules": _list_rules(outcome),
        "fidelity": find_fidelity(outcome.board),
        "forgetting": find_forgetting(outcome.board),
        "breakdowns": _break_down(outcome),
        "samples": choose_samples(outcome, outcome.request.settings.sample_rows),
    }


def _collect_functions(outcome: Outcome) -> dict[str, Callable[..., Any]]:
    """What the template shows it with."""
    return {
        "group_metrics": group_metrics,
        "show_estimate": show_estimate,
        "show_difference": lambda metric, difference: show_difference(outcome, metric, difference),
        "show_number": format_number,
        "show_points": _show_points,
        "judge": _judge,
        "list_cards": lambda: _list_cards(outcome),
        "list_tasks": _list_tasks,
        "mark_differences": mark_differences,
    }


def group_metrics(board: Scoreboard, set_name: str) -> dict[str, list[str]]:
    """Title of a family to the names of its metrics that say something of a set."""
    names = board.find_metrics(set_name)
    families = {
        title: [name for name in names if board.metrics[name].family == family]
        for family, title in FAMILY_TITLES.items()
    }
    return {title: found for title, found in families.items() if found}


def _order_columns(board: Scoreboard) -> list[ContestantResult]:
    """The gated challenger and its opponent, which a phone shows without scrolling, then everybody else."""
    first = [result for result in (board.gated, board.opponent) if result]
    return first + [result for result in board.results if result not in first]


def _list_rules(outcome: Outcome) -> list[dict[str, str]]:
    return [
        {
            "rule": result.rule.text,
            "state": name_state(result),
            "badge": "yes" if result.passed else "fair" if result.rule.on_failure == "warn" else "no",
            "breach": _BREACHES[result.rule.on_failure],
            "found": show_found(outcome, result),
            "asked": show_asked(outcome, result),
            "detail": result.detail,
        }
        for result in outcome.verdict.results
    ]


def _break_down(outcome: Outcome) -> list[dict[str, Any]]:
    """The tables of the error breakdown that have something to say."""
    breakdowns = [
        ("By kind of error", "kind", group_by_error(outcome)),
        ("By tag", "tag", group_by_tag(outcome)),
        ("By tokens of the reference", "tokens", group_by_answer_length(outcome)),
        ("By characters of the prompt", "characters", group_by_prompt_length(outcome)),
        ("By JSON field", "field", group_by_field(outcome)),
    ]
    return [
        {"title": title, "first": first, "groups": groups[:_MOST_GROUPS], "left_out": len(groups[_MOST_GROUPS:])}
        for title, first, groups in breakdowns
        if groups
    ]


def _judge(metric: Metric, difference: Difference) -> str:
    """The class of a difference: surely better, surely worse, or neither."""
    low, high = difference.interval.low, difference.interval.high
    # Of one row, or of rows that all agree, the interval has no width and the test still knows better.
    is_sure = (low > 0 or high < 0) and difference.p_value < SIGNIFICANCE
    if metric.better == "neither" or not is_sure:
        return "level"
    return "better" if (low > 0) == (metric.better == "higher") else "worse"


def _show_points(difference: Difference) -> Markup:
    """A change of the share of general questions that pass."""
    low, high = format_points(difference.interval.low), format_points(difference.interval.high)
    change = format_points(difference.value)
    return Markup('<span class="{}">{}</span><small>{} to {}</small>').format(
        _judge(METRICS["passed_checks"], difference), change, low, high
    )


def _list_cards(outcome: Outcome) -> dict[str, dict[str, int]]:
    """Name of a card to each contestant's longest context on it."""
    table: dict[str, dict[str, int]] = {}
    for label, fits in outcome.cards.items():
        for fit in fits:
            table.setdefault(fit.card.label, {})[label] = fit.context_tokens
    return table


def _list_tasks(outcome: Outcome) -> list[tuple[str, str, list[tuple[str, str]]]]:
    """Task, metric, and each contestant's figure with its standard error and rows."""
    found = {
        label: {(score.task, score.metric): score for score in scores} for label, scores in outcome.harness.items()
    }
    keys = dict.fromkeys(key for scores in found.values() for key in scores)
    return [(*key, [_show_score(scores.get(key)) for scores in found.values()]) for key in keys]


def _show_score(score: HarnessScore | None) -> tuple[str, str]:
    if score is None:
        return "–", ""
    error = f"± {score.stderr:.4f}, " if score.stderr is not None and math.isfinite(score.stderr) else ""
    return format_number(score.value), f"{error}{score.n:,} rows"


def _format_count(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
