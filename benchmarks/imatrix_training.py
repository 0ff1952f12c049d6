"""The demo's rows, a part of its training on them, and the merged model: what `benchmarks/imatrix.py` looks at."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import click
import polars as pl

from benchmarks.apart import report
from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.finetuning.job import TrainRequest
from ft_pipeline.finetuning.trainer import train_adapter
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.recipe_file import find_recipe, load_recipe

PROJECT = Path(__file__).parent.parent
BASE = PROJECT / "data" / "base_model"
EPOCHS = 0.4
HELD_OUT_ROWS, MOST_CHARACTERS = 120, 1000
Chat = list[dict[str, str]]
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
        gpu=GpuSettings("cpu", folder / "locks", wait_seconds=600),
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


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
def main(folder: Path) -> None:
    """Train in a folder."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    report(train(folder))


if __name__ == "__main__":
    main()
