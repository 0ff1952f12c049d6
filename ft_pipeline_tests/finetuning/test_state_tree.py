"""States come back from safetensors and JSON as they were."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch  # noqa: TID253
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.finetuning.state_tree import flatten_state, unflatten_state
from ft_pipeline_tests.finetuning.snapshots import assert_same


def round_trip(state: Any) -> Any:
    tensors, encoded = flatten_state(state)
    return unflatten_state(tensors, json.loads(json.dumps(encoded, allow_nan=False)))


_DTYPES = [
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.float64,
    torch.uint8,
    torch.int8,
    torch.int64,
    torch.bool,
]
_TENSORS = st.builds(
    lambda dtype, shape: (torch.rand(shape) * 100).to(dtype),
    st.sampled_from(_DTYPES),
    st.lists(st.integers(0, 3), max_size=3),
)
_PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text()


@given(
    st.recursive(
        _PLAIN | _TENSORS,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
            | st.dictionaries(st.text() | st.integers(), inner, max_size=3)
        ),
        max_leaves=12,
    )
)
def test_any_state_comes_back_with_its_types_and_bits(state: Any) -> None:
    assert_same(round_trip(state), state)


def test_a_tensor_that_is_in_a_state_twice_is_written_once_and_is_one_tensor_again() -> None:
    qmap = torch.linspace(-1, 1, 256)
    state = {"state": {0: {"qmap1": qmap}, 1: {"qmap1": qmap}}}
    tensors, _ = flatten_state(state)
    assert len(tensors) == 1
    again = round_trip(state)
    assert_same(again, state)
    assert again["state"][0]["qmap1"] is again["state"][1]["qmap1"]


def test_bits_of_not_a_number_are_kept() -> None:
    bits = torch.tensor([0x7FC1, -0x0001, 0x7F80, 0x0001], dtype=torch.int16)
    again = round_trip({"exp_avg": bits.view(torch.bfloat16)})
    assert again["exp_avg"].view(torch.int16).equal(bits)


def test_a_state_of_other_things_is_refused_with_its_place() -> None:
    with pytest.raises(TypeError, match=r"got set at state\.groups\[0\]\.seen"):
        flatten_state({"groups": [{"seen": {1}}]})
    with pytest.raises(TypeError, match=r"keys must be text or whole numbers, got \(1, 2\) in state\.groups"):
        flatten_state({"groups": {(1, 2): 3}})
