"""The report in short as Markdown, for a comment on a pull request.

Texts of people and models stand in code, where nothing of them is a mark, a link or a mention.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from ft_pipeline.evaluation.figures import format_number, format_share, format_size
from ft_pipeline.evaluation.intervals import Estimate
from ft_pipeline.evaluation.report.fidelity import find_fidelity
from ft_pipeline.evaluation.report.outcome import Outcome
from ft_pipeline.evaluation.report.samples import Sample, choose_samples
from ft_pipeline.evaluation.report.verdict import (
    explain_verdict,
    name_state,
    show_asked,
    show_difference,
    show_estimate,
    show_found,
)
from ft_pipeline.evaluation.rules import HELD_OUT
from ft_pipeline.text_marks import show_plain

_SAMPLES, _SAMPLE_CHARS = 3, 600
# An underscore within a word is no mark.
_SPECIAL = re.compile(r"[\\`*\[\]<|#~&!$]|(?<![^\W_])_|_(?![^\W_])")


def write_markdown(path: Path, outcome: Outcome) -> None:
    """Write verdict, gate, scores, fidelity, costs and three samples."""
    parts = [
        _write_verdict(outcome),
        _write_gate(outcome),
        _write_scores(outcome),
        _write_fidelity(outcome),
        _write_costs(outcome),
        _write_samples(outcome),
    ]
    path.write_text("\n\n".join(part for part in parts if part) + "\n", encoding="utf-8")


def escape(text: str) -> str:
    """Words that render as they are: no mark, no link, no mention, no character that is not seen."""
    line = _SPECIAL.sub(r"\\\g<0>", show_plain(" ".join(text.split())))
    # Links and mentions are made of bare text: a word joiner, which is not seen, parts them.
    return re.sub(r"(?i)@|://|www(?=\.)", r"\g<0>&NoBreak;", line)


def _start_line(text: str) -> str:
    """The same at the beginning of a line, where it must begin no list, heading or rule."""
    return re.sub(r"^(\d*)([-+.)=>])", r"\1\\\2", escape(text))


def fence(text: str) -> str:
    """A text as a block of code, cut where it is long."""
    shown = show_plain(text, _SAMPLE_CHARS, keep="\n\t")
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{ticks}text\n{shown}\n{ticks}"


def _write_verdict(outcome: Outcome) -> str:
    title = "✅ Publish" if outcome.verdict.publish else "❌ Do not publish"
    lines = [f"# {title}: {escape(outcome.request.recipe_name)}", "", _start_line(explain_verdict(outcome))]
    if notes := outcome.all_notes:
        lines += ["", *(f"- {_start_line(note)}" for note in notes)]
    return "\n".join(lines)


def _write_gate(outcome: Outcome) -> str:
    rows = [
        [
            f"`{result.rule.text}`",
            name_state(result),
            escape(show_found(outcome, result)),
            escape(show_asked(outcome, result)),
        ]
        for result in outcome.verdict.results
    ]
    return "## Gate\n\n" + _table(["Rule", "Outcome", "Found", "Asked"], rows, left=2)


def _write_scores(outcome: Outcome) -> str:
    """All measures on held-out rows, and of each other set the main one."""
    board = outcome.board
    chosen = [(HELD_OUT, name) for name in (board.find_metrics(HELD_OUT) if HELD_OUT in board.set_names else ())]
    others = [name for name in board.set_names if name != HELD_OUT]
    chosen += [(name, metric) for name in others if (metric := outcome.find_main_metric(name))]
    head = ["Measure", "Rows", escape(board.gated.label)]
    if board.opponent:
        head += [escape(board.opponent.label), "Difference"]
    rows = [_write_score(outcome, set_name, name) for set_name, name in chosen]
    return "## Scores\n\n" + _table(head, rows)


def _write_score(outcome: Outcome, set_name: str, name: str) -> list[str]:
    board, metric = outcome.board, outcome.board.metrics[name]
    title = metric.title if set_name == HELD_OUT else f"{metric.title}, {set_name}"
    ours = show_estimate(metric, board.estimate(board.gated, set_name, name))
    row = [escape(title), f"{len(board.gated.sets[set_name]):,}", _join(*ours)]
    if board.opponent:
        difference = board.compare(board.gated, board.opponent, set_name, name)
        theirs = show_estimate(metric, board.estimate(board.opponent, set_name, name))
        row += [_join(*theirs), _join(*show_difference(outcome, name, difference)) if difference else "–"]
    return row


def _write_fidelity(outcome: Outcome) -> str:
    rows = [
        [
            escape(one.result.label),
            format_size(one.result.costs.size_bytes),
            format_number(one.divergence.value),
            format_number(one.largest),
            format_share(one.agreement.value) if one.agreement else "–",
            _show_value(one.ratio),
        ]
        for one in find_fidelity(outcome.board)
    ]
    head = ["File", "Size", "KL divergence", "Largest", "Same top token", "Perplexity ratio"]
    return "## Fidelity to 16 bits\n\n" + _table(head, rows) if rows else ""


def _write_costs(outcome: Outcome) -> str:
    rows = [
        [
            escape(result.label),
            format_size(result.costs.size_bytes),
            format_size(result.costs.memory_bytes),
            f"{1000 * result.costs.first_token_seconds:,.0f} ms",
            f"{result.costs.tokens_per_second:,.0f}",
        ]
        for result in outcome.board.results
    ]
    return "## Size and speed\n\n" + _table(["Contestant", "File", "Memory", "First token", "Tokens per second"], rows)


def _write_samples(outcome: Outcome) -> str:
    samples = choose_samples(outcome, min(_SAMPLES, outcome.request.settings.sample_rows))
    return "\n\n".join(["## Samples, the worst first", *map(_write_sample, samples)]) if samples else ""


def _write_sample(sample: Sample) -> str:
    row = sample.row
    state = "right" if sample.is_right else "wrong"
    lines = [f"### {escape(row.set_name)}, row {row.number + 1}: {state}"]
    lines += [
        f"{escape(row.prompt[-1]['role'])}:",
        fence(row.prompt[-1]["content"]),
        "reference:",
        fence(row.reference),
    ]
    for one in sample.answers:
        lines += [f"{escape(one.result.label)}:", fence(one.scored.prediction or one.scored.fault or "(empty answer)")]
    return "\n\n".join(lines)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A table; its first columns are flush left."""
    rule = [":--" if column < left else "--:" for column in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))


def _join(value: str, *more: str) -> str:
    beside = ", ".join(part for part in more if part)
    return escape(f"{value} ({beside})" if beside else value or "–")


def _show_value(estimate: Estimate | None) -> str:
    return format_number(estimate.value) if estimate else "–"
