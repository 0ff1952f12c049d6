"""The graph, from top to bottom. Each asset opens the pipeline of its run and calls the method of its name."""

from collections.abc import Callable
from typing import Any

import dagster as dg

from ft_pipeline.defs import checks
from ft_pipeline.defs.failures import failing_plainly
from ft_pipeline.defs.metadata import publication_to_result, to_result
from ft_pipeline.defs.resources import GpuResource, PipelineResource
from ft_pipeline.lineage import CODE_VERSIONS

GROUP, GPU_POOL = "fine_tuning", "gpu"


def _asset(name: str, kinds: set[str], **options: Any) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    decorator: Callable[[Callable[..., Any]], dg.AssetsDefinition] = dg.asset(
        name=name,
        group_name=GROUP,
        kinds=kinds,
        owners=["team:ft-pipeline"],
        code_version=CODE_VERSIONS[name],
        **options,
    )
    return lambda function: decorator(failing_plainly(function))


@_asset("raw_dataset", {"jsonl", "parquet"})
def raw_dataset(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult:
    """Every line of the recipe's sources as it came, with its file and line number. Pins the data of the run."""
    return to_result(pipeline.open(context).raw_dataset())


@_asset("validated_dataset", {"pandera", "polars"}, deps=[raw_dataset], check_specs=checks.VALIDATED_DATASET)
def validated_dataset(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult:
    """Rows that keep the contract, tokenized and split; the others are in quarantine with a reason."""
    run = pipeline.open(context)
    return to_result(run.validated_dataset(), checks.VALIDATED_DATASET, report=run.data_report())


@_asset("trained_adapter", {"unsloth", "pytorch"}, deps=[validated_dataset], pool=GPU_POOL)
def trained_adapter(
    context: dg.AssetExecutionContext, pipeline: PipelineResource, gpu: GpuResource
) -> dg.MaterializeResult:
    """LoRA adapter on the 4-bit base, trained on the training rows while the device is held."""
    return to_result(pipeline.open(context).trained_adapter(gpu.settings()))


@_asset("merged_model", {"pytorch", "safetensors"}, deps=[trained_adapter], check_specs=checks.MERGED_MODEL)
def merged_model(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult:
    """The adapter merged into the 16-bit base: safetensors, verified tensor by tensor and by its logits."""
    return to_result(pipeline.open(context).merged_model(), checks.MERGED_MODEL)


@_asset("gguf_model", {"llamacpp", "gguf"}, deps=[merged_model, validated_dataset], check_specs=checks.GGUF_MODEL)
def gguf_model(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult:
    """The merged model quantized to the recipe's GGUF types, its tokens and template checked in llama.cpp."""
    return to_result(pipeline.open(context).gguf_model(), checks.GGUF_MODEL)


@_asset(
    "evaluation_report",
    {"llamacpp", "html"},
    deps=[gguf_model, validated_dataset],
    check_specs=checks.EVALUATION_REPORT,
)
def evaluation_report(
    context: dg.AssetExecutionContext, pipeline: PipelineResource, gpu: GpuResource
) -> dg.MaterializeResult:
    """Base, champion and challenger scored as the GGUF files that ship, on rows that none was trained on."""
    return to_result(pipeline.open(context).evaluation_report(gpu.settings()), checks.EVALUATION_REPORT)


@_asset("published_model", {"gguf"}, deps=[evaluation_report])
def published_model(context: dg.AssetExecutionContext, pipeline: PipelineResource) -> dg.MaterializeResult:
    """The champion: moved to the challenger if its report lets it through, kept otherwise."""
    return publication_to_result(pipeline.open(context).published_model())
