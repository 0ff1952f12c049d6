"""The promises that assets report on themselves, as Dagster's check specs, and the check that looks ahead.

A blocking one that fails stops what comes after in the same run; `Pipeline` asks for them again in any other.
"""

import dagster as dg

from ft_pipeline.defs.metadata import to_check
from ft_pipeline.defs.resources import PipelineResource
from ft_pipeline.gate_checks import declare_checks


def _specs(asset: str, checks: dict[str, tuple[bool, str]]) -> list[dg.AssetCheckSpec]:
    return [
        dg.AssetCheckSpec(name, asset=asset, blocking=blocking, description=description)
        for name, (blocking, description) in checks.items()
    ]


VALIDATED_DATASET = _specs(
    "validated_dataset",
    {
        "quarantined_share": (True, "The share of rows in quarantine is at most dataset.max_quarantined_share."),
        "rows_on_both_sides": (True, "There are rows to train on and rows that are held out."),
    },
)
MERGED_MODEL = _specs(
    "merged_model",
    {
        "merged_as_trained": (True, "Tensors that the adapter targets changed, all others equal the base's cast once."),
        "logits": (True, "The logits of the merged model are those of the adapter on the base, within rounding."),
    },
)
GGUF_MODEL = _specs(
    "gguf_model",
    {"token_parity": (True, "llama.cpp reads every conversation as the ids that the model was trained on.")},
)
EVALUATION_REPORT = _specs("evaluation_report", declare_checks())


@dg.asset_check(
    asset="validated_dataset",
    blocking=True,
    description="llama.cpp takes the base and reads its tokens as training does; disk and memory hold the export.",
)
def can_be_exported(context: dg.AssetCheckExecutionContext, pipeline: PipelineResource) -> dg.AssetCheckResult:
    """What would fail after hours of training is found out before."""
    return to_check(pipeline.open(context).export_check)
