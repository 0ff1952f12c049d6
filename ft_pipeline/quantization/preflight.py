"""What would end an export after hours of training, found out before it: the base is put through it without weights.

Training copies tokenizer and chat template of the base unchanged, so what llama.cpp makes of them now is what it will
make of them then.
"""

from __future__ import annotations

import json
import time
from collections.abc import Set as AbstractSet
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from ft_pipeline.disk_space import require_space
from ft_pipeline.errors import BaseModelError, MemoryBudgetError
from ft_pipeline.finetuning.architecture import Architecture, read_architecture
from ft_pipeline.processes.reporter import Reporter
from ft_pipeline.quantization.convert import Conversion, check_converter, default_converter
from ft_pipeline.quantization.disk_need import count_export_bytes, count_memory_bytes, count_missing_bytes
from ft_pipeline.quantization.files import NAME_PATTERN, unquantized_type
from ft_pipeline.quantization.host_memory import available_memory_bytes
from ft_pipeline.quantization.parity import ParityReport, compare_tokens, require_parity
from ft_pipeline.quantization.plan import Plan, make_plan
from ft_pipeline.quantization.references import build_references
from ft_pipeline.quantization.runtime_files import describe_for_ollama, warn_of_context
from ft_pipeline.quantization.skeleton import require_loadable, write_skeleton
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline.quantization.types import applies_tensor_types, uses_importance
from ft_pipeline.recipe import QuantizationSection
from ft_pipeline.summary import Check, Scalar, Summary

_GIB = 2**30


class ExportCheckRequest(BaseModel):
    """What will be exported, and how.

    Attributes:
        base: Folder of the 16-bit base with its tokenizer and chat template.
        name: The GGUF's general.name; llama.cpp reads some families' tokens by it.
        settings: The recipe's.
        dtype: Type of the merged weights.
        out_dir: Folder for files that are removed again.
        converter: llama.cpp's converter; None: where `make setup` put it.
        parity_conversations: Conversations (role and content) that must give the trained ids, besides built-in ones.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    base: Path
    name: str = Field(pattern=NAME_PATTERN)
    settings: QuantizationSection
    dtype: str = "float16"
    out_dir: Path
    converter: Path | None = None
    parity_conversations: tuple[tuple[dict[str, str], ...], ...] = ()


def check_export(request: ExportCheckRequest, reporter: Reporter) -> Summary:
    """Put a base through converter, library, token parity, Ollama's template and the quantizer's plan, without weights.

    What it finds depends on the base and the recipe alone; `require_room` asks for what depends on the moment.

    Raises:
        EnvironmentMismatch: llama.cpp's converter is missing or of another version than the library.
        BaseModelError: the base's config.json is damaged or of a family that cannot be trained.
        ConversionError: llama.cpp does not take the base, reads its tokens otherwise than training does, or Ollama's
            TEMPLATE cannot give its prompts.
    """
    started = time.monotonic()
    architecture = _read_architecture(request.base)
    warn_of_context(request.settings, architecture.context_tokens, reporter)
    vocabulary, skeleton = request.out_dir / "vocabulary.gguf", request.out_dir / "skeleton.gguf"
    try:
        report = _check_tokens(request, vocabulary, reporter)
        dtype = unquantized_type(request.dtype)
        write_skeleton(vocabulary, skeleton, architecture, dtype.lower())
        require_loadable(skeleton)
        plans = _plan_files(request.settings, skeleton)
        unquantized = skeleton.stat().st_size
    finally:
        vocabulary.unlink(missing_ok=True)
        skeleton.unlink(missing_ok=True)
    _tell(report, plans, request.settings, reporter)
    sizes = [plan.size_bytes for plan in plans]
    disk = count_export_bytes(unquantized, sizes, split_gib=request.settings.split_gib)
    return _summarize(architecture, report, plans, unquantized, disk, time.monotonic() - started)


def require_room(folder: Path, checked: Summary, *, there: AbstractSet[str] = frozenset()) -> None:
    """See that disk and memory suffice now for what `check_export` has counted.

    Args:
        folder: Where artifacts are written.
        checked: Of `check_export`.
        there: Names of the artifacts of an export that are made already.

    Raises:
        DiskSpaceError: the disk does not hold what is still to be made of merged model, 16-bit GGUFs and all types.
        MemoryBudgetError: the machine, or the limit of its control group, has too little memory left.
    """
    needed_disk = {str(row["artifact"]): int(row["needed_bytes"] or 0) for row in checked.tables["disk"]}
    require_space(folder, count_missing_bytes(needed_disk, there), "merging, converting and quantizing")
    available = available_memory_bytes()
    for row in checked.tables["memory"]:
        needed = int(row["needed_bytes"] or 0)
        if needed > available:
            raise MemoryBudgetError(
                f"the step {row['step']!r} of the export takes {needed / _GIB:.2f} GiB of memory, "
                f"{available / _GIB:.2f} GiB are available: {(needed - available) / _GIB:.2f} GiB short. End other "
                "programs, raise the container's limit, or take a base with a smaller vocabulary."
            )


def _read_architecture(base: Path) -> Architecture:
    path = base / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as err:
        raise BaseModelError(f"a base must have a config.json that is JSON; {path}: {err}. Fetch it again.") from err
    if not isinstance(config, dict):
        raise BaseModelError(
            f"a base's config.json must hold an object; {path}: a {type(config).__name__}. Fetch it again."
        )
    return read_architecture(config)


def _check_tokens(request: ExportCheckRequest, vocabulary: Path, reporter: Reporter) -> ParityReport:
    tree = request.converter or default_converter()
    check_converter(tree)
    reporter.info(f"converting the vocabulary of {request.base.name} by llama.cpp, to see whether it takes the base")
    with Conversion(request.base, vocabulary, request.name, tree, vocab_only=True) as conversion:
        # Meanwhile, on another core: what training makes of the conversations.
        trained = TrainedTokenizer(request.base)
        references = build_references(trained, request.parity_conversations)
        conversion.wait()
    report = compare_tokens(vocabulary, trained, references)
    require_parity(report)
    if request.settings.ollama:
        describe_for_ollama(
            trained, request.settings, [vocabulary.name], request.parity_conversations, adds_bos=report.adds_bos
        )
    return report


def _plan_files(settings: QuantizationSection, skeleton: Path) -> list[Plan]:
    """What each type's file will be, if all of it can be made."""
    plans = []
    for name in settings.types:
        is_measured = uses_importance(name, settings.tensor_types, settings.imatrix)
        plan = make_plan(skeleton, name, {"any": 1.0} if is_measured else None, settings.tensor_types)
        # Training measures the inputs of each linear layer.
        plan.require_entries([t.name for t in plan.tensors if t.is_matrix and not t.is_embedding and is_measured])
        if settings.split_gib is not None:
            plan.require_parts(int(settings.split_gib * _GIB))
        plans.append(plan)
    return plans


def _tell(report: ParityReport, plans: list[Plan], settings: QuantizationSection, reporter: Reporter) -> None:
    for words in report.describe_known():
        reporter.warning(words)
    for plan in plans:
        if plan.fallbacks:
            used = ", ".join(sorted({fallback.used.lower() for fallback in plan.fallbacks}))
            reporter.warning(
                f"{plan.type_name}: {len(plan.fallbacks)} tensors of this base have rows that are no multiple of their "
                f"type's block and take {used} instead"
            )
    alike = [plan.type_name for plan in plans if not applies_tensor_types(plan.type_name)]
    if settings.tensor_types and alike:
        reporter.warning(
            f"quantization.tensor_types change nothing in {', '.join(alike)}: llama.cpp gives single tensors another "
            "type only in a file that is quantized"
        )
    # The names are the same in all types.
    if hidden := next((plan.hidden for plan in plans if plan.hidden), ()):
        reporter.warning(
            f"{', '.join(map(repr, hidden))} in quantization.tensor_types changes nothing: wherever it is found an "
            "earlier pattern is too, and the first counts. Put it first, or leave it out"
        )


def _summarize(
    architecture: Architecture,
    report: ParityReport,
    plans: list[Plan],
    unquantized_bytes: int,
    disk: dict[str, int],
    wall_seconds: float,
) -> Summary:
    memory = count_memory_bytes(architecture)
    return Summary(
        figures={
            "wall_seconds": wall_seconds,
            "parity_renderings": report.renderings,
            "parity_tokens": report.tokens,
            "bos_tokens": report.bos_tokens,
            "known_differences": sum(known.renderings for known in report.known),
            "unquantized_bytes": unquantized_bytes,
            "needed_disk_bytes": sum(disk.values()),
            "needed_memory_bytes": max(memory.values()),
        },
        tables={
            "sizes": _list_sizes(plans, architecture.total_parameters),
            "disk": [{"artifact": name, "needed_bytes": needed} for name, needed in disk.items()],
            "memory": [{"step": step, "needed_bytes": needed} for step, needed in memory.items()],
            "known_differences": [
                {"reason": known.reason, "renderings": known.renderings, "example": str(known.example)}
                for known in report.known
            ],
        },
        checks=_list_checks(architecture, report),
    )


def _list_sizes(plans: list[Plan], parameters: int) -> list[dict[str, Scalar]]:
    return [
        {
            "type": plan.type_name,
            "predicted_bytes": plan.size_bytes,
            "bits_per_weight": round(8 * plan.size_bytes / parameters, 2),
            "fallback_tensors": len(plan.fallbacks),
        }
        for plan in plans
    ]


def _list_checks(architecture: Architecture, report: ParityReport) -> list[Check]:
    taken = f"llama.cpp takes the base's {architecture.family} architecture, tokenizer and tensors"
    return [
        Check(name="can_be_converted", passed=True, blocking=True, detail=taken),
        Check(
            name="token_parity",
            passed=True,
            blocking=True,
            value=report.different,
            limit=0,
            detail=f"{report.renderings} renderings",
        ),
    ]
