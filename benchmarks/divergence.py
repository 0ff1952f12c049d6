"""Divergence of quantized GGUFs from the 16-bit one: ours beside llama.cpp's own perplexity tool, on the same chunks.

    python -m benchmarks.divergence --work FOLDER --reference F16.gguf --quantized Q8_0.gguf --quantized Q4_K_M.gguf
    python -m benchmarks.divergence ... --source llama.cpp      # build the tool from this tree; fetched otherwise
    python -m benchmarks.divergence ... --tool llama-perplexity # built already, from the installed library's source

Writes results/divergence.{json,md}. The tool reads a text, cuts its tokens into chunks, puts BOS in the place of each
chunk's first token and scores the second half of each but for its first token; ours read exactly those tokens. It is
told to do without flash attention, as our decoder does; batches, cache and threads are alike.

It keeps the 16-bit model's log-probabilities in a file, each in 16 bits, with a floor 16 nats below the top one; ours
keep nothing. Its "Mean PPL(base)" is taken from that file, so that it is too low where a text has tokens below the
floor, and the ratio too high. The figures here are of the perplexity that it prints while it writes the file.
"""

from __future__ import annotations

import math
import os
import platform
import resource
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.divergence_tool import FIGURES, Cost, Figures, Tool, build_tool, fetch_source
from benchmarks.imatrix_training import read_chats
from benchmarks.tables import RESULTS, write_results
from ft_pipeline.evaluation.divergence import Passage, compare_logits, measure_divergence
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.rows import Divergence

# A difference is small enough if it is one of these.
RELATIVE, ABSOLUTE = 0.01, 1e-4
_VOCABULARIES, _ROUNDS = (4096, 32_000, 128_256), 25


def cut(model: LlamaModel, text: str, chunk: int) -> tuple[npt.NDArray[np.int64], list[Passage]]:
    """Tokens of a text in whole chunks, as the tool reads them, and the passages that it scores."""
    import llama_cpp

    # The tool drops one line break at the end (common/arg.cpp), adds BOS and reads no control tokens.
    raw = text.removesuffix("\n").encode()
    vocabulary = llama_cpp.llama_model_get_vocab(model.handle)
    ids = (llama_cpp.llama_token * (len(raw) + 8))()
    count = llama_cpp.llama_tokenize(vocabulary, raw, len(raw), ids, len(ids), True, False)
    chunks = count // chunk
    tokens = np.array(ids[: chunks * chunk], np.int64).reshape(chunks, chunk)
    read = tokens.copy()
    if model.vocabulary.adds_bos:
        read[:, 0] = model.vocabulary.bos_id
    return tokens, [Passage(row.tolist(), chunk - 1 - chunk // 2) for row in read]


def summarize(rows: Sequence[Divergence]) -> Figures:
    """The figures that the tool prints."""
    tokens = sum(row.tokens for row in rows)
    logprob, reference = sum(row.logprob for row in rows), sum(row.reference_logprob for row in rows)
    return {
        "kld": sum(row.kl_sum for row in rows) / tokens,
        "kld_max": max(row.kl_max for row in rows),
        "top_agreement": sum(row.same_top for row in rows) / tokens,
        "perplexity": math.exp(-logprob / tokens),
        "reference_perplexity": math.exp(-reference / tokens),
        "perplexity_ratio": math.exp((reference - logprob) / tokens),
    }


def measure_ours(
    reference: Path, quantized: Sequence[Path], text: str, chunk: int, cores: int
) -> tuple[list[Figures], npt.NDArray[np.int64], Cost]:
    """Ours on all quantized models: figures of each, the tokens, and what it took with loading."""
    cost = Cost()
    with ExitStack() as stack:
        stack.enter_context(cost.counting(resource.RUSAGE_SELF))
        first, *others = (stack.enter_context(LlamaModel(path)) for path in (reference, *quantized))
        tokens, passages = cut(first, text, chunk)
        figures = [summarize(rows) for rows in measure_divergence(first, others, passages, cores=cores)]
    return figures, tokens, cost


def time_values(vocabulary: int) -> dict[str, float]:
    """Nanoseconds for each logit of the other model: comparing one with the reference, and one more; on one core."""
    generator = np.random.default_rng(0)
    tokens = 2**23 // vocabulary
    reference = generator.normal(0, 3, (tokens, vocabulary)).astype(np.float32)
    other = reference + generator.normal(0, 0.05, reference.shape).astype(np.float32)
    targets = generator.integers(0, vocabulary, tokens)

    seconds: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(_ROUNDS):
        for count, found in seconds.items():
            started = time.thread_time()
            compare_logits(reference, [other] * count, targets)
            found.append(time.thread_time() - started)
    one, two = (min(found) / reference.size * 1e9 for found in seconds.values())
    return {"vocabulary": vocabulary, "first": one, "more": two - one}


def is_close(ours: float, theirs: float) -> bool:
    """Within 1 % or 1e-4."""
    return abs(ours - theirs) <= max(RELATIVE * abs(theirs), ABSOLUTE)


def to_markdown(found: dict[str, Any]) -> str:
    """A table of what both found, and one of what it took."""
    lines = ["# Divergence from the 16-bit model, ours beside llama.cpp's perplexity tool", ""]
    lines += [f"{found['machine']}. {found['text']}: {found['chunks']} chunks of {found['chunk']} tokens, ", ""]
    lines[-2] += f"{found['scored_tokens']} of them scored; 16-bit: {found['reference']}."
    lines += ["| file | | llama-perplexity | ours | difference | |", "| --- " * 6 + "|"]
    for row in found["rows"]:
        for name, (_, title) in FIGURES.items():
            theirs, ours = row["theirs"][name], row["ours"][name]
            verdict = "same" if is_close(ours, theirs) else "**apart**"
            lines.append(
                f"| {row['file']} | {title} | {theirs:.6f} | {ours:.6f} | {ours - theirs:+.1e} "
                f"({ours / theirs - 1:+.3%}) | {verdict} |"
            )
    lines += ["", "| all of it, with loading | llama-perplexity | ours |", "| --- " * 3 + "|"]
    for name, title in (("seconds", "seconds"), ("cpu_seconds", "of processor time")):
        lines.append(f"| {title} | {found['their_cost'][name]:.1f} | {found['our_cost'][name]:.1f} |")
    lines.append(f"| kept in a file, MB | {found['base_bytes'] / 1e6:.0f} | 0 |")
    lines += ["", "| vocabulary | ns for a logit, one other model | ns, each further model |", "| --- " * 3 + "|"]
    lines += [f"| {row['vocabulary']:,} | {row['first']:.1f} | {row['more']:.1f} |" for row in found["values"]]
    lines += [
        "",
        f"Processes that wanted the cores when it began: {found['load']:.1f}. Threads of one call wait spinning.",
    ]
    lines += ["", f"Same: within 1 % or 1e-4. Comparing logits: processor time, the best of {_ROUNDS}. MB: 10^6 bytes."]
    lines.append(
        f"Of the scored tokens, {found['floored_tokens']} lie at the floor of the tool's file, 16 nats below the top: "
        'its own "Mean PPL(base)" and ratio leave out how far below, and are not what stands here.'
    )
    return "\n".join(lines) + "\n"


def _write_tickets(path: Path, rows: int) -> Path:
    chats = read_chats()[:rows]
    path.write_text("\n\n".join("\n".join(turn["content"] for turn in chat) for chat in chats), encoding="utf-8")
    return path


_existing = click.Path(path_type=Path, exists=True, resolve_path=True)


@click.command()
@click.option("--work", type=click.Path(path_type=Path, resolve_path=True), required=True, help="A folder to fill.")
@click.option("--reference", type=_existing, required=True, help="The 16-bit GGUF.")
@click.option("--quantized", type=_existing, required=True, multiple=True, help="A GGUF of it; may be given again.")
@click.option("--text", type=_existing, help="What is read; else rows of the demo's data.")
@click.option("--rows", default=400, help="How many of the demo's rows.")
@click.option("--chunk", default=512, help="Tokens of a chunk.")
@click.option("--cores", default=2)
@click.option("--source", type=_existing, help="llama.cpp's tree; else that of the installed library is fetched.")
@click.option("--tool", type=_existing, help="llama-perplexity, built from that tree.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(  # noqa: PLR0913 - a command line
    *,
    work: Path,
    reference: Path,
    quantized: Sequence[Path],
    text: Path | None,
    rows: int,
    chunk: int,
    cores: int,
    source: Path | None,
    tool: Path | None,
    out: Path,
) -> None:
    """Measure both and write the table."""
    load = os.getloadavg()[0]
    work.mkdir(parents=True, exist_ok=True)
    program = tool or build_tool(source or fetch_source(work), work, cores)
    read = text or _write_tickets(work / "tickets.txt", rows)
    theirs = Tool(program, read, work / "base.kld", chunk=chunk, cores=cores)
    their_tokens, floored = theirs.keep(reference)
    their_figures = [theirs.compare(path) for path in quantized]
    figures, tokens, cost = measure_ours(reference, quantized, read.read_text(encoding="utf-8"), chunk, cores)
    if not np.array_equal(their_tokens, tokens):
        raise click.ClickException("the tool and ours must read the same tokens, and do not: nothing was compared")
    found: dict[str, Any] = {
        "machine": f"{cores} cores, {platform.machine()}, llama.cpp of llama-cpp-python {version('llama-cpp-python')}",
        "load": load,
        "text": read.name if text else f"{rows} rows of the demo's tickets",
        "chunk": chunk,
        "chunks": len(tokens),
        "scored_tokens": len(tokens) * (chunk - 1 - chunk // 2),
        "reference": reference.name,
        "rows": [
            {"file": path.name, "theirs": theirs_of_it, "ours": ours}
            for path, theirs_of_it, ours in zip(quantized, their_figures, figures, strict=True)
        ],
        "floored_tokens": floored,
        "their_cost": asdict(theirs.cost),
        "our_cost": asdict(cost),
        "base_bytes": (work / "base.kld").stat().st_size,
        "values": [time_values(size) for size in _VOCABULARIES],
    }
    write_results(out, "divergence", found, to_markdown(found))
    if not all(is_close(row["ours"][name], row["theirs"][name]) for row in found["rows"] for name in FIGURES):
        raise click.ClickException("ours and llama.cpp's figures are apart; the table says where")


if __name__ == "__main__":
    main()
