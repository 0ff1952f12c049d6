"""Puts the rows to every contestant, one after the other, and compares the quantized ones with the 16-bit model."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.costs import cards_that_fit, measure_costs
from ft_pipeline.evaluation.divergence import Passage, measure_divergence
from ft_pipeline.evaluation.general import GENERAL_NEW_TOKENS, load_general_rows
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.llama_runner import LlamaRunner
from ft_pipeline.evaluation.offload import ScoringDevice, plan_together
from ft_pipeline.evaluation.request import Absence, Contestant, EvaluationRequest
from ft_pipeline.evaluation.rows import EvaluationRow, ScoredRow
from ft_pipeline.evaluation.rules import GENERAL, HELD_OUT
from ft_pipeline.evaluation.scores import ContestantResult
from ft_pipeline.processes.reporter import Reporter

_MIXED = (
    "The 16-bit model was read partly on the CPU, the quantized ones on the GPU: the divergence includes how these two "
    "round."
)


@dataclass
class Scored:
    """What came of it.

    Attributes:
        absent: Contestants that could not be scored, those that were absent from the start among them.
        notes: What a reader of the figures should know.
    """

    results: list[ContestantResult]
    absent: list[Absence]
    notes: list[str] = field(default_factory=list)


class Scoring:
    """One evaluation on one device.

    Args:
        request: Who competes.
        rows: What all of them are asked.
        device: What they run on.
        reporter: Where it says how far it is.
    """

    def __init__(
        self, request: EvaluationRequest, rows: Sequence[EvaluationRow], device: ScoringDevice, reporter: Reporter
    ) -> None:
        self._request = request
        self._rows = list(rows)
        self._general = load_general_rows() if request.settings.general_set else []
        self._device = device
        self._reporter = reporter
        self._done, self._total = 0, self._count_all()
        self._passages: dict[int, Passage] = {}

    def run(self) -> Scored:
        """All contestants that can be scored.

        Raises:
            EvaluationError: a challenger cannot.
        """
        scored = Scored([], list(self._request.absent))
        for contestant in self._request.contestants:
            try:
                scored.results.append(self._score(contestant))
            except EvaluationError as err:
                if contestant.role == "challenger":  # each of its files would ship
                    raise
                scored.absent.append(Absence(role=contestant.role, reason=f"{contestant.label}: {err}"))
        for absence in scored.absent:
            self._reporter.warning(f"{absence.role} does not compete: {absence.reason}")
        try:
            self._compare_with_16bit(scored)
        except EvaluationError as err:
            scored.notes.append(f"The quantized files were not compared with the 16-bit model: {err}")
        return scored

    def _score(self, contestant: Contestant) -> ContestantResult:
        rows = self._choose_rows(contestant)
        settings = self._request.settings
        with LlamaRunner(contestant.gguf, device=self._device, tell=self._reporter.info) as runner:
            scored = runner.score(rows, self._limit_answer, self._count, settings.sampling)
            costs, fits = measure_costs(runner, rows), tuple(cards_that_fit(runner.model.facts))
            if contestant == self._request.gated:
                self._passages = self._make_passages(runner, scored)
        self._reporter.info(f"{contestant.label}: {len(rows)} rows, {costs.tokens_per_second:,.0f} tokens/s one by one")
        return ContestantResult(contestant, tuple(scored), costs, fits)

    def _limit_answer(self, row: EvaluationRow) -> int:
        limit = self._request.settings.max_new_tokens
        return min(limit, GENERAL_NEW_TOKENS) if row.set_name == GENERAL else limit

    def _choose_rows(self, contestant: Contestant) -> list[EvaluationRow]:
        """What was forgotten is asked of the file that would ship and of those that it is compared with."""
        is_asked = contestant == self._request.gated or contestant.role in ("base", "champion", "best")
        return [*self._rows, *self._general] if is_asked else self._rows

    def _count(self, finished: int) -> None:
        self._done += finished
        self._reporter.progress(self._done, self._total)

    def _count_all(self) -> int:
        """Rows that all contestants are asked, and those that are compared."""
        contestants = self._request.contestants
        rows = sum(len(self._choose_rows(contestant)) for contestant in contestants)
        if not any(contestant.role == "merged" for contestant in contestants):
            return rows
        held_out = sum(row.set_name == HELD_OUT for row in self._rows)
        return rows + min(held_out, self._request.settings.divergence_rows)

    def _compare_with_16bit(self, scored: Scored) -> None:
        by_contestant = {result.contestant: result for result in scored.results}
        merged = next((one for one in by_contestant if one.role == "merged"), None)
        challengers = [one for one in by_contestant if one.role == "challenger"]
        if merged is None:
            return
        longest = max((len(passage.tokens) for passage in self._passages.values()), default=1)
        files = [contestant.gguf for contestant in (*challengers, merged)]
        with ExitStack() as stack:
            *others, reference = [
                stack.enter_context(LlamaModel(file, n_gpu_layers=count))
                for file, count in zip(files, plan_together(files, self._device, longest), strict=True)
            ]
            if len({model.n_gpu_layers > model.layers for model in (*others, reference)}) > 1:
                scored.notes.append(_MIXED)
            found = measure_divergence(reference, others, list(self._passages.values()), on_passages=self._count)
        for contestant, divergences in zip(challengers, found, strict=True):
            result, at = by_contestant[contestant], dict(zip(self._passages, divergences, strict=True))
            rows = tuple(replace(row, divergence=at.get(index)) for index, row in enumerate(result.rows))
            scored.results[scored.results.index(result)] = replace(result, rows=rows)

    def _make_passages(self, runner: LlamaRunner, rows: Sequence[ScoredRow]) -> dict[int, Passage]:
        """By the index of a row, its prompt and reference: of the first held-out rows that fit."""
        fitting = [index for index, one in enumerate(rows) if one.row.set_name == HELD_OUT and not one.fault]
        chats = {index: runner.encode(rows[index].row) for index in fitting[: self._request.settings.divergence_rows]}
        return {index: Passage([*chat.prompt, *chat.completion], len(chat.completion)) for index, chat in chats.items()}
