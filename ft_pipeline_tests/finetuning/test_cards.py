from __future__ import annotations

import pytest

from ft_pipeline.errors import ResourceError
from ft_pipeline.finetuning.cards import CARDS, find_card, match_card


@pytest.mark.parametrize("name", ["rtx4090", "RTX 4090", "GeForce RTX-4090", "rtx_4090"])
def test_a_card_is_found_however_its_name_is_written(name: str) -> None:
    assert find_card(name) is CARDS["rtx4090"]


def test_an_unknown_card_is_answered_with_the_nearest_and_all_others() -> None:
    with pytest.raises(
        ResourceError, match=r"must be one of rtx3080, .* h200, got 'rtx4080'\. Did you mean 'rtx4080super'"
    ):
        find_card("rtx4080")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("NVIDIA GeForce RTX 4080 SUPER", "rtx4080super"),
        ("NVIDIA GeForce RTX 4060 Ti", "rtx4060ti"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA H100 80GB HBM3", "h100"),
    ],
)
def test_a_drivers_name_stands_for_a_card(label: str, name: str) -> None:
    assert match_card(label) is CARDS[name]


@pytest.mark.parametrize(
    "label",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "Tesla T4",
        "NVIDIA GeForce RTX 4060",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3080 Ti",
        "NVIDIA H100 PCIe",
    ],
)
def test_no_speed_is_claimed_for_other_cards(label: str) -> None:
    assert match_card(label) is None


def test_a_process_gets_less_than_the_card_has() -> None:
    assert all(0.95 * card.vram_bytes < card.usable_bytes < card.vram_bytes for card in CARDS.values())
