from __future__ import annotations

import json
import math
import unicodedata
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ft_pipeline.fingerprint import fingerprint
from ft_pipeline.recipe import EarlyStoppingSection, ExecutionSection, LoraSection, TrainingSection

_scalars = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_ingredients = st.dictionaries(st.text(max_size=8), _values, max_size=5)


def _reversed_keys(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _reversed_keys(item) for key, item in reversed(value.items())}
    return [_reversed_keys(item) for item in value] if isinstance(value, list) else value


@given(_ingredients)
def test_the_order_of_keys_does_not_matter(ingredients: dict[str, Any]) -> None:
    assert fingerprint(ingredients) == fingerprint(_reversed_keys(ingredients))


@given(_ingredients)
def test_it_survives_a_round_trip_through_json(ingredients: dict[str, Any]) -> None:
    assert fingerprint(json.loads(json.dumps(ingredients))) == fingerprint(ingredients)


@given(_ingredients, _ingredients)
def test_other_ingredients_have_another_fingerprint(one: dict[str, Any], other: dict[str, Any]) -> None:
    assume(json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True))
    assert fingerprint(one) != fingerprint(other)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_the_next_float_has_another_fingerprint(value: float) -> None:
    following = math.nextafter(value, math.inf)
    assume(math.isfinite(following))
    assert fingerprint({"x": value}) != fingerprint({"x": following})


def test_text_is_not_normalized_because_other_bytes_are_other_data() -> None:
    composed = "é"
    assert fingerprint({"x": composed}) != fingerprint({"x": unicodedata.normalize("NFD", composed)})


def test_half_a_surrogate_pair_has_a_fingerprint() -> None:
    assert fingerprint({"x": "\ud800"}) != fingerprint({"x": "\ud801"})


@pytest.mark.parametrize(
    ("one", "other"), [(1, 1.0), (1, True), (0, False), (0.0, -0.0), ("1", 1), (None, "null"), ([], {})]
)
def test_values_of_other_types_differ(one: Any, other: Any) -> None:
    assert fingerprint({"x": one}) != fingerprint({"x": other})


def test_a_tuple_is_a_list() -> None:
    assert fingerprint({"x": (1, 2)}) == fingerprint({"x": [1, 2]})


def test_a_nested_model_counts_with_all_its_fields() -> None:
    default = TrainingSection()
    assert fingerprint({"training": default}) == fingerprint({"training": TrainingSection(lora=LoraSection())})
    others: dict[str, object] = {
        "backend": "trl",
        "lora": LoraSection(rank=8),
        "lr_scheduler": "cosine",
        "neftune_noise_alpha": 5.0,
        "optimizer": "adamw_torch",
        "early_stopping": EarlyStoppingSection(),
        "execution": ExecutionSection(packing="never"),
    }
    for name in TrainingSection.model_fields:
        changed = others.get(name)
        value = getattr(default, name)
        if changed is None:
            changed = (not value) if isinstance(value, bool) else value * 2 + 1
        assert fingerprint({"t": default.model_copy(update={name: changed})}) != fingerprint({"t": default}), name


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_refuses_a_number_that_is_not_finite(value: float) -> None:
    with pytest.raises(ValueError, match="must be a finite number"):
        fingerprint({"x": value})


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", {"x": {1: 2}}])
def test_refuses_a_value_without_a_canonical_form(value: Any) -> None:
    with pytest.raises(TypeError, match="an ingredient"):
        fingerprint({"x": value})
