"""The part of the recipe for the evaluation and its gate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from ft_pipeline.evaluation.final_answer import check_answer_pattern
from ft_pipeline.evaluation.rules import OnFailure, Rule, parse_rule
from ft_pipeline.recipe_section import Section, Share


class RuleSection(Section):
    """A rule of the gate with what its breach leads to."""

    rule: str = Field(description="MEASURE[@SET] >, >=, < or <= and a number or a rival.")
    on_failure: OnFailure | None = Field(
        None,
        description="fail: the run fails; keep: the champion stays, the run goes on; warn: it is only told. None: keep "
        "where it compares with the champion, else fail.",
    )

    @field_validator("rule")
    @classmethod
    def _readable(cls, rule: str) -> str:
        return parse_rule(rule).text

    @property
    def parsed(self) -> Rule:
        """As the gate reads it."""
        return parse_rule(self.rule, self.on_failure)


def _name_rule(rule: object) -> object:
    return {"rule": rule} if isinstance(rule, str) else rule


class GateSection(Section):
    """What a challenger must reach, in its first quantization type."""

    rules: tuple[Annotated[RuleSection, BeforeValidator(_name_rule)], ...] = Field(
        (RuleSection(rule="exact_match > champion"), RuleSection(rule="stop_rate >= 0.99")),
        description="Sentences, or RuleSections: MEASURE[@SET] >, >=, < or <= and a number, or a rival: champion (the "
        "base, before there is one), best (the best champion ever), base, merged (16-bit). Against a rival > and < ask "
        "for the paired 95 % interval and p < 0.05, >= and <= for the difference itself: general >= base - 0.1.",
    )
    tie: Literal["champion", "newer"] = Field(
        "champion",
        description="Who stays when the paired interval of the difference to the champion includes zero. newer: the "
        "challenger, if it keeps to max_loss_from_best.",
    )
    max_loss_from_best: Share = Field(
        0.02,
        description="With tie: newer, how far below the best champion ever a challenger may be, so that many ties in a "
        "row cannot add up.",
    )

    @property
    def parsed(self) -> tuple[Rule, ...]:
        """The rules as the gate reads them; with tie: newer, after each that decides the bound to the best champion."""
        rules = []
        for rule in (section.parsed for section in self.rules):
            rules.append(rule)
            if rule.decides and self.tie == "newer":
                rules.append(rule.bound_to_best(self.max_loss_from_best))
        return tuple(rules)


class SamplingSection(Section):
    """How answers are chosen. Temperature 0: the most likely token each time."""

    temperature: float = Field(0.0, ge=0, le=5, description="0: greedy; else 0.01 at least.")
    top_k: int = Field(0, ge=0, description="Only among the k most likely; 0: all.")
    top_p: float = Field(1.0, gt=0, le=1, description="Only among the most likely that make up this share.")
    min_p: float = Field(0.0, ge=0, le=1, description="Only those at least so likely, measured by the likeliest.")
    seed: int = Field(3407, ge=0, lt=2**32, description="Of the draws; each row has its own.")

    @field_validator("temperature")
    @classmethod
    def _not_tiny(cls, temperature: float) -> float:
        if 0 < temperature < 0.01:
            raise ValueError("it must be 0 or 0.01 at least")
        return temperature


class HarnessSection(Section):
    """Tasks of lm-evaluation-harness, put to the base and to the gated GGUF. Needs the extra `harness`."""

    tasks: tuple[str, ...] = Field((), description="Names of tasks, such as arc_easy.")
    limit: int | None = Field(None, ge=1, description="Only the first rows of each task.")
    task_folder: str | None = Field(None, description="A folder of YAML tasks of your own, relative to the project.")
    chat: bool = Field(False, description="Put the questions in the model's chat template.")


class EvaluationSection(Section):
    """How the GGUF files are scored."""

    max_new_tokens: int = Field(256, ge=1, description="An answer is cut after this many tokens.")
    max_rows_per_set: int = Field(1000, ge=1, description="The first rows by their split hash are taken.")
    sample_rows: int = Field(12, ge=0, le=200, description="Rows shown side by side in the report.")
    sampling: SamplingSection = SamplingSection()
    answer_pattern: str | None = Field(
        None,
        description="Regular expression of the final answer, for answer_match: its one group, or all of it; the last "
        "that is found counts. None: GSM8K's number after the first ####.",
    )
    metric_files: tuple[str, ...] = Field(
        (), description="Python files, relative to the project, with a function score(prediction, reference, messages)."
    )
    compare_with_16bit: bool = Field(
        True, description="Score the merged 16-bit model too, and compare the quantized ones with it token by token."
    )
    divergence_rows: int = Field(200, ge=1, description="Held-out rows that are compared token by token.")
    general_set: bool = Field(True, description="Also ask what every chat model should know: what did it forget?")
    harness: HarnessSection = HarnessSection()
    gate: GateSection = GateSection()

    @field_validator("answer_pattern")
    @classmethod
    def _one_group(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            check_answer_pattern(pattern)
        return pattern
