"""One file per metric, one line for each in `METRICS`: the tables, the plots and the JSON take them from there."""

from __future__ import annotations

from ft_pipeline.evaluation.metrics.answer_length import ANSWER_LENGTH
from ft_pipeline.evaluation.metrics.answer_match import ANSWER_MATCH, answer_match_metric
from ft_pipeline.evaluation.metrics.chrf import CHRF2
from ft_pipeline.evaluation.metrics.empty_answers import EMPTY_ANSWERS
from ft_pipeline.evaluation.metrics.exact_match import EXACT_MATCH
from ft_pipeline.evaluation.metrics.json_fields import JSON_FIELDS
from ft_pipeline.evaluation.metrics.json_valid import JSON_VALID
from ft_pipeline.evaluation.metrics.kl_divergence import KL_DIVERGENCE
from ft_pipeline.evaluation.metrics.metric import Metric
from ft_pipeline.evaluation.metrics.passed_checks import PASSED_CHECKS
from ft_pipeline.evaluation.metrics.perplexity import PERPLEXITY
from ft_pipeline.evaluation.metrics.perplexity_ratio import PERPLEXITY_RATIO
from ft_pipeline.evaluation.metrics.refusals import REFUSALS
from ft_pipeline.evaluation.metrics.repetition import REPETITION
from ft_pipeline.evaluation.metrics.rouge_l import ROUGE_L
from ft_pipeline.evaluation.metrics.stop_rate import STOP_RATE
from ft_pipeline.evaluation.metrics.token_f1 import TOKEN_F1
from ft_pipeline.evaluation.metrics.top_agreement import TOP_AGREEMENT

METRICS: dict[str, Metric] = {
    "exact_match": EXACT_MATCH,
    "token_f1": TOKEN_F1,
    "rouge_l": ROUGE_L,
    "chrf": CHRF2,
    "json_valid": JSON_VALID,
    "json_fields": JSON_FIELDS,
    "answer_match": ANSWER_MATCH,
    "passed_checks": PASSED_CHECKS,
    "stop_rate": STOP_RATE,
    "repetition": REPETITION,
    "refusals": REFUSALS,
    "empty_answers": EMPTY_ANSWERS,
    "answer_length": ANSWER_LENGTH,
    "perplexity": PERPLEXITY,
    "kld": KL_DIVERGENCE,
    "top_agreement": TOP_AGREEMENT,
    "perplexity_ratio": PERPLEXITY_RATIO,
}

__all__ = ["METRICS", "Metric", "answer_match_metric"]
