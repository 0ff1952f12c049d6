"""Rows a second from messages to ids and masks: TRL's own preparation against the token contract, on the same rows.

    .venv/bin/python -m benchmarks.tokenization --data gsm8k/train.jsonl    # writes results/tokenization.{json,md}

As a module: run by its path it would take benchmarks/datasets.py for the library that TRL needs.

TRL is timed inside `SFTTrainer`, around the method that prepares the training set; its imports, its model and its
Trainer are left out, the Arrow files that `datasets` writes on the way are not. The contract is timed from messages to
a table in memory. Its processes are started beforehand, and that is given apart; `datasets` forks its own within the
call. Unsloth, which patches TRL, is not imported.
"""

from __future__ import annotations

import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import polars as pl

from ft_pipeline.datasets.contract import TokenContract
from ft_pipeline.datasets.conversation import Message
from ft_pipeline.datasets.tokenizer import load_tokenizer

PROJECT = Path(__file__).parent.parent
RESULTS = PROJECT / "benchmarks" / "results"
_MAX_ROW_TOKENS = 2048
_PROCESSES = 2
_CHUNK = 500
_WORDS = ("a train", "leaves", "the city", "at 12", "and runs", "48 miles", "in 2 hours", "so", "how far", "does it go")
Row = tuple[list[Message], None]
_contract: TokenContract | None = None


@dataclass(frozen=True)
class Timing:
    """One way to tokenize the rows.

    Attributes:
        seconds: Wall seconds of each repetition.
        rows_per_second: By the median repetition.
    """

    name: str
    seconds: list[float]
    rows_per_second: float


@dataclass(frozen=True)
class Result:
    """What the benchmark found.

    Attributes:
        start_seconds: What the contract's processes take to start, imports and tokenizer included.
        load_average: Processes that wanted a core in the last minute, at the end: above the cores, others took part.
    """

    machine: dict[str, str | int]
    start_seconds: float
    load_average: float
    rows: int
    tokens: int
    data: str
    base: str
    timings: list[Timing]


@click.command()
@click.option("--data", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="JSONL: question, answer.")
@click.option("--base", type=click.Path(exists=True, path_type=Path), default=PROJECT / "data" / "base_model")
@click.option("--rows", default=7_000, show_default=True, help="Rows, cut from the data or generated.")
@click.option("--repeats", default=3, show_default=True, help="Repetitions of each way, taken in turn.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), default=RESULTS)
def main(data: Path | None, base: Path, rows: int, repeats: int, out: Path) -> None:
    """Prepare the same rows by TRL and by the contract, compare the ids, time both, write."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    conversations = read_rows(data, rows) if data else generate_rows(rows)
    contract = TokenContract(load_tokenizer(base), max_row_tokens=_MAX_ROW_TOKENS)
    with (
        tempfile.TemporaryDirectory(prefix="ft_pipeline-benchmark-") as folder,
        ProcessPoolExecutor(_PROCESSES, get_context("spawn"), _start_worker, (base,)) as pool,
    ):
        start_seconds, _ = _time(lambda: list(pool.map(_tokenize, [conversations[:100]] * (4 * _PROCESSES))))
        trl = TrlPreparation(base, conversations, Path(folder))
        ways: dict[str, Callable[[], tuple[float, Any]]] = {
            "TRL, dataset_num_proc=None": lambda: trl.run(None),
            f"TRL, dataset_num_proc={_PROCESSES}": lambda: trl.run(_PROCESSES),
            "contract, 1 process": lambda: _time(lambda: _to_table(contract, conversations)),
            f"contract, {_PROCESSES} processes": lambda: _time(lambda: _tokenize_in_pool(pool, conversations)),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        tables: dict[str, Any] = {}
        for _ in range(repeats):
            for name, way in ways.items():
                taken, tables[name] = way()
                seconds[name].append(round(taken, 3))
    _require_equal(list(tables.values()))
    result = Result(
        machine=_describe_machine(),
        start_seconds=round(start_seconds, 1),
        load_average=round(os.getloadavg()[0], 1),
        rows=len(conversations),
        tokens=int(tables["contract, 1 process"]["input_ids"].list.len().sum()),
        data=data.name if data else "generated",
        base=base.name,
        timings=[Timing(name, taken, _rate(len(conversations), taken)) for name, taken in seconds.items()],
    )
    out.mkdir(exist_ok=True)
    (out / "tokenization.json").write_text(json.dumps(asdict(result), indent=1) + "\n")
    text = to_markdown(result)
    (out / "tokenization.md").write_text(text)
    click.echo(text)


def read_rows(data: Path, count: int) -> list[Row]:
    """Conversations of one turn from a file of questions and answers."""
    with data.open(encoding="utf-8") as lines:
        fields = [json.loads(line) for _, line in zip(range(count), lines, strict=False)]
    return [_to_row(row["question"], row["answer"]) for row in fields]


def generate_rows(count: int) -> list[Row]:
    """Conversations of one turn, as long as those of GSM8K."""
    draw = random.Random(7)
    return [
        _to_row(
            " ".join(draw.choices(_WORDS, k=draw.randint(15, 45))),
            "\n".join(" ".join(draw.choices(_WORDS, k=draw.randint(5, 12))) for _ in range(draw.randint(2, 6))),
        )
        for _ in range(count)
    ]


def _to_row(question: str, answer: str) -> Row:
    return [Message(role="user", content=question), Message(role="assistant", content=answer)], None


class TrlPreparation:
    """TRL's `SFTTrainer` on prompt and completion columns, timed around its dataset preparation."""

    def __init__(self, base: Path, rows: list[Row], folder: Path) -> None:
        import datasets
        from transformers import AutoModelForCausalLM, AutoTokenizer

        # A cached result would be no preparation.
        datasets.disable_caching()
        datasets.disable_progress_bars()
        self._tokenizer = AutoTokenizer.from_pretrained(base)
        self._model = AutoModelForCausalLM.from_pretrained(base)
        self._rows = datasets.Dataset.from_list(
            [{"prompt": messages[:-1], "completion": messages[-1:]} for messages, _ in rows]
        )
        # On disk, as data sets are: its processes then share the file instead of copies.
        self._rows.save_to_disk(folder / "rows")
        self._rows = datasets.load_from_disk(folder / "rows")
        self._folder = folder

    def run(self, processes: int | None) -> tuple[float, pl.DataFrame]:
        """Seconds, and the table that came of them."""
        from trl import SFTConfig, SFTTrainer

        seconds: list[float] = []

        class TimedTrainer(SFTTrainer):  # type: ignore[misc]
            """Takes the time of the preparation alone."""

            def _prepare_dataset(self, *arguments: Any, **settings: Any) -> Any:
                taken, prepared = _time(lambda: SFTTrainer._prepare_dataset(self, *arguments, **settings))
                seconds.append(taken)
                return prepared

        config = SFTConfig(
            output_dir=str(self._folder / "out"),
            report_to="none",
            use_cpu=True,
            bf16=False,
            max_length=_MAX_ROW_TOKENS,
            completion_only_loss=True,
            dataset_num_proc=processes,
        )
        trainer = TimedTrainer(
            model=self._model, args=config, train_dataset=self._rows, processing_class=self._tokenizer
        )
        table = pl.DataFrame(trainer.train_dataset.select_columns(["input_ids", "labels"]).data.table)
        return seconds[0], table


def _start_worker(base: Path) -> None:
    global _contract  # noqa: PLW0603
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _contract = TokenContract(load_tokenizer(base), max_row_tokens=_MAX_ROW_TOKENS)


def _tokenize(rows: list[Row]) -> pl.DataFrame:
    if _contract is None:
        raise RuntimeError("a worker must be started by _start_worker")
    return _to_table(_contract, rows)


def _to_table(contract: TokenContract, rows: list[Row]) -> pl.DataFrame:
    tokenized = contract.tokenize(rows)
    return pl.DataFrame(
        {
            "input_ids": pl.Series([row.input_ids for row in tokenized], dtype=pl.List(pl.Int32)),
            "labels": pl.Series([row.labels for row in tokenized], dtype=pl.List(pl.Int32)),
        }
    )


def _tokenize_in_pool(pool: ProcessPoolExecutor, rows: list[Row]) -> pl.DataFrame:
    chunks = [rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK)]
    return pl.concat(pool.map(_tokenize, chunks))


def _time(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _require_equal(tables: list[pl.DataFrame]) -> None:
    """All ways give the same ids and labels, but for what TRL keeps after the end of the turn."""
    ours = tables[-1]
    for table in tables:
        for column in ("input_ids", "labels"):
            pairs = pl.DataFrame({"theirs": table[column].cast(pl.List(pl.Int32)), "ours": ours[column]})
            theirs = pairs.select(pl.col("theirs").list.head(pl.col("ours").list.len()))
            if not theirs["theirs"].equals(ours[column]):
                raise SystemExit(f"{column} differ between TRL and the contract: nothing to compare the speed of")


def _rate(rows: int, seconds: list[float]) -> float:
    return round(rows / statistics.median(seconds), 1)


def _describe_machine() -> dict[str, str | int]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "trl": version("trl"),
        "transformers": version("transformers"),
        "tokenizers": version("tokenizers"),
    }


def to_markdown(result: Result) -> str:
    """The result as a table for people."""
    slowest = result.timings[0].rows_per_second
    machine = result.machine
    lines = [
        "# Tokenizing with masks, measured by `benchmarks/tokenization.py`",
        "",
        f"{result.rows} rows ({result.data}), {result.tokens} tokens, tokenizer of {result.base}; {machine['cores']} "
        f"cores, {machine['architecture']}, Python {machine['python']}, TRL {machine['trl']}, tokenizers "
        f"{machine['tokenizers']}. The median of {len(result.timings[0].seconds)} repetitions, all in one run; ids and "
        f"labels are compared and equal. The contract's {_PROCESSES} processes took {result.start_seconds} s to start, "
        f"not counted below. Load average at the end: {result.load_average}.",
        "",
        "| way | seconds | rows a second | of TRL's, one process |",
        "| --- | ---: | ---: | ---: |",
        *(
            f"| {timing.name} | {statistics.median(timing.seconds):.2f} | {timing.rows_per_second:.0f} "
            f"| {timing.rows_per_second / slowest:.1f}x |"
            for timing in result.timings
        ),
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
