"""The importance matrix: against llama.cpp's own tool, from a 4-bit base, and what quantizing gains from it.

    python -m benchmarks.imatrix --tool llama-imatrix              # writes results/imatrix.{json,md}
    python -m benchmarks.imatrix --tool llama-imatrix --record     # and the fixture of the tests

The tool is built from the source of the installed library (`cmake -DLLAMA_BUILD_TOOLS=ON`, target llama-imatrix).
Same tokens: the tool reads text and cuts its tokens into chunks; the hooks read exactly those tokens on the 16-bit
model in fp32. 4-bit base: what the training stage has measured against the hooks on the merged model and the same rows.
Gain: the demo's model, trained as its recipe says but for a part of an epoch only, quantized with and without what that
training has measured; Kullback-Leibler divergence of the next token from the f16 file's, on rows that were not trained
on.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.apart import run_apart
from benchmarks.imatrix_gain import measure_gain
from benchmarks.imatrix_training import BASE, HELD_OUT_ROWS, PROJECT, merge, read_chats, tokenize
from benchmarks.tables import RESULTS, write_results
from ft_pipeline.finetuning.importance import Importance, find_matrices, listening
from ft_pipeline.quantization.convert import Conversion, default_converter
from ft_pipeline.quantization.imatrix import read_imatrix_gguf, read_importance, to_gguf_names
from ft_pipeline.quantization.llama_library import open_vocabulary

FIXTURES = PROJECT / "ft_pipeline_tests" / "quantization" / "fixtures"
CHUNK_TOKENS, CHUNKS, RECORDED_CHUNKS = 128, 16, 4
_log = logging.getLogger("imatrix")


def measure(folder: Path, rows: Sequence[Sequence[int]]) -> Importance:
    """The hooks on a 16-bit model, computed in fp32, a row at a time."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad(), listening(find_matrices(model)) as squares:
        for row in rows:
            squares.lengths = [len(row)]
            model(torch.tensor([row]))
    return Importance(squares.means(), sum(map(len, rows)), len(rows))


def convert(folder: Path, out: Path) -> Path:
    """The f16 GGUF of a model, by the pipeline's converter."""
    with Conversion(folder, out, "imatrix", default_converter()) as conversion:
        conversion.wait()
    return out


def run_tool(tool: Path, f16: Path, text: str, chunks: int) -> tuple[Path, list[list[int]]]:
    """Let llama.cpp's tool read a text.

    Returns:
        Its file, and the tokens of each chunk: it puts BOS in the place of the first one.
    """
    source, out = f16.with_suffix(".txt"), f16.with_suffix(".imatrix.gguf")
    source.write_text(text, encoding="utf-8")
    options = ["-c", str(CHUNK_TOKENS), "-b", str(CHUNK_TOKENS), "--chunks", str(chunks), "--no-ppl", "--parse-special"]
    subprocess.run(
        [str(tool.resolve()), "-m", f16.name, "-f", source.name, "-o", out.name, "--process-output", *options],
        cwd=f16.parent,
        check=True,
        capture_output=True,
    )
    with open_vocabulary(f16) as vocabulary:
        bos = [vocabulary.bos_id] if vocabulary.adds_bos else []
        ids = bos + vocabulary.tokenize(text)
    cut = [ids[start : start + CHUNK_TOKENS] for start in range(0, chunks * CHUNK_TOKENS, CHUNK_TOKENS)]
    return out, [[*bos, *chunk[len(bos) :]] for chunk in cut]


def make_random(folder: Path, family: str) -> Path:
    """A model of two layers whose weights are random, with a SentencePiece vocabulary."""
    import sentencepiece
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    folder.mkdir()
    texts = [message["content"] for chat in read_chats()[:400] for message in chat]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=600,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
    )
    torch.manual_seed(1)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2, "vocab_size": 600}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512}
    config = AutoConfig.for_model(family, **sizes, **heads, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.half().save_pretrained(folder)
    return folder


def compare(found: Importance, f16: Path, theirs: dict[str, npt.NDArray[np.float32]]) -> dict[str, Any]:
    """Relative differences of all columns of all tensors that the tool has."""
    ours = to_gguf_names(found, f16, _log.warning)
    if missing := set(theirs) - set(ours):
        raise click.ClickException(f"the hooks have nothing for {', '.join(sorted(missing))}")
    differences = np.concatenate([np.abs(ours[name] / theirs[name] - 1) for name in theirs])
    return {
        "tensors": len(theirs),
        "tokens": found.tokens,
        "columns": len(differences),
        "median": float(np.median(differences)),
        "max": float(differences.max()),
    }


def compare_with_tool(tool: Path, folder: Path, *, record: bool) -> list[dict[str, Any]]:
    """The same tokens through llama.cpp's tool and through the hooks."""
    from transformers import AutoTokenizer

    template = AutoTokenizer.from_pretrained(BASE)
    text = "".join(str(template.apply_chat_template(chat, tokenize=False)) for chat in read_chats()[:80])
    found = []
    for name in ("demo", "llama", "qwen2"):
        model = BASE if name == "demo" else make_random(folder / name, name)
        f16 = convert(model, folder / f"{name}.gguf")
        made, ids = run_tool(tool, f16, text, CHUNKS)
        found.append({"model": name} | compare(measure(model, ids), f16, read_imatrix_gguf(made)))
        if record and name == "demo":
            made, ids = run_tool(tool, f16, text, RECORDED_CHUNKS)
            shutil.copyfile(made, FIXTURES / "demo.imatrix.gguf")
            (FIXTURES / "demo.ids.json").write_text(json.dumps(ids) + "\n", encoding="utf-8")
    return found


def compare_four_bits(found: Importance, merged: Path, rows: list[list[int]]) -> dict[str, float]:
    """What the 4-bit base with its adapter has measured against the merged model, layer by layer."""
    wanted = measure(merged, rows[: found.rows])
    layers, columns = [], []
    for name, values in wanted.values.items():
        layers.append(float(np.abs(found.values[name] - values).sum() / values.sum()))
        columns.append(np.abs(found.values[name] / values - 1))
    together = np.concatenate(columns)
    return {
        "tokens": found.tokens,
        "layers": len(layers),
        "median": float(np.median(layers)),
        "max": float(max(layers)),
        "column_median": float(np.median(together)),
        "column_max": float(together.max()),
    }


def to_markdown(result: dict[str, Any]) -> str:
    """The figures for people."""
    lines = ["| same tokens, hooks against llama-imatrix | tensors | tokens | columns | median difference | largest |"]
    lines.append("| --- " * 6 + "|")
    for found in result["tool"]:
        cells = [f"{found[name]:,}" for name in ("tensors", "tokens", "columns")]
        lines.append(f"| {found['model']} | {' | '.join(cells)} | {found['median']:.3%} | {found['max']:.3%} |")
    four = result["four_bits"]
    lines += ["", "| 4-bit base with adapter against the merged model | median | largest |", "| --- " * 3 + "|"]
    lines.append(f"| layers, mean difference over mean ({four['layers']}) | {four['median']:.2%} | {four['max']:.2%} |")
    lines.append(f"| columns | {four['column_median']:.2%} | {four['column_max']:.2%} |")
    lines += ["", f"The same {four['tokens']:,} tokens of training rows.", ""]
    lines.append("| KL from f16 (nats) | without | with | ratio | in answers, without | with | ratio | ")
    lines[-1] += "same first guess, without | with |"
    lines.append("| --- " * 9 + "|")
    for found in result["gain"]:
        lines.append(f"| {found['type']} | {' | '.join(_show_gain(found))} |")
    return "\n".join(lines) + "\n"


def _show_gain(found: dict[str, Any]) -> list[str]:
    before, after = found.get("without"), found["with"]
    cells = []
    for name in ("kl", "answer_kl"):
        cells += [f"{before[name]:.2g}" if before else "refused", f"{after[name]:.2g}"]
        cells.append(f"{after[name] / before[name]:.2f}" if before else "")
    return [*cells, f"{before['same_top']:.2%}" if before else "refused", f"{after['same_top']:.2%}"]


@click.command()
@click.option(
    "--tool", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True, help="llama-imatrix."
)
@click.option("--record", is_flag=True, help="Write the fixture of the tests, too.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
def main(tool: Path, out: Path, *, record: bool) -> None:
    """Measure everything; it takes some minutes on two cores."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {"machine": {"python": platform.python_version(), "processor": platform.machine()}}
        result["tool"] = compare_with_tool(tool, folder, record=record)
        result["training"] = run_apart("benchmarks.imatrix_training", [str(folder)])
        merged = merge(folder)
        importance = read_importance(folder / "adapter")
        if importance is None:
            raise click.ClickException("the training has measured no importance")
        rows, _ = tokenize(read_chats()[:-HELD_OUT_ROWS])
        result["four_bits"] = compare_four_bits(importance, merged, rows)
        f16 = convert(merged, folder / "merged.gguf")
        result["gain"] = measure_gain(f16, to_gguf_names(importance, f16, _log.warning), folder)
    write_results(out, "imatrix", result, to_markdown(result))


if __name__ == "__main__":
    main()
