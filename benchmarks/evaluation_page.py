"""The evaluation benchmark's figures as a page."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from benchmarks.evaluation_runs import BATCHED, DRAFTED, ONE_THREAD, ROW_BY_ROW

SPEEDUP, EQUAL_SHARE, STAGE_SECONDS = 3.0, 0.99, 40.0
_NAMES = {
    ROW_BY_ROW: "`create_chat_completion`, row by row, all cores",
    ONE_THREAD: "the same on one thread",
    BATCHED: "**ours, batched, no reference**",
    DRAFTED: "**ours, the reference as draft** (as the pipeline runs)",
}
Section = dict[str, Any]


def name_section(section: Section) -> str:
    """Machine and file."""
    machine = section["machine"]
    gpu = f", all layers on {machine['gpu']}" if machine["gpu"] else ""
    return f"{section['file']} on {machine['cores']} cores ({machine['cpu']}){gpu}"


def to_markdown(sections: Sequence[Section]) -> str:
    """What was measured, a chapter for each machine and file."""
    lines = ["# Evaluation: answers of a GGUF", ""]
    for section in sections:
        lines += [f"## {name_section(section)}", ""]
        if "speed" in section:
            lines += [*_show_speed(section), *_show_answers(section)]
        if "limits" in section:
            lines += _show_limits(section)
        if "stage" in section:
            lines += _show_stage(section["stage"])
        versions = ", ".join(f"{name} {found}" for name, found in section["machine"]["versions"].items())
        loads = [f"{part} {before:.1f} and {after:.1f}" for part, (before, after) in section["loads"].items()]
        lines += [f"{versions}. The machine's load before and after: {', '.join(loads)}.", ""]
    lines.append(
        "Tokens per second: tokens of the answers, their ends included, over the time of all rows with prompts and "
        "template, without loading. Medians of repetitions that took turns, lowest and highest in brackets. CPU "
        "seconds: of all threads, those that wait for another in a loop included."
    )
    return "\n".join(lines) + "\n"


def _show_speed(section: Section) -> list[str]:
    speed = section["speed"]
    limit = _find_limit(section)
    # Seconds a token, of the faster of the two.
    base = min(statistics.median(speed[name]["seconds"]) / speed[name]["tokens"] for name in (ROW_BY_ROW, ONE_THREAD))
    size = section["bytes"] / 1e6
    lines = [f"{section['rows']} rows, answers of at most {section['max_new_tokens']} tokens, {size:.1f} MB.", ""]
    lines += [
        f"| | seconds | CPU seconds | tokens/s | times the faster row by row | {SPEEDUP:g} times or the limit |",
        "| --- " * 6 + "|",
    ]
    for name, found in speed.items():
        times = base / (statistics.median(found["seconds"]) / found["tokens"])
        reached = times >= SPEEDUP or statistics.median(found["tokens_per_second"]) >= limit
        verdict = "" if name in (ROW_BY_ROW, ONE_THREAD) else "kept" if reached else "**missed**"
        lines.append(
            f"| {_NAMES[name]} | {_spread(found['seconds'], 2)} | "
            f"{statistics.median(found['cpu_seconds']):.1f} | {_spread(found['tokens_per_second'], 0)} | "
            f"{times:.2f} | {verdict} |"
        )
    return [*lines, ""]


def _spread(values: Sequence[float], digits: int) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    return f"{statistics.median(values):.{digits}f} ({low} - {high})"


def _show_answers(section: Section) -> list[str]:
    answers = section["answers"]
    lines = [
        "| equal to the row-by-row run | same prompts | same tokens | same text | ties among the others | at least |"
    ]
    lines.append("| --- " * 6 + "|")
    for name in (BATCHED, DRAFTED):
        found = answers[name]
        rows, equal, differences = found["rows"], found["equal_tokens"], found["differences"]
        ties = sum(difference["tie"] for difference in differences)
        kept = equal / rows >= EQUAL_SHARE and ties == len(differences)
        cells = [_NAMES[name], f"{found['equal_prompts']} of {rows}", f"{equal} ({equal / rows:.1%})"]
        cells += [found["equal_texts"], f"{ties} of {len(differences)}"]
        judged = "not judged: random weights" if section["random"] else "kept" if kept else "**missed**"
        cells.append(f"{EQUAL_SHARE:.0%} and all ties: {judged}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    lines += ["", *_show_rounding(answers["rounding"])]
    shown = [(name, difference) for name in (BATCHED, DRAFTED) for difference in answers[name]["differences"]]
    if shown and not section["random"]:
        lines += ["| answers that part | row | after tokens | ours | row by row | two most likely | margin | tie |"]
        lines.append("| --- " * 8 + "|")
        lines += [_show_difference(name, difference) for name, difference in shown]
        lines.append("")
    return lines


def _show_rounding(rounding: dict[str, Any]) -> list[str]:
    return [
        f"Rounding: when sixteen rows share a batch, the margin between the two most likely tokens moves by "
        f"{rounding['root_mean_square']:.4f} (root mean square), {rounding['largest']:.4f} at most, over "
        f"{rounding['positions']} tokens that are answered alike; the margins' own median is "
        f"{rounding['median_margin']:.2f}. A tie: ours and theirs are the two most likely tokens, and their margin, "
        "decoded alone, is no larger than that most.",
        "",
    ]


def _show_difference(name: str, found: dict[str, Any]) -> str:
    cells = [name, found["row"], found["position"], found["ours"], found["theirs"]]
    cells += [" ".join(map(str, found["top"])), f"{found['margin']:.4f}", "yes" if found["tie"] else "**no**"]
    return "| " + " | ".join(map(str, cells)) + " |"


def _show_limits(section: Section) -> list[str]:
    parallel = list(section["limits"][0]["with_prompts"])
    lines = ["| llama-batched-bench, tokens/s, sequences of a program: | " + " | ".join(map(str, parallel)) + " |"]
    lines.append("| --- " * (1 + len(parallel)) + "|")
    for limit in section["limits"]:
        flash = "with" if limit["flash_attention"] else "without"
        label = f"{limit['copies']} x {limit['threads']} threads, {flash} flash attention"
        for key, what in (("with_prompts", "prompts' time counted"), ("without_prompts", "not counted")):
            cells = [f"{limit[key][pl][0]:.0f}" for pl in parallel]
            lines.append(f"| {label}, {what} | {' | '.join(cells)} |")
    best = _find_limit(section)
    shares = {name: statistics.median(section["speed"][name]["tokens_per_second"]) / best for name in _NAMES}
    lines += ["", f"The limit is the best of it, prompts' time counted: {best:.0f} tokens/s. Of that:"]
    lines[-1] += f" row by row {shares[ROW_BY_ROW]:.0%}, on one thread {shares[ONE_THREAD]:.0%},"
    lines[-1] += f" ours without a reference {shares[BATCHED]:.0%}, with it {shares[DRAFTED]:.0%}."
    return [*lines, ""]


def _find_limit(section: Section) -> float:
    """The best of llama-batched-bench; infinite where it was not run."""
    medians = [median for limit in section.get("limits", ()) for median, _, _ in limit["with_prompts"].values()]
    return max(medians, default=float("inf"))


def _show_stage(stage: dict[str, Any]) -> list[str]:
    seconds = [run["whole"] for run in stage["runs"]]
    median = statistics.median(seconds)
    parts = {part: [run[part] for run in stage["runs"]] for part in stage["runs"][0]}
    lines = [f"The whole stage: {stage['rows']} held-out rows, {', '.join(stage['contestants'])}.", ""]
    lines += ["| part | seconds |", "| --- | --- |"]
    lines += [f"| {part} | {_spread(found, 1)} |" for part, found in parts.items() if part != "whole"]
    verdict = "kept" if median <= STAGE_SECONDS else "**missed**"
    lines.append(f"| **whole, its process's start included** | **{_spread(seconds, 1)}** |")
    return [*lines, "", f"At most {STAGE_SECONDS:g} seconds: {verdict}.", ""]
