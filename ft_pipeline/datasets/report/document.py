"""The report's figures for programs: plain tables, no time and no path of this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ft_pipeline.datasets.report.drift import Drift
from ft_pipeline.datasets.report.figures import DataFigures, explain, find_weak_points
from ft_pipeline.datasets.report.findings import Finding
from ft_pipeline.datasets.report.lengths import SetLengths
from ft_pipeline.datasets.report.repeats import Repeats
from ft_pipeline.datasets.report.tally import Tally
from ft_pipeline.datasets.report.words import Shift
from ft_pipeline.summary import Scalar

FORMAT = 1
_TEXT_CHARS = 500


def write_json(path: Path, recipe_name: str, figures: DataFigures) -> None:
    """Write all figures; one that cannot be had is null. `format` rises when a field changes."""
    counts = figures.statistics
    document = {
        "format": FORMAT,
        "recipe": recipe_name,
        "verdict": {"level": figures.level, "reason": explain(figures), "weak_points": find_weak_points(figures)},
        "rows": {
            "rows": counts.rows,
            "kept": figures.kept,
            "fixed": counts.fixed,
            "quarantined": counts.quarantined,
            "duplicates": counts.duplicates,
            "unaccounted": figures.unaccounted,
            "truncated": counts.truncated_rows,
        },
        "sets": set_table(figures),
        "histograms": {name: _describe_histograms(lengths) for name, lengths in figures.sets.items()},
        "sources": source_table(figures),
        "held_out_share": figures.held_out_share,
        "quarantine": [_describe_finding(finding) for finding in figures.quarantine],
        "warnings": [_describe_finding(finding) for finding in figures.warnings],
        "fixes": [_describe_finding(finding) for finding in figures.fixes],
        "repeats": _describe_repeats(figures.repeats),
        "drift": _describe_drift(figures.drift) if figures.drift else None,
    }
    path.write_text(json.dumps(document, indent=2, ensure_ascii=True, allow_nan=False) + "\n", encoding="utf-8")


def set_table(figures: DataFigures) -> list[dict[str, Scalar]]:
    """One row for each set: its rows and lengths."""
    return [
        {
            "set": name,
            "rows": lengths.tokens.total,
            **_describe_lengths("tokens", lengths.tokens),
            **_describe_lengths("learned_tokens", lengths.learned),
            **_describe_lengths("turns", lengths.turns),
        }
        for name, lengths in figures.sets.items()
    ]


def source_table(figures: DataFigures) -> list[dict[str, Scalar]]:
    """One row for each source file: what became of its rows."""
    return [
        {
            **source.counts.model_dump(),
            "training_rows": source.training_rows,
            "held_out_rows": source.held_out_rows,
            "held_out_share": source.held_out_share,
        }
        for source in figures.sources
    ]


def finding_table(findings: list[Finding]) -> list[dict[str, Scalar]]:
    """One row for each code, with the first row that has it."""
    table: list[dict[str, Scalar]] = []
    for finding in findings:
        first = finding.examples[0] if finding.examples else None
        table.append(
            {
                "reason": finding.code,
                "rows": finding.rows,
                "first": first.place if first else None,
                "detail": first.detail[:200] if first else None,
            }
        )
    return table


def drift_table(drift: Drift) -> list[dict[str, Scalar]]:
    """One row for each length, before and now."""
    return [
        {
            "length": shift.name,
            "median_before": shift.median_before,
            "median": shift.median,
            "p95_before": shift.p95_before,
            "p95": shift.p95,
            "mean_before": shift.mean_before,
            "mean": shift.mean,
            "ks_distance": shift.ks,
        }
        for shift in drift.lengths
    ]


def _describe_lengths(name: str, tally: Tally) -> dict[str, Scalar]:
    return {
        f"{name}_median": tally.quantile(0.5),
        f"{name}_p95": tally.quantile(0.95),
        f"{name}_max": tally.largest,
        f"{name}_mean": tally.mean,
    }


def _describe_histograms(lengths: SetLengths) -> dict[str, dict[str, int]]:
    """Length to number of rows, exact."""
    tallies = {"tokens": lengths.tokens, "learned_tokens": lengths.learned, "turns": lengths.turns}
    return {
        name: {str(length): int(tally.counts[length]) for length in tally.counts.nonzero()[0]}
        for name, tally in tallies.items()
    }


def _describe_finding(finding: Finding) -> dict[str, Any]:
    examples = [
        {"place": example.place, "detail": example.detail[:_TEXT_CHARS], "text": example.text[:_TEXT_CHARS]}
        for example in finding.examples
    ]
    return {"code": finding.code, "rows": finding.rows, "examples": examples}


def _describe_repeats(repeats: Repeats) -> dict[str, Any]:
    clusters = {
        kind: [
            {
                "kept": cluster.place,
                "rows": cluster.rows,
                "repeats": [{"place": repeat.place, "similarity": repeat.similarity} for repeat in cluster.repeats],
            }
            for cluster in found
        ]
        for kind, found in repeats.clusters.items()
    }
    return {"counts": repeats.counts, "clusters": clusters}


def _describe_drift(drift: Drift) -> dict[str, Any]:
    return {
        "rows": {
            "added": drift.rows.added,
            "removed": drift.rows.removed,
            "unchanged": drift.rows.unchanged,
            "moved_to_training": drift.rows.moved_to_training,
            "moved_to_held_out": drift.rows.moved_to_held_out,
        },
        "lengths": drift_table(drift),
        "token_divergence_bits": drift.token_divergence_bits,
        "tokens_risen": _describe_shifts(drift.tokens_risen),
        "tokens_fallen": _describe_shifts(drift.tokens_fallen),
        "words": {
            "sampled_rows_before": drift.words.rows_before,
            "sampled_rows": drift.words.rows,
            "risen": _describe_shifts(drift.words.risen),
            "fallen": _describe_shifts(drift.words.fallen),
        },
        "messages_per_row": _describe_shifts(drift.roles),
    }


def _describe_shifts(shifts: tuple[Shift, ...]) -> list[dict[str, Scalar]]:
    return [{"name": shift.name, "before": shift.before, "now": shift.now} for shift in shifts]
