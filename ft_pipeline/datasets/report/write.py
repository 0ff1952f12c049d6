"""data_report: read a validated data set, say what is in it, write the report."""

from __future__ import annotations

from markupsafe import Markup

from ft_pipeline.datasets.report.document import (
    drift_table,
    finding_table,
    set_table,
    source_table,
    write_json,
)
from ft_pipeline.datasets.report.figures import DataFigures, collect_figures, explain, find_weak_points
from ft_pipeline.datasets.report.page import write_html
from ft_pipeline.datasets.report.plots import plot_all
from ft_pipeline.datasets.report.request import DataReportRequest
from ft_pipeline.datasets.sources import TRAINING_SET
from ft_pipeline.datasets.validated import HELD_OUT
from ft_pipeline.plots import save_png, to_inline_svg
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.summary import Scalar, Summary

HTML_FILE, JSON_FILE = "data_report.html", "data_report.json"


def write_report(request: DataReportRequest, reporter: Reporter) -> Summary:
    """Read the data set a column at a time and write what it holds.

    Writes `data_report.html`, `data_report.json` and a PNG for each plot.

    Raises:
        DatasetError: the folder's counts are missing or damaged.
    """
    figures = collect_figures(request)
    reporter.info(explain(figures))
    for point in find_weak_points(figures):
        reporter.warning(point)
    files, svgs = _write_plots(request, figures)
    write_json(request.out_dir / JSON_FILE, request.recipe_name, figures)
    write_html(request.out_dir / HTML_FILE, request.recipe_name, figures, svgs)
    return _summarize(figures, files)


def _write_plots(request: DataReportRequest, figures: DataFigures) -> tuple[dict[str, str], dict[str, Markup]]:
    files: dict[str, str] = {}
    svgs: dict[str, Markup] = {}
    for title, figure in plot_all(figures).items():
        files[title.lower()] = f"{title.lower().replace(',', '').replace(' ', '_')}.png"
        save_png(figure, request.out_dir / files[title.lower()])
        svgs[title] = to_inline_svg(figure, title)
    return files, svgs


def _summarize(figures: DataFigures, plots: dict[str, str]) -> Summary:
    tables = {
        "sets": set_table(figures),
        "sources": source_table(figures),
        "quarantine": finding_table(figures.quarantine),
        "warnings": finding_table(figures.warnings),
    }
    if figures.drift:
        tables["drift"] = drift_table(figures.drift)
    return Summary(figures=_collect(figures), tables=tables, plots=plots, files={"data report": HTML_FILE})


def _collect(figures: DataFigures) -> dict[str, Scalar]:
    counts, drift = figures.statistics, figures.drift
    found: dict[str, Scalar] = {
        "verdict": explain(figures),
        "level": figures.level,
        "weak_points": len(find_weak_points(figures)),
        "rows": counts.rows,
        "kept_rows": figures.kept,
        "fixed_rows": counts.fixed,
        "quarantined_rows": counts.quarantined,
        "duplicate_rows": counts.duplicates,
        "truncated_rows": counts.truncated_rows,
        "training_rows": figures.count(TRAINING_SET),
        "held_out_rows": figures.count(HELD_OUT),
        "held_out_share": round(figures.held_out_share, 4),
        "quarantined_share": round(figures.quarantined_share, 4),
        **{f"{kind}_repeats": rows for kind, rows in figures.repeats.counts.items()},
    }
    if drift:
        found |= {
            "new_rows": drift.rows.added,
            "removed_rows": drift.rows.removed,
            "unchanged_rows": drift.rows.unchanged,
            "token_divergence_bits": drift.token_divergence_bits,
            "token_length_ks_distance": drift.lengths[0].ks,
        }
    return found
