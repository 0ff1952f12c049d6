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
import polars as pl

from benchmarks.apart import report, run_apart
from benchmarks.tables import RESULTS, write_results
from ft_pipeline.finetuning.importance import Importance, find_matrices, listening
from ft_pipeline.finetuning.job import TrainRequest
from ft_pipeline.finetuning.trainer import train_adapter
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.quantization.convert import Conversion, default_converter
from ft_pipeline.quantization.imatrix import read_imatrix_gguf, read_importance, to_gguf_names
from ft_pipeline.quantization.llama_library import open_vocabulary
from ft_pipeline.quantization.quantize import quantize_gguf
from ft_pipeline.recipe_file import find_recipe, load_recipe

PROJECT = Path(__file__).parent.parent
BASE = PROJECT / "data" / "base_model"
FIXTURES = PROJECT / "ft_pipeline_tests" / "quantization" / "fixtures"
CHUNK_TOKENS, CHUNKS, RECORDED_CHUNKS = 128, 16, 4
TYPES = ("Q6_K", "Q5_K_M", "Q4_K_M", "Q4_0", "IQ4_XS", "Q3_K_M", "IQ3_S", "Q2_K", "IQ2_M", "IQ2_XS")
EPOCHS = 0.4
HELD_OUT_ROWS, MOST_CHARACTERS = 120, 1000
Chat = list[dict[str, str]]
Logits = list[npt.NDArray[np.float32]]
_log = logging.getLogger("imatrix")


def read_chats() -> list[Chat]:
    """The demo's rows, without those that are broken, long or there twice on purpose."""
    chats: list[Chat] = []
    for line in (PROJECT / "data" / "raw" / "tickets.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            messages = json.loads(line)["messages"]
        except (ValueError, KeyError):
            continue
        is_whole = messages and messages[-1]["role"] == "assistant" and all(turn["content"] for turn in messages)
        if is_whole and messages not in chats and sum(len(turn["content"]) for turn in messages) < MOST_CHARACTERS:
            chats.append(messages)
    return chats


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


def tokenize(chats: list[Chat]) -> tuple[list[list[int]], list[int]]:
    """Ids of each row, and how many of them are its prompt."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    rows = [tokenizer.apply_chat_template(chat)["input_ids"] for chat in chats]
    prompts = [tokenizer.apply_chat_template(chat[:-1], add_generation_prompt=True)["input_ids"] for chat in chats]
    return rows, [len(prompt) for prompt in prompts]


def write_rows(path: Path, chats: list[Chat]) -> list[list[int]]:
    """Rows as the training stage reads them; the last answer is learned."""
    rows, prompts = tokenize(chats)
    labels = [[-100] * prompt + row[prompt:] for row, prompt in zip(rows, prompts, strict=True)]
    pl.DataFrame(
        {"input_ids": rows, "labels": labels, "source_file": "tickets.jsonl", "source_line": range(1, len(rows) + 1)}
        | {"set": "held_out", "position": 0.5},
        schema_overrides={"input_ids": pl.List(pl.Int32), "labels": pl.List(pl.Int32), "source_line": pl.Int64},
    ).write_parquet(path)
    return rows


def train(folder: Path) -> dict[str, Any]:
    """The training stage on all rows but the last; in a process of its own."""
    chats = read_chats()
    write_rows(folder / "rows.parquet", chats[:-HELD_OUT_ROWS])
    write_rows(folder / "held_out.parquet", chats[-HELD_OUT_ROWS:])
    (folder / "adapter").mkdir()
    request = TrainRequest(
        base=BASE,
        base_name="demo",
        rows=folder / "rows.parquet",
        held_out=folder / "held_out.parquet",
        settings=load_recipe(find_recipe("demo", PROJECT)).training.model_copy(update={"epochs": EPOCHS}),
        device="cpu",
        vram_limit_bytes=None,
        lock_dir=folder / "locks",
        wait_seconds=600,
        holder="benchmark",
        checkpoints=folder / "checkpoints",
        fingerprint="benchmark",
        out_dir=folder / "adapter",
    )
    return dict(train_adapter(request, LogReporter(_log)).figures)


def merge(folder: Path) -> Path:
    """The trained model in 16 bits, merged by PEFT."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    out = folder / "merged"
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    PeftModel.from_pretrained(model, folder / "adapter").merge_and_unload().half().save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copyfile(BASE / name, out / name)
    return out


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


def read_logits(gguf_file: Path, rows: Sequence[Sequence[int]]) -> Logits:
    """float32 [tokens, vocabulary] of each row."""
    from llama_cpp import Llama

    # Threads that wait for each other cost more than they give in so small a model.
    threads = {"n_threads": 1, "n_threads_batch": 1}
    llama = Llama(str(gguf_file), n_ctx=512, logits_all=True, verbose=False, **threads)
    found = []
    for row in rows:
        llama.reset()
        llama.eval(list(row))
        found.append(llama.scores[: len(row)].copy())
    llama.close()
    return found


def compare_logits(wanted: Logits, found: Logits, prompts: list[int]) -> dict[str, float]:
    """Mean divergence in nats over all tokens and over the answers', and how often the first guess is the same."""
    divergences, answers, same = [], [], []
    for left, right, prompt in zip(wanted, found, prompts, strict=True):
        p, q = (values.astype(np.float64) for values in (left, right))
        p, q = (values - np.logaddexp.reduce(values, axis=1, keepdims=True) for values in (p, q))
        divergence = (np.exp(p) * (p - q)).sum(axis=1)
        divergences.append(divergence)
        answers.append(divergence[prompt - 1 : -1])
        same.append(left.argmax(axis=1) == right.argmax(axis=1))
    return {
        "kl": float(np.concatenate(divergences).mean()),
        "answer_kl": float(np.concatenate(answers).mean()),
        "same_top": float(np.concatenate(same).mean()),
    }


def measure_gain(f16: Path, values: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Each type with and without importance, against the f16 file."""
    rows, prompts = tokenize(read_chats()[-HELD_OUT_ROWS:])
    wanted = read_logits(f16, rows)
    found: list[dict[str, Any]] = []
    for name in TYPES:
        entry: dict[str, Any] = {"type": name}
        for kind, importance in (("without", None), ("with", values)):
            if name.startswith("IQ2") and importance is None:
                continue
            file = quantize_gguf(f16, folder / "made.gguf", name, importance=importance)
            figures = compare_logits(wanted, read_logits(file.path, rows), prompts)
            entry[kind] = figures | {"size_bytes": file.size_bytes}
        found.append(entry)
    return found


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
@click.option("--tool", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="llama-imatrix.")
@click.option("--record", is_flag=True, help="Write the fixture of the tests, too.")
@click.option("--out", type=click.Path(path_type=Path), default=RESULTS)
@click.option("--train-in", type=click.Path(path_type=Path), hidden=True)
def main(tool: Path, out: Path, train_in: Path | None, *, record: bool) -> None:
    """Measure everything; it takes some minutes on two cores."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if train_in:
        report(train(train_in))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result: dict[str, Any] = {"machine": {"python": platform.python_version(), "processor": platform.machine()}}
        result["tool"] = compare_with_tool(tool, folder, record=record)
        result["training"] = run_apart("benchmarks.imatrix", ["--train-in", str(folder)])
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
