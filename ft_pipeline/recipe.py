"""The recipe: all that decides a result, one frozen model per stage.

A recipe says *what* (data, base, goal, types, gate). *How* it runs on this card (micro-batch, waiting time, device) is
planned, or belongs to the Dagster resources. Units are in the names. `recipe_file.py` loads it from YAML.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, field_validator, model_validator

from ft_pipeline.datasets.checks import Action, find_faults
from ft_pipeline.datasets.checks.languages import find_language_fault
from ft_pipeline.datasets.formats import FORMATS, find_column_faults
from ft_pipeline.evaluation.metrics import METRICS
from ft_pipeline.evaluation.rules import GENERAL, HELD_OUT, Answerable
from ft_pipeline.evaluation.rules import find_faults as find_rule_faults
from ft_pipeline.evaluation.user_metric import user_metric_name
from ft_pipeline.quantization.types import needs_importance
from ft_pipeline.recipe_after_training import (
    MergingSection,
    PublishingSection,
    QuantizationSection,
    RetentionSection,
)
from ft_pipeline.recipe_evaluation import EvaluationSection, GateSection
from ft_pipeline.recipe_retraining import RetrainingSection
from ft_pipeline.recipe_section import Name, Section, Share

__all__ = [
    "BaseModelSection",
    "DatasetSection",
    "EarlyStoppingSection",
    "EvaluationSection",
    "ExecutionSection",
    "GateSection",
    "LoraSection",
    "MergingSection",
    "NearDuplicatesSection",
    "PublishingSection",
    "QuantizationSection",
    "Recipe",
    "RetentionSection",
    "RetrainingSection",
    "SourceSection",
    "TrainingSection",
]
_TAKEN_SET_NAMES = {"best", "merged", "train", "held_out", "base", "champion", "challenger", "general"}
if TYPE_CHECKING:
    FormatName = str
else:
    # No list of its own, which would lack the next format.
    FormatName = Literal["auto", *FORMATS]


def _check_columns(columns: dict[str, str]) -> dict[str, str]:
    if faults := find_column_faults(columns):
        raise ValueError(" ".join(faults))
    return columns


class BaseModelSection(Section):
    """The 16-bit base that is fine-tuned."""

    source: str = Field(min_length=1, description="A folder relative to the project, or a Hub name such as org/model.")
    revision: str | None = Field(
        None, pattern=r"^[0-9a-f]{40}$", description="Commit of the Hub repository; required for a Hub name."
    )


class SourceSection(Section):
    """Files of one kind, or a data set of the Hub."""

    path: str = Field(
        min_length=1,
        description="A file, folder or glob relative to the project, a URL (s3://, gs://, https://, hf://), "
        "or a data set of the Hub as owner/name.",
    )
    format: FormatName | None = Field(None, description="Instead of dataset.format.")
    columns: dict[str, str] | None = Field(None, description="Instead of dataset.columns.")
    revision: str | None = Field(
        None, pattern=r"^[0-9a-f]{40}$", description="Commit of the Hub's repository; required for one."
    )
    subset: str | None = Field(None, description="Configuration of a data set of the Hub.")
    split: str = Field("train", description="Split of a data set of the Hub.")

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str] | None) -> dict[str, str] | None:
        return None if columns is None else _check_columns(columns)


class NearDuplicatesSection(Section):
    """Rows that say nearly the same: MinHash over words, then the exact Jaccard index. Source: Broder 1997."""

    enabled: bool = Field(True, description="Look for them.")
    threshold: float = Field(
        0.8,
        ge=0.7,
        le=1,
        description="Jaccard index of the rows' shingles from which they are. 99.7 % of pairs just at 0.8 are "
        "found, 96 % of those at 0.7.",
    )
    shingle_words: int = Field(5, ge=1, le=16, description="Words in a shingle.")


class DatasetSection(Section):
    """Where rows come from and what they must satisfy."""

    sources: tuple[str | SourceSection, ...] = Field(
        min_length=1, description="Files, folders, globs, URLs or data sets of the Hub: see SourceSection."
    )
    test_sets: dict[Name, tuple[str | SourceSection, ...]] = Field(
        default_factory=dict, description="Named sets that are never trained on and are scored apart."
    )
    allowed_roots: tuple[str, ...] = Field(
        ("data",), min_length=1, description="Folders and URL prefixes that sources must lie in, links resolved."
    )
    format: FormatName = Field("auto", description="How rows are written; auto: by their columns.")
    columns: dict[str, str] = Field(
        default_factory=dict,
        description="The data's name of a column by the format's: {prompt: question, completion: answer}. "
        "`group` names one whose rows stay on one side of the split, `tags` one that the evaluation is broken down by.",
    )
    held_out_share: float = Field(0.1, gt=0, lt=1, description="Share of prompts kept for evaluation.")
    split_salt: str = Field("ft_pipeline", description="Changes which prompts are held out.")
    max_quarantined_share: Share = Field(0.05, description="Above it, the run stops.")
    max_row_tokens: int = Field(
        2048, ge=8, description="Longer rows are too_many_tokens; its fix cuts their end, end-of-turn token included."
    )
    max_message_chars: int = Field(200_000, ge=1, description="Longer messages are message_too_long.")
    language: str | None = Field(
        None, description="ISO 639 code, as fastText's lid.176 has it; a turn in another breaks the contract."
    )
    loss_on: Literal["last_answer", "all_answers"] = Field(
        "last_answer", description="Which of the assistant's turns are learned."
    )
    near_duplicates: NearDuplicatesSection = NearDuplicatesSection()
    checks: dict[str, Action] = Field(
        default_factory=dict, description="What a breach leads to, by reason code, where it is not the default."
    )

    @field_validator("columns")
    @classmethod
    def _known_columns(cls, columns: dict[str, str]) -> dict[str, str]:
        return _check_columns(columns)

    @field_validator("checks")
    @classmethod
    def _known_checks(cls, checks: dict[str, Action]) -> dict[str, Action]:
        if faults := find_faults(checks):
            raise ValueError(" ".join(faults))
        return checks

    @field_validator("language")
    @classmethod
    def _known_language(cls, language: str | None) -> str | None:
        if language is not None and (fault := find_language_fault(language)):
            raise ValueError(fault)
        return language

    @field_validator("test_sets")
    @classmethod
    def _free_names(cls, test_sets: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        if taken := sorted(set(test_sets) & _TAKEN_SET_NAMES):
            raise ValueError(f"a test set cannot be called {', '.join(taken)}: the pipeline's own sets are")
        return test_sets


class LoraSection(Section):
    """The adapter. Source: Hu et al. 2021, arXiv:2106.09685."""

    rank: int = Field(16, ge=1, le=1024, description="Rank of the update matrices.")
    alpha: int = Field(16, ge=1, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        min_length=1,
        description="Names of the linear layers that get an update; all-linear: all but the output layer.",
    )
    modules_to_save: tuple[str, ...] = Field((), description="Modules that are trained whole, such as lm_head.")
    use_rslora: bool = Field(
        False, description="Scale the update by alpha / sqrt(rank). Source: Kalajdzievski 2023, arXiv:2312.03732."
    )
    use_dora: bool = Field(
        False, description="Train magnitude and direction apart. Source: Liu et al. 2024, arXiv:2402.09353."
    )
    loraplus_lr_ratio: float | None = Field(
        None,
        ge=1,
        description="Learning rate of the B matrices over that of the A matrices (LoRA+). Source: Hayou et al. 2024, "
        "arXiv:2402.12354.",
    )


class EarlyStoppingSection(Section):
    """Stop when the loss on held-out rows no longer falls, and keep the best adapter."""

    evaluate_every_share: float = Field(0.1, gt=0, le=1, description="Share of the training between two evaluations.")
    patience: int = Field(3, ge=1, description="Evaluations without improvement after which it stops.")
    min_improvement: float = Field(0.0, ge=0, description="A fall of the loss (nats per token) below it is none.")
    max_rows: int = Field(512, ge=1, description="Held-out rows that are evaluated; the first by their split hash.")


class ExecutionSection(Section):
    """How the goal is reached on this card. Changes no result beyond rounding, so no fingerprint either."""

    packing: Literal["auto", "always", "never"] = Field(
        "auto", description="Rows laid end to end without padding, each attending to itself only."
    )
    gradient_checkpointing: Literal["auto", "always", "never"] = Field(
        "auto", description="Compute layers twice instead of keeping what they computed."
    )
    micro_batch_tokens: int | None = Field(
        None, ge=1, description="Tokens that go through the model at once, instead of the planned number."
    )
    checkpoint_minutes: float = Field(5.0, ge=0, description="Time between two checkpoints; 0: after every step.")
    max_loss_jump: float = Field(
        4.0, gt=0, description="A step's loss this far (nats per token) above the median of the last ones ends the run."
    )
    trackers: tuple[Literal["wandb", "mlflow"], ...] = Field(
        (), description="Where figures go beside TensorBoard's files; the package must be installed, and you logged in."
    )


class TrainingSection(Section):
    """The training goal. Source of QLoRA: Dettmers et al. 2023, arXiv:2305.14314."""

    backend: Literal["unsloth", "trl"] = Field("unsloth", description="unsloth: faster. trl: plain TRL and PEFT.")
    load_in_4bit: bool = Field(True, description="QLoRA: the frozen base in NF4. False: LoRA on the 16-bit base.")
    lora: LoraSection = LoraSection()
    epochs: float = Field(1.0, gt=0, le=100, description="Passes over the training rows.")
    effective_batch_tokens: int = Field(4096, ge=1, description="Tokens behind one optimizer step, padding left out.")
    learning_rate: float = Field(2e-4, gt=0, lt=1, description="Highest learning rate.")
    lr_scheduler: Literal["linear", "cosine", "constant"] = Field("linear", description="How it falls.")
    warmup_share: Share = Field(0.03, description="Share of the steps over which the learning rate rises.")
    weight_decay: float = Field(0.0, ge=0, lt=1, description="Weight decay of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0, description="Gradients are clipped to this norm.")
    neftune_noise_alpha: float | None = Field(
        None,
        gt=0,
        description="NEFTune: noise on the input embeddings, up to alpha / sqrt(row's tokens * width). "
        "Source: Jain et al. 2023, arXiv:2310.05914.",
    )
    optimizer: Literal["auto", "adamw_torch", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "auto", description="AdamW, moments in 32 or 8 bits; auto: 8 bits on a GPU, 32 on the CPU."
    )
    early_stopping: EarlyStoppingSection | None = Field(None, description="None: the whole training is done.")
    seed: int = Field(3407, ge=0, lt=2**32, description="Of the adapter's start and the order of the rows.")
    importance_tokens: int = Field(
        32_768,
        ge=0,
        description="Training tokens that the trained model reads once more for the importance matrix of quantizing; "
        "0: none.",
    )
    execution: ExecutionSection = ExecutionSection()


class Recipe(Section):
    """The whole declaration of a fine-tune."""

    name: Name = Field(description="Names the GGUF files and the champion.")
    description: str = Field("", description="For people.")
    base_model: BaseModelSection
    dataset: DatasetSection
    training: TrainingSection = TrainingSection()
    merging: MergingSection = MergingSection()
    quantization: QuantizationSection = QuantizationSection()
    evaluation: EvaluationSection = EvaluationSection()
    publishing: PublishingSection = PublishingSection()
    retention: RetentionSection = RetentionSection()
    retraining: RetrainingSection = RetrainingSection()

    @model_validator(mode="after")
    def _types_have_their_matrix(self) -> Recipe:
        tensor_types = self.quantization.tensor_types
        needy = [name for name in self.quantization.types if needs_importance([name], tensor_types)]
        if not needy:
            return self
        if self.quantization.imatrix == "never" or not self.training.importance_tokens:
            raise ValueError(
                f"{', '.join(needy)} cannot be made without an importance matrix, and quantization.imatrix is "
                f"{self.quantization.imatrix}, training.importance_tokens {self.training.importance_tokens}. Let the "
                "training compute one, or take another type"
            )
        return self

    @model_validator(mode="after")
    def _gate_is_answerable(self) -> Recipe:
        evaluation = self.evaluation
        own = [user_metric_name(Path(file)) for file in evaluation.metric_files]
        if twice := sorted({name for name in own if own.count(name) > 1}):
            raise ValueError(f"evaluation.metric_files must have names of their own; {', '.join(twice)} stands twice")
        known = Answerable(
            measures={**METRICS, **dict.fromkeys(own)},
            sets=[HELD_OUT, *self.dataset.test_sets, *([GENERAL] if evaluation.general_set else [])],
            has_16bit=evaluation.compare_with_16bit,
        )
        if faults := find_rule_faults(evaluation.gate.parsed, known):
            raise ValueError(" ".join(faults))
        return self
