"""Plans as tables: one recipe on each card, or every card by every size of model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ft_pipeline.base_model import read_config
from ft_pipeline.errors import BaseModelError, MemoryBudgetError
from ft_pipeline.finetuning.architecture import Architecture, read_architecture
from ft_pipeline.finetuning.cards import CARDS, DESKTOP_NOTE, NOT_SUPPORTED, Card
from ft_pipeline.finetuning.layouts import Goal
from ft_pipeline.finetuning.memory import Layout, MemoryPrediction, predict_memory
from ft_pipeline.finetuning.planner import Shortage, TrainingPlan, find_plan
from ft_pipeline.finetuning.row_lengths import RowLengths
from ft_pipeline.finetuning.shapes import SHAPES, find_shape
from ft_pipeline.recipe import BaseModelSection, Recipe, TrainingSection

TableFormat = Literal["plain", "markdown"]
Row = Sequence[str]

_GIB = 2**30
_GRID = {
    "7B": "qwen2.5-7b",
    "8B": "llama-3.1-8b",
    "13B": "llama-2-13b",
    "34B": "yi-34b",
    "70B": "llama-3.1-70b",
}
# The guide's settings: 2 rows of 2,048 tokens by 4, rank 16, every layer computed twice.
GUIDE_ROW_TOKENS = 2048
GUIDE_TRAINING = TrainingSection(effective_batch_tokens=2 * 4 * GUIDE_ROW_TOKENS)


@dataclass(frozen=True)
class Outcome:
    """What planning for a card came to."""

    card: Card
    found: TrainingPlan | Shortage

    @property
    def plan(self) -> TrainingPlan | None:
        """The plan, if there is one."""
        return self.found if isinstance(self.found, TrainingPlan) else None

    @property
    def fit(self) -> str:
        """Predicted GiB of those that there are, or how many are missing."""
        usable = f"{self.card.usable_bytes / _GIB:.1f}{'' if self.card.is_runnable else ' each'}"
        if isinstance(self.found, Shortage):
            return f"no: {self.found.missing_bytes / _GIB:.1f} short of {usable}"
        return f"{self.found.memory.total_bytes / _GIB:.1f} of {usable}"


def plan_on(card: Card, architecture: Architecture, training: TrainingSection, lengths: RowLengths) -> Outcome:
    """Plan for one card."""
    return Outcome(card, find_plan(Goal(architecture, training, lengths, "gpu", card), card.usable_bytes))


def find_config(base: BaseModelSection, root: Path) -> Mapping[str, Any]:
    """The config of a recipe's base: from its folder, else from the shapes that are known by name.

    Raises:
        BaseModelError: it is in neither.
    """
    if (root / base.source).is_dir():
        return read_config(root / base.source)
    if shape := find_shape(base.source):
        return shape
    raise BaseModelError(
        f"base_model.source must be a folder with a config.json or a base whose shape is known, got '{base.source}'. "
        f"Known: {', '.join(SHAPES)}. Fetch the base into a folder and name that."
    )


def render_recipe(recipe: Recipe, root: Path, card: Card | None, table_format: TableFormat) -> str:
    """The plan of a recipe on one card, or on each.

    Raises:
        BaseModelError: nothing is known of the base.
        MemoryBudgetError: it does not fit the one card.
    """
    architecture = read_architecture(find_config(recipe.base_model, root))
    lengths = RowLengths.assumed(recipe.dataset.max_row_tokens)
    cards = [card] if card else CARDS.values()
    outcomes = [plan_on(each, architecture, recipe.training, lengths) for each in cards]
    if card and isinstance(outcomes[0].found, Shortage):
        raise MemoryBudgetError(outcomes[0].found.describe())
    epochs = recipe.training.epochs
    layouts = [_layout_row(outcome, epochs) for outcome in outcomes]
    return "\n".join(
        [
            f"{recipe.name}: {recipe.base_model.source}, {_count(architecture)} parameters, rank "
            f"{recipe.training.lora.rank}, {recipe.training.effective_batch_tokens} tokens a step",
            f"All rows taken for as long as dataset.max_row_tokens, {recipe.dataset.max_row_tokens}; shorter ones take "
            "less time and memory. Everything here is predicted.",
            "",
            _render([*_LAYOUT_HEAD, f"h for {epochs:g} x 10k rows"], layouts, table_format),
            "",
            "GiB by part:",
            _render(_part_head(), [_part_row(outcome) for outcome in outcomes if outcome.plan], table_format),
            *_list_remarks(outcomes),
        ]
    )


def render_grid(table_format: TableFormat) -> str:
    """Every card by every size of model, at the guide's settings."""
    bases = {size: read_architecture(SHAPES[name]) for size, name in _GRID.items()}
    lengths = RowLengths.assumed(GUIDE_ROW_TOKENS)
    names = [f"{size} ({_GRID[size]})" for size in bases]
    planned, speeds = [], []
    for card in CARDS.values():
        outcomes = [plan_on(card, base, GUIDE_TRAINING, lengths) for base in bases.values()]
        planned.append([card.label, *(_grid_cell(outcome) for outcome in outcomes)])
        speeds.append([card.label, *(_speed_cell(outcome) for outcome in outcomes)])
    fixed = [[name, *_parts(_at_guide_settings(base))] for name, base in zip(names, bases.values(), strict=True)]
    return "\n".join(
        [
            "GiB by part at the guide's settings (2 rows of 2,048 tokens, rank 16, all layers computed twice):",
            "",
            _render(["model", *_part_head()[1:]], fixed, table_format),
            "",
            "The plan of each card (GiB of those that there are, micro-batches x rows, layers computed twice):",
            "",
            _render(["card", *names], planned, table_format),
            "",
            "Its speed (tokens/s, hours for 10,000 rows of 2,048 tokens):",
            "",
            _render(["card", *names], speeds, table_format),
        ]
    )


def _at_guide_settings(base: Architecture) -> MemoryPrediction:
    layout = Layout(2, GUIDE_ROW_TOKENS, False, base.layers, False, "adamw_8bit")
    return predict_memory(base, GUIDE_TRAINING, layout, "gpu")


_LAYOUT_HEAD = ("card", "GiB", "micro-batch", "x", "twice", "optimizer", "tokens/s")


def _layout_row(outcome: Outcome, epochs: float) -> Row:
    plan = outcome.plan
    if plan is None or plan.time is None:
        return [outcome.card.label, outcome.fit, *["-"] * (len(_LAYOUT_HEAD) - 1)]
    layout = plan.layout
    offloaded = ", embeddings on host" if layout.offload_embeddings else ""
    return [
        outcome.card.label,
        outcome.fit,
        f"{layout.micro_batch_rows} x {layout.row_tokens} {'packed' if layout.packing else 'padded'}{offloaded}",
        str(plan.accumulation_steps),
        f"{layout.checkpointed_layers} of {plan.layers}",
        layout.optimizer,
        f"{plan.time.tokens_per_second:,.0f}",
        f"{plan.time.hours_per_10k_examples * epochs:.1f}",
    ]


def _grid_cell(outcome: Outcome) -> str:
    plan = outcome.plan
    if plan is None:
        return outcome.fit
    layout = plan.layout
    host = ", embeddings on host" if layout.offload_embeddings else ""
    return (
        f"{outcome.fit}; {plan.accumulation_steps} x {layout.micro_batch_rows}, "
        f"{layout.checkpointed_layers} of {plan.layers}{host}"
    )


def _speed_cell(outcome: Outcome) -> str:
    if outcome.plan is None or outcome.plan.time is None:
        return "-"
    time = outcome.plan.time
    return f"{time.tokens_per_second:,.0f}, {time.hours_per_10k_examples:.1f} h"


def _part_head() -> Row:
    return ["card", *(name.replace("_", " ") for name in _EMPTY.by_part_gib()), "reserved", "total"]


def _part_row(outcome: Outcome) -> Row:
    return [outcome.card.label, *(_parts(outcome.plan.memory) if outcome.plan else [])]


def _parts(memory: MemoryPrediction) -> list[str]:
    sums = (memory.reserved_bytes / _GIB, memory.total_bytes / _GIB)
    return [f"{gib:.2f}" for gib in (*memory.by_part_gib().values(), *sums)]


_EMPTY = MemoryPrediction(*[0] * 10)


def _count(architecture: Architecture) -> str:
    millions = architecture.total_parameters / 1e6
    return f"{millions / 1000:.2f}B" if millions >= 1000 else f"{millions:.1f}M"


def _list_remarks(outcomes: Iterable[Outcome]) -> list[str]:
    remarks: list[str] = []
    for outcome in outcomes:
        if isinstance(outcome.found, Shortage):
            remarks.append(f"{outcome.card.label}: what would fit: {'; '.join(outcome.found.remedies) or 'nothing'}.")
        else:
            remarks += [f"{outcome.card.label}: {note}." for note in outcome.found.notes]
    remarks += [f"On a card of your own desk {DESKTOP_NOTE}.", "Not supported:"]
    return ["", *remarks, *(f"  {item}" for item in NOT_SUPPORTED)]


def _render(head: Row, rows: Sequence[Row], table_format: TableFormat) -> str:
    if table_format == "markdown":
        lines = [head, ["---"] * len(head), *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)
    widths = [max(len(line[column]) for line in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *rows)
    )
