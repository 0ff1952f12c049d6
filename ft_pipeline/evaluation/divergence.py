"""How far quantized models' distributions lie from the 16-bit model's, token by token.

All models read the same batches at the same time. Their logits are compared where llama.cpp has put them and then
forgotten: kept, those of a vocabulary of 128k would take half a megabyte a token. llama.cpp's own tool
(tools/perplexity) does keep them, rounded to 16 bits, in a file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.decoding_plan import DecodingPlan, cut_shards, plan_decoding
from ft_pipeline.evaluation.llama_decoder import Decoder, Logits, Piece
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.rows import Divergence
from ft_pipeline.evaluation.shards import Report, run_shards

# Values of one block: of its arrays there are six at a time.
_BLOCK_VALUES = 2**16
_NOTHING = Divergence(tokens=0, kl_sum=0.0, same_top=0, logprob=0.0, reference_logprob=0.0, kl_max=0.0)


@dataclass(frozen=True)
class Passage:
    """A text in tokens.

    Attributes:
        tokens: Ids.
        scored: The models are compared at each of the last `scored` tokens, by what they expect there.
    """

    tokens: Sequence[int]
    scored: int

    def __post_init__(self) -> None:
        if not 0 < self.scored < len(self.tokens):
            raise EvaluationError(
                "of a passage one token at least must be scored, and one at least stand before it; "
                f"got {self.scored} of {len(self.tokens)}"
            )


def measure_divergence(
    reference: LlamaModel,
    others: Sequence[LlamaModel],
    passages: Sequence[Passage],
    *,
    cores: int | None = None,
    on_passages: Callable[[int], None] = lambda _count: None,
) -> list[list[Divergence]]:
    """Compare models with a reference on every passage.

    Args:
        reference: The 16-bit model.
        others: Models with the same vocabulary; all of them are in memory at once.
        passages: What they read; none longer than the context of any model.
        cores: Cores to use; all that the process may use by default.
        on_passages: Called with the number of passages that were finished since its last call.

    Returns:
        For each of `others`, a divergence for each passage. Where logits are no finite numbers, nor is the divergence.

    Raises:
        EvaluationError: the vocabularies differ, or llama.cpp fails on a batch.
    """
    for other in others:
        _require_same_vocabulary(reference, other)
    if not passages or not others:
        return [[] for _ in others]
    models = [reference, *others]
    shards = cut_shards(passages, is_small=_are_small(models))
    plan = _plan(models, passages, len(shards), cores or len(os.sched_getaffinity(0)))

    def work(shard: Sequence[Passage], report: Report) -> list[list[Divergence]]:
        return _Comparison(models, shard, plan, report).run()

    by_passage = itertools.chain.from_iterable(run_shards(work, shards, plan.decoders, on_passages))
    return [list(found) for found in zip(*by_passage, strict=True)]


def compare_logits(reference: Logits, others: Sequence[Logits], targets: npt.NDArray[np.int64]) -> list[Divergence]:
    """Compare what models expect at some tokens.

    Args:
        reference: Logits of the reference, shape (tokens, vocabulary).
        others: Those of other models, of the same shape.
        targets: The token that stands at each place, shape (tokens,).

    Returns:
        One divergence for each of `others`. Exponentials are taken in 32 bits and summed in 64.
    """
    rows = max(1, _BLOCK_VALUES // reference.shape[1])
    sums = [_NOTHING] * len(others)
    # The logits of a broken model are no numbers, nor is what follows from them.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, len(reference), rows):
            part = slice(start, start + rows)
            expected = _Softmax(reference[part], targets[part])
            found = [expected.compare(_Softmax(other[part], targets[part])) for other in others]
            sums = [_add(so_far, more) for so_far, more in zip(sums, found, strict=True)]
    return sums


class _Softmax:
    """Distributions over the vocabulary at some tokens: exp(shifted) / exp(log_total)."""

    def __init__(self, logits: Logits, targets: npt.NDArray[np.int64]) -> None:
        rows = np.arange(len(logits))
        self._top = logits.argmax(axis=1)
        self._shifted = logits - logits[rows, self._top][:, None]
        self._weights = np.exp(self._shifted)
        self._total = self._weights.sum(axis=1, dtype=np.float64)
        self._log_total = np.log(self._total)
        self._logprobs = self._shifted[rows, targets] - self._log_total

    def compare(self, other: _Softmax) -> Divergence:
        """Divergence of another model's distributions from these."""
        terms = self._shifted - other._shifted
        terms *= self._weights
        means = terms.sum(axis=1, dtype=np.float64) / self._total
        # Rounding leaves some 1e-8 on either side of nothing.
        divergences = np.maximum(means - self._log_total + other._log_total, 0.0)
        same_top = (self._top == other._top) & ~np.isnan(divergences)
        return Divergence(
            tokens=len(divergences),
            kl_sum=float(divergences.sum()),
            same_top=int(same_top.sum()),
            logprob=float(other._logprobs.sum()),
            reference_logprob=float(self._logprobs.sum()),
            kl_max=float(divergences.max()),
        )


class _Comparison:
    """Some passages, read by all models batch by batch."""

    def __init__(
        self,
        models: Sequence[LlamaModel],
        passages: Sequence[Passage],
        plan: DecodingPlan,
        report: Report,
    ) -> None:
        self._models, self._passages, self._plan, self._report = models, passages, plan, report

    def run(self) -> list[list[Divergence]]:
        """For each passage, a divergence for each model but the first."""
        sequences = min(self._plan.sequences, len(self._passages))
        found: list[list[Divergence]] = []
        with ExitStack() as stack:
            decoders = [
                stack.enter_context(
                    Decoder(
                        model,
                        sequences=sequences,
                        tokens_per_sequence=self._plan.tokens_per_sequence,
                        threads=self._plan.threads,
                    )
                )
                for model in self._models
            ]
            for start in range(0, len(self._passages), sequences):
                found += self._read(decoders, self._passages[start : start + sequences])
        return found

    def _read(self, decoders: Sequence[Decoder], passages: Sequence[Passage]) -> list[list[Divergence]]:
        pieces = [Piece(number, passage.tokens[:-1], 0, passage.scored) for number, passage in enumerate(passages)]
        sums = [[_NOTHING] * (len(decoders) - 1) for _ in passages]
        for step in zip(*(decoder.decode(pieces) for decoder in decoders), strict=True):
            self._report(0)
            index, (reference, *others) = step[0][0], [logits for _, logits in step]
            # A passage that is split over two batches comes in two parts.
            seen, passage = sums[index][0].tokens, passages[index]
            targets = np.array(passage.tokens[len(passage.tokens) - passage.scored + seen :][: len(reference)])
            found = compare_logits(reference, others, targets)
            sums[index] = [_add(so_far, more) for so_far, more in zip(sums[index], found, strict=True)]
        for decoder in decoders:
            for piece in pieces:
                decoder.rewind(piece.sequence, 0)
        self._report(len(passages))
        return sums


def _add(left: Divergence, right: Divergence) -> Divergence:
    return Divergence(
        tokens=left.tokens + right.tokens,
        kl_sum=left.kl_sum + right.kl_sum,
        same_top=left.same_top + right.same_top,
        logprob=left.logprob + right.logprob,
        reference_logprob=left.reference_logprob + right.reference_logprob,
        # Unlike Python's, numpy's keeps what is no number.
        kl_max=float(np.maximum(left.kl_max, right.kl_max)),
    )


def _plan(models: Sequence[LlamaModel], passages: Sequence[Passage], shards: int, cores: int) -> DecodingPlan:
    return plan_decoding(
        [model.facts for model in models],
        tokens_per_sequence=max(len(passage.tokens) for passage in passages),
        outputs_per_sequence=max(passage.scored for passage in passages),
        # One call at a time is what a GPU is for.
        shards=1 if any(model.n_gpu_layers for model in models) else shards,
        cores=cores,
        is_small=_are_small(models),
    )


def _are_small(models: Sequence[LlamaModel]) -> bool:
    return all(model.is_small for model in models)


def _require_same_vocabulary(reference: LlamaModel, other: LlamaModel) -> None:
    theirs, ours = _read_vocabulary(reference), _read_vocabulary(other)
    if theirs == ours:
        return
    if len(theirs) != len(ours):
        difference = f"{other.path} has {len(ours)} tokens, {reference.path} {len(theirs)}"
    else:
        token = next(number for number, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
        difference = f"token {token} is {ours[token]!r} in {other.path}, {theirs[token]!r} in {reference.path}"
    raise EvaluationError(
        f"models are compared token by token and must have the same vocabulary; {difference}. "
        "Quantize both from the same 16-bit model."
    )


def _read_vocabulary(model: LlamaModel) -> list[bytes]:
    import llama_cpp

    vocabulary = llama_cpp.llama_model_get_vocab(model.handle)
    return [llama_cpp.llama_vocab_get_text(vocabulary, token) for token in range(model.vocabulary_size)]
