from __future__ import annotations

import random
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.errors import MemoryBudgetError, TrainingError
from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.finetuning.cards import CARDS
from ft_pipeline.finetuning.layouts import Goal, list_layouts
from ft_pipeline.finetuning.memory import predict_memory
from ft_pipeline.finetuning.planner import RowLengths, Shortage, TrainingPlan, find_plan, plan_training
from ft_pipeline.finetuning.schedule import Slicing, make_steps, slice_step
from ft_pipeline.finetuning.shapes import SHAPES
from ft_pipeline.finetuning.throughput import predict_time
from ft_pipeline.recipe import ExecutionSection, LoraSection, TrainingSection

_GIB = 2**30
_BASES = {name: read_architecture(shape) for name, shape in SHAPES.items()}
_8B, _13B = _BASES["llama-3.1-8b"], _BASES["llama-2-13b"]
_GUIDE = TrainingSection(effective_batch_tokens=16_384)
_FULL = RowLengths.assumed(2048)


def _plan(gib: float, training: TrainingSection = _GUIDE, lengths: RowLengths = _FULL) -> TrainingPlan:
    return plan_training(_8B, training, lengths, int(gib * _GIB), "gpu", CARDS["rtx4090"])


def _with(**execution: object) -> TrainingSection:
    return TrainingSection(effective_batch_tokens=16_384, execution=ExecutionSection.model_validate(execution))


@given(
    st.lists(st.integers(8, 4096), min_size=1, max_size=60),
    st.integers(1, 40_000),
    st.floats(6.5, 140),
    st.sampled_from(["auto", "never"]),
)
def test_a_plan_fits_and_its_micro_batch_is_at_most_a_step_and_a_row(
    lengths: list[int], effective: int, gib: float, packing: str
) -> None:
    training = TrainingSection.model_validate({"effective_batch_tokens": effective, "execution": {"packing": packing}})
    try:
        plan = _plan(gib, training, RowLengths.of(lengths))
    except MemoryBudgetError:
        return
    layout = plan.layout
    assert plan.memory.total_bytes <= gib * _GIB
    assert plan.memory == predict_memory(_8B, training, layout, "gpu", accumulates=plan.accumulation_steps > 1)
    assert layout.row_tokens >= max(lengths)
    if layout.packing:
        assert layout.micro_batch_tokens <= effective + max(lengths) + 1


def test_more_memory_never_makes_it_slower() -> None:
    rates = [_plan(gib).time.tokens_per_second for gib in (8, 10, 12, 16, 24, 48, 80, 140)]  # type: ignore[union-attr]
    # Of layouts within 1 % the one that takes least is taken.
    assert all(later >= 0.99 * earlier for earlier, later in pairwise(rates))
    assert rates[-1] > 1.3 * rates[0]


def test_the_fastest_layout_that_fits_is_taken() -> None:
    plan = _plan(12)
    goal = Goal(_8B, _GUIDE, _FULL, "gpu", CARDS["rtx4090"])
    fitting = [layout for layout in list_layouts(goal) if goal.predict_memory(layout).total_bytes <= 0.96 * 12 * _GIB]
    best = max(predict_time(_8B, _GUIDE, layout, _FULL, CARDS["rtx4090"]).tokens_per_second for layout in fitting)
    assert plan.time is not None
    assert plan.time.tokens_per_second >= 0.99 * best


def test_a_card_with_memory_to_spare_computes_no_layer_twice() -> None:
    plan = plan_training(_8B, _GUIDE, _FULL, CARDS["h200"].usable_bytes, "gpu", CARDS["h200"])
    assert plan.layout.checkpointed_layers == 0
    assert plan.layout.packing
    assert plan.accumulation_steps * plan.layout.micro_batch_tokens >= 16_384


def test_8b_trains_inside_10_gib_and_13b_inside_16_and_24() -> None:
    for architecture, row_tokens, name in ((_8B, 2048, "rtx3080"), (_13B, 1024, "rtx4060ti"), (_13B, 2048, "rtx4090")):
        card = CARDS[name]
        plan = plan_training(architecture, _GUIDE, RowLengths.assumed(row_tokens), card.usable_bytes, "gpu", card)
        assert plan.memory.total_bytes <= card.usable_bytes
    capped = plan_training(_8B, _GUIDE, _FULL, 9 * _GIB + plan.memory.context_bytes, "gpu")
    assert capped.memory.reserved_bytes <= 9 * _GIB


def test_real_steps_go_through_in_about_as_many_passes_as_planned() -> None:
    rng = random.Random(0)
    lengths = [max(40, min(450, round(rng.gauss(153, 60)))) for _ in range(3000)]
    for packing in ("auto", "never"):
        plan = _plan(10, _with(packing=packing), RowLengths.of(lengths))
        slicing = Slicing(plan.layout.micro_batch_tokens, plan.layout.packing)
        steps = make_steps(lengths, 16_384, 1.0, 0)
        passes = sum(len(slice_step(rows, lengths, slicing)) for rows in steps) / len(steps)
        assert passes == pytest.approx(plan.accumulation_steps, abs=1)


@pytest.mark.parametrize(("wanted", "layers"), [("always", {32}), ("never", {0}), ("auto", set(range(0, 33, 2)))])
def test_the_recipes_word_on_checkpointing_holds(wanted: str, layers: set[int]) -> None:
    goal = Goal(_8B, _with(gradient_checkpointing=wanted), _FULL, "gpu")
    assert {layout.checkpointed_layers for layout in list_layouts(goal)} == layers


def test_plain_trl_computes_all_layers_twice_or_none() -> None:
    goal = Goal(_8B, TrainingSection(backend="trl"), _FULL, "gpu")
    assert {layout.checkpointed_layers for layout in list_layouts(goal)} == {0, 32}


@pytest.mark.parametrize(("asked", "rows", "row_tokens"), [(8192, 4, 2048), (5000, 2, 2500), (100, 1, 2048)])
def test_the_recipes_micro_batch_holds_though_a_row_is_never_cut(asked: int, rows: int, row_tokens: int) -> None:
    layout = _plan(140, _with(micro_batch_tokens=asked)).layout
    assert (layout.micro_batch_rows, layout.row_tokens) == (rows, row_tokens)


def test_the_recipes_word_on_packing_holds() -> None:
    assert not _plan(24, _with(packing="never")).layout.packing
    on_cpu = plan_training(_BASES["llama-3.2-1b"], _with(packing="always"), _FULL, 64 * _GIB, "cpu")
    assert on_cpu.layout.packing


def test_the_optimizer_is_paged_only_where_nothing_else_fits() -> None:
    lora = LoraSection(rank=256)
    training = TrainingSection(lora=lora, effective_batch_tokens=2048)
    goal = Goal(_8B, training, _FULL, "gpu")
    needs = {layout: goal.predict_memory(layout).total_bytes for layout in list_layouts(goal)}
    least = min(size for layout, size in needs.items() if layout.optimizer == "adamw_8bit")
    assert _plan(least / _GIB, training).layout.optimizer == "adamw_8bit"
    short = _plan(least / _GIB - 0.1, training)
    assert short.layout.optimizer == "paged_adamw_8bit"
    assert "paged from the host's memory, as nothing else fits" in short.notes[0]


def test_four_percent_of_the_budget_stay_free_where_that_is_possible() -> None:
    assert _plan(10).memory.total_bytes <= 0.96 * 10 * _GIB
    goal = Goal(_8B, _GUIDE, _FULL, "gpu")
    least = min(goal.predict_memory(layout).total_bytes for layout in list_layouts(goal))
    assert plan_training(_8B, _GUIDE, _FULL, least, "gpu").memory.total_bytes == least


def test_an_optimizer_that_is_named_is_taken() -> None:
    assert _plan(24, TrainingSection(optimizer="adamw_torch")).layout.optimizer == "adamw_torch"


def test_embeddings_go_to_the_host_only_for_speed_or_need() -> None:
    assert not _plan(140).layout.offload_embeddings
    smallest = next(gib for gib in (6.0, 6.25, 6.5, 6.75, 7.0) if _fits(gib))
    assert _plan(smallest).layout.offload_embeddings


def test_an_8b_goes_as_two_full_rows_inside_7_gib_with_its_embeddings_on_the_host() -> None:
    plan = plan_training(_8B, _with(micro_batch_tokens=4096), _FULL, 7 * _GIB, "gpu", CARDS["h200"])
    assert (plan.layout.micro_batch_rows, plan.layout.checkpointed_layers) == (2, 32)
    assert plan.layout.offload_embeddings
    # Measured with this layout and limit: 5.88 GiB.
    assert plan.memory.reserved_bytes / _GIB == pytest.approx(5.88, rel=0.05)


def _fits(gib: float) -> bool:
    try:
        _plan(gib)
    except MemoryBudgetError:
        return False
    return True


def test_the_cpu_pads_keeps_all_layers_and_takes_the_32_bit_optimizer() -> None:
    lengths = RowLengths.of([80, 120, 140] * 300)
    plan = plan_training(_BASES["llama-3.2-1b"], TrainingSection(), lengths, 64 * _GIB, "cpu")
    layout = plan.layout
    assert (layout.packing, layout.checkpointed_layers, layout.optimizer) == (False, 0, "adamw_torch")
    assert layout.micro_batch_tokens <= 4096
    assert plan.time is None


def test_a_refusal_says_how_much_is_missing_and_which_single_changes_would_fit() -> None:
    training = TrainingSection(lora=LoraSection(rank=64), effective_batch_tokens=8192)
    lengths = RowLengths.assumed(8192)
    with pytest.raises(MemoryBudgetError) as caught:
        plan_training(_8B, training, lengths, int(7.6 * _GIB), "gpu")
    message = str(caught.value)
    assert "this device has 7.60 GiB free or allowed by gpu.vram_limit_gib: " in message
    missing = float(message.split(" GiB short", maxsplit=1)[0].rsplit(" ", 1)[-1])
    plan_training(_8B, training, lengths, int((7.6 + missing + 0.01) * _GIB), "gpu")
    rows = int(message.split("dataset.max_row_tokens ")[1].split(";", maxsplit=1)[0])
    plan_training(_8B, training, RowLengths.assumed(rows), int(7.6 * _GIB), "gpu")
    with pytest.raises(MemoryBudgetError):
        plan_training(_8B, training, RowLengths.assumed(rows * 2), int(7.6 * _GIB), "gpu")


def test_a_lower_rank_is_named_where_it_is_enough() -> None:
    lengths, budget = RowLengths.assumed(256), 10 * _GIB
    with pytest.raises(MemoryBudgetError, match=r"What would fit: training\.lora\.rank \d+; a base of ") as caught:
        plan_training(_8B, TrainingSection(lora=LoraSection(rank=512)), lengths, budget, "gpu")
    rank = int(str(caught.value).split("training.lora.rank ")[1].split(";")[0])
    plan_training(_8B, TrainingSection(lora=LoraSection(rank=rank)), lengths, budget, "gpu")
    with pytest.raises(MemoryBudgetError):
        plan_training(_8B, TrainingSection(lora=LoraSection(rank=2 * rank)), lengths, budget, "gpu")


def test_a_smaller_base_is_named_and_is_the_largest_known_that_fits() -> None:
    with pytest.raises(MemoryBudgetError, match=r"What would fit: a base of 3\.2B parameters such as llama-3\.2-3b\."):
        plan_training(_8B, _GUIDE, RowLengths.assumed(256), 4 * _GIB, "gpu")


def test_quantization_and_checkpointing_are_named_where_they_are_off() -> None:
    with pytest.raises(MemoryBudgetError, match=r"What would fit: .*training\.load_in_4bit true"):
        plan_training(_8B, TrainingSection(load_in_4bit=False), _FULL, 12 * _GIB, "gpu")
    with pytest.raises(MemoryBudgetError, match=r"training\.execution\.gradient_checkpointing auto"):
        plan_training(_8B, _with(gradient_checkpointing="never"), RowLengths.assumed(8192), 12 * _GIB, "gpu")


def test_where_no_change_is_enough_nothing_is_promised() -> None:
    with pytest.raises(MemoryBudgetError, match=r"short\. Free it, or take a smaller base\."):
        plan_training(_8B, _GUIDE, _FULL, _GIB, "gpu")


def test_layers_are_split_over_two_cards_and_that_is_not_runnable_yet() -> None:
    pair, one = CARDS["dual4090"], CARDS["rtx4090"]
    plan = plan_training(_BASES["llama-3.1-70b"], _GUIDE, _FULL, pair.usable_bytes, "gpu", pair)
    assert plan.notes == ("not runnable yet: training runs on one card",)
    assert plan.memory.total_bytes <= one.usable_bytes
    found = find_plan(Goal(_BASES["llama-3.1-70b"], _GUIDE, _FULL, "gpu", one), one.usable_bytes)
    assert isinstance(found, Shortage)
    assert re.search(r"RTX 4090 24 GB has 23.69 GiB for a process: 16\.\d+ GiB short", found.describe())


def test_on_a_known_card_too_a_training_is_refused_for_what_is_free_or_allowed() -> None:
    with pytest.raises(MemoryBudgetError, match=r"this device has 5.00 GiB free or allowed by gpu.vram_limit_gib"):
        _plan(5)


def test_a_smaller_base_is_named_only_if_its_context_holds_the_rows() -> None:
    with pytest.raises(MemoryBudgetError, match=r"What would fit: .*such as (?!llama-2)"):
        plan_training(_BASES["qwen2.5-14b"], _GUIDE, RowLengths.assumed(8192), int(10.9 * _GIB), "gpu")


def test_rows_longer_than_the_bases_context_are_noted() -> None:
    plan = plan_training(_13B, _GUIDE, RowLengths.assumed(8192), 80 * _GIB, "gpu")
    assert plan.notes == ("rows of 8192 tokens are longer than the base's context of 4096",)


def test_a_target_that_the_model_lacks_stops_the_plan() -> None:
    with pytest.raises(TrainingError, match="got fc1: a Llama model has"):
        _plan(24, TrainingSection(lora=LoraSection(target_modules=("fc1",))))


def test_a_plan_is_told_in_a_line_and_in_scalars() -> None:
    plan = _plan(10)
    assert "\n" not in plan.describe()
    assert plan.describe().startswith("8 x 1 packed rows of 2048 tokens, ")
    figures = plan.as_metadata()
    assert all(isinstance(value, bool | int | float | str) for value in figures.values())
    assert figures["predicted_total_bytes"] == plan.memory.total_bytes
    assert figures["checkpointed_layers"] == plan.layout.checkpointed_layers
