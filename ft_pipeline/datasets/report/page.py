"""The report for people: one HTML file."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from markupsafe import Markup

from ft_pipeline.datasets.report.figures import DataFigures, explain, find_weak_points
from ft_pipeline.datasets.report.request import POOL
from ft_pipeline.datasets.report.samples import Sample, Stretch
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.validated import HELD_OUT
from ft_pipeline.report_page import make_environment
from ft_pipeline.text_marks import mark_differences, show_text

_TEMPLATE = "data_report.html.jinja"
_EXCERPT_CHARS = 600
_MOST_STRETCHES, _MOST_TURNS = 60, 20
_TITLES = {
    "near": "Nearly the same",
    "exact": "Exactly the same",
    "leaked": "Leaked from what the model is tested on",
}


def write_html(path: Path, recipe_name: str, figures: DataFigures, plots: dict[str, Markup]) -> None:
    """Write the report for people.

    Args:
        path: The file to write.
        recipe_name: Its title.
        figures: What to say.
        plots: Title to inline SVG.
    """
    environment = make_environment("ft_pipeline.datasets.report")
    environment.filters |= {
        "excerpt": show_excerpt,
        "count": format_count,
        "permille": lambda share: f"{1000 * share:.2f}",
        "share": format_share,
    }
    page = environment.get_template(_TEMPLATE).render(
        recipe=recipe_name,
        created=datetime.now(UTC),
        figures=figures,
        counts=figures.statistics,
        reason=explain(figures),
        weak_points=find_weak_points(figures),
        plots=plots,
        set_titles={TRAINING_SET: "training", HELD_OUT: "held out"},
        pool=POOL,
        kind_titles=_TITLES,
        mark_differences=mark_differences,
        place_stretches=place_stretches,
        most_turns=_MOST_TURNS,
    )
    path.write_text(page, encoding="utf-8")


def show_excerpt(text: str) -> Markup:
    """The beginning of a text, safe in HTML."""
    return show_text(text, _EXCERPT_CHARS)


def format_count(value: float | None) -> str:
    """A whole number with separators, another with one decimal, a dash for none."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def format_share(share: float | None) -> str:
    """`0.958` as `95.8 %`; a share that is small and not nothing is never `0.0 %`."""
    if share is None:
        return "–"
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def place_stretches(sample: Sample) -> list[tuple[str, str]]:
    """Where the learned stretches begin and how wide they are, in percent of the row."""

    def percent(tokens: int) -> str:
        return f"{100 * tokens / max(1, sample.tokens):.2f}"

    def place(stretch: Stretch) -> tuple[str, str]:
        return percent(stretch.start), percent(stretch.stop - stretch.start)

    return [place(stretch) for stretch in sample.stretches[:_MOST_STRETCHES]]
