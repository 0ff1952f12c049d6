"""What an export takes of disk and memory, from sizes alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ft_pipeline.finetuning.architecture import read_architecture
from ft_pipeline.quantization.disk_need import count_export_bytes, count_memory_bytes, count_missing_bytes

_GIB = 2**30


def test_an_export_holds_the_merged_model_and_two_16_bit_ggufs_and_each_type_twice() -> None:
    needed = count_export_bytes(100, [30, 50])
    assert count_missing_bytes(needed, set()) == sum(needed.values()) == 3 * 100 + 2 * 80


def test_a_file_that_is_split_lies_there_twice() -> None:
    assert count_export_bytes(100, [3 * _GIB], split_gib=4)["splitting"] == 0
    assert count_export_bytes(100, [3 * _GIB], split_gib=2)["splitting"] == 3 * _GIB


@pytest.mark.parametrize(
    ("there", "missing_bytes"),
    [
        ({"merged_model"}, 200 + 2 * 3 * _GIB + 3 * _GIB),
        ({"base_f16_gguf", "base_gguf"}, 200 + 3 * _GIB + 3 * _GIB),
        ({"base_gguf"}, 200 + 3 * _GIB + 3 * _GIB),
        ({"gguf_model", "base_gguf"}, 100),
        ({"merged_model", "gguf_model", "base_gguf"}, 0),
    ],
)
def test_what_is_made_and_what_only_served_to_make_it_take_no_more_room(there: set[str], missing_bytes: int) -> None:
    assert count_missing_bytes(count_export_bytes(100, [3 * _GIB], split_gib=2), there) == missing_bytes


def test_memory_goes_by_the_largest_tensor_and_not_by_the_layers(model: Path) -> None:
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    one, many, wide = (
        count_memory_bytes(read_architecture(config | changes))
        for changes in ({}, {"num_hidden_layers": 40}, {"vocab_size": 2**20})
    )
    assert one == many
    assert wide["convert"] == one["convert"] + 6 * (2**20 - 2 * 256) * 256
