"""The same rows put to the same GGUF: row by row, batched, and batched with the reference as draft."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from ft_pipeline.datasets.conversation import Message
from ft_pipeline.evaluation.answering import Answer
from ft_pipeline.evaluation.chat import EncodedChat
from ft_pipeline.evaluation.llama_runner import LlamaRunner
from ft_pipeline.evaluation.offload import ScoringDevice
from ft_pipeline.evaluation.rows import EvaluationRow, ScoredRow

ROW_BY_ROW, ONE_THREAD, BATCHED, DRAFTED = "row_by_row", "one_thread", "batched", "drafted"


# More than any model has.
_ALL_LAYERS = 999


@dataclass(frozen=True)
class Machine:
    """What of the machine is used.

    Attributes:
        cores: Threads of the row-by-row run, decoders and threads of ours.
        device: The CPU, or a GPU that takes all layers.
        context_tokens: The longest prompt and answer together.
    """

    cores: int
    device: ScoringDevice
    context_tokens: int

    @property
    def gpu_layers(self) -> int:
        """Layers on the GPU."""
        return _ALL_LAYERS if self.device.is_gpu else 0


@dataclass(frozen=True)
class Run:
    """All rows put to the model once.

    Attributes:
        seconds: On the clock.
        cpu_seconds: Of all threads; other programs on the machine add little to it where threads do not wait for each
            other.
        prompts: Ids of each row's prompt.
        answers: Ids of each row's greedy answer; the token that ended it is the last.
        texts: What the caller is given.
    """

    seconds: float
    cpu_seconds: float
    prompts: list[tuple[int, ...]]
    answers: list[tuple[int, ...]]
    texts: list[str]

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the answers, their ends included, over all that the rows took."""
        return sum(map(len, self.answers)) / self.seconds


def run_all(
    gguf: Path, rows: Sequence[EvaluationRow], new_tokens: int, machine: Machine, repeat: int
) -> dict[str, list[Run]]:
    """Every way in turn, so many times. The first row warms each up."""
    with ExitStack() as stack:
        ours = _RecordingRunner(gguf, machine)
        stack.enter_context(ours)
        one_by_one = stack.enter_context(closing(_RowByRow(gguf, machine, new_tokens)))
        alone = stack.enter_context(closing(_RowByRow(gguf, replace(machine, cores=1), new_tokens)))
        runners: dict[str, Callable[[Sequence[EvaluationRow]], Run]] = {
            ROW_BY_ROW: one_by_one.run,
            # A small model's threads wait for each other longer than they work.
            ONE_THREAD: alone.run,
            BATCHED: lambda chosen: ours.run([_without_reference(row) for row in chosen], new_tokens),
            DRAFTED: lambda chosen: ours.run(chosen, new_tokens),
        }
        for runner in runners.values():
            runner(rows[:1])
        found: dict[str, list[Run]] = {name: [] for name in runners}
        for number in range(repeat):
            for name, runner in runners.items():
                run = runner(rows)
                found[name].append(run)
                click.echo(f"{number + 1}. {name}: {run.seconds:.2f} s, {run.tokens_per_second:.0f} tokens/s", err=True)
    return found


class _RowByRow:
    """`create_chat_completion` of llama-cpp-python on one row after the other."""

    def __init__(self, gguf: Path, machine: Machine, new_tokens: int) -> None:
        import llama_cpp

        record: list[tuple[list[int], list[int]]] = []

        class Recording(llama_cpp.Llama):  # type: ignore[misc]
            """Keeps the ids that it is asked for and those that it makes."""

            def generate(self, tokens: Sequence[int], **options: Any) -> Iterator[int]:
                made: list[int] = []
                record.append((list(tokens), made))
                for token in super().generate(tokens, **options):
                    made.append(token)
                    yield token

        self._record = record
        self._new_tokens = new_tokens
        self._llama = Recording(
            str(gguf),
            n_ctx=machine.context_tokens,
            n_threads=machine.cores,
            n_threads_batch=machine.cores,
            n_gpu_layers=machine.gpu_layers,
            verbose=False,
        )

    def run(self, rows: Sequence[EvaluationRow]) -> Run:
        """Answers of all rows; what the former row's prompt has in common with the next is not decoded again."""
        self._record.clear()
        texts = []
        watch = _Watch()
        for row in rows:
            reply = self._llama.create_chat_completion(
                list(row.prompt), temperature=0.0, max_tokens=self._new_tokens, seed=0
            )
            texts.append(reply["choices"][0]["message"]["content"])
        seconds = watch.read()
        # Of a character that is cut in two it makes some tokens more than it was asked for.
        answers = [tuple(made[: self._new_tokens]) for _, made in self._record]
        return Run(*seconds, [tuple(prompt) for prompt, _ in self._record], answers, texts)

    def close(self) -> None:
        self._llama.close()


class _RecordingRunner(LlamaRunner):
    """The pipeline's runner; keeps the ids of prompts and answers."""

    def __init__(self, gguf: Path, machine: Machine) -> None:
        super().__init__(gguf, cores=machine.cores, device=machine.device)
        self._record: list[tuple[EncodedChat, Answer]] = []

    def run(self, rows: Sequence[EvaluationRow], new_tokens: int) -> Run:
        self._record.clear()
        watch = _Watch()
        scored = self.score(rows, new_tokens)
        seconds = watch.read()
        if faults := [found for found in scored if found.fault]:
            raise click.ClickException(f"{faults[0].row.place}: every row must fit the model; {faults[0].fault}")
        return Run(
            *seconds,
            [tuple(chat.prompt) for chat, _ in self._record],
            [answer.tokens for _, answer in self._record],
            [found.prediction for found in scored],
        )

    def _to_scored_row(self, row: EvaluationRow, chat: EncodedChat, answer: Answer) -> ScoredRow:
        self._record.append((chat, answer))
        return super()._to_scored_row(row, chat, answer)


class _Watch:
    def __init__(self) -> None:
        self._started = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Seconds since the start: on the clock, and of this process's threads."""
        return time.perf_counter() - self._started[0], time.process_time() - self._started[1]


def _without_reference(row: EvaluationRow) -> EvaluationRow:
    """An empty reference is the end of the turn alone, which no answer begins with."""
    return replace(row, messages=(*row.prompt, Message(role="assistant", content="")))
