"""The cards that plans are made for, and what they are not made for.

Speeds are the vendor's for dense bf16 with fp32 accumulation, which on GeForce is half of that with fp16 accumulation.
Sources: NVIDIA's architecture whitepapers of GA102, Ada and RTX Blackwell (appendix A of each), data sheets of H100 and
H200. What a whitepaper lacks (RTX 4080 Super, RTX 4060 Ti) is twice the vendor's fp32 rate of the shaders, the ratio of
all others of that generation.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass

from ft_pipeline.errors import ResourceError

_GIB = 2**30
_MIB = 2**20
# What nvidia-smi calls reserved: some 300 MiB that no process gets.
_DRIVER_BYTES = 320 * _MIB

NOT_SUPPORTED = (
    "AMD cards (ROCm): the 4-bit kernels and the lease are for NVIDIA's driver.",
    "FP4 training (Blackwell's tensor cores): weights are NF4, products bf16.",
    "Native Windows: WSL2 is fine.",
    "Two cards: planned, not runnable yet.",
)
DESKTOP_NOTE = "a screen on the card takes another 0.5 to 1.5 GiB: set gpu.vram_limit_gib, or plug it elsewhere"


@dataclass(frozen=True)
class Card:
    """A graphics card, or two of a kind.

    Attributes:
        vram_bytes: Of one card.
        bf16_tflops: Dense, with fp32 accumulation, of one card.
        efficiency: Share of `bf16_tflops` that training reaches in long micro-batches. 0.55 on an H200: 12,450 tokens/s
            with and 16,790 without gradient checkpointing, short packed rows, 8B. 0.70 on a GeForce: 2,413 tokens/s of
            an 8B on an RTX 4090 (torchtune's README); of the other GeForce cards assumed.
        launch_seconds: What one pass through one layer costs beside its products. A micro-batch of an 8B costs 20 ms so
            (H200: 9,836 tokens/s by 4,096 tokens at once, 10,310 by 16,384); 11 of them are dequantization at the
            card's bandwidth, the rest is taken for launches.
        count: Cards that the layers are split over.
    """

    name: str
    label: str
    vram_bytes: int
    bf16_tflops: float
    memory_gb_per_s: float
    compute_capability: tuple[int, int]
    efficiency: float = 0.70
    launch_seconds: float = 0.1e-3
    count: int = 1

    @property
    def usable_bytes(self) -> int:
        """What processes get on one card, their CUDA contexts included."""
        return self.vram_bytes - _DRIVER_BYTES

    @property
    def is_runnable(self) -> bool:
        """Whether training runs on it: it is one card."""
        return self.count == 1


CARDS: Mapping[str, Card] = {
    card.name: card
    for card in (
        Card("rtx3080", "RTX 3080 10 GB", 10 * _GIB, 59.5, 760, (8, 6)),
        Card("rtx4060ti", "RTX 4060 Ti 16 GB", 16 * _GIB, 44.1, 288, (8, 9)),
        Card("rtx4080super", "RTX 4080 Super 16 GB", 16 * _GIB, 104.4, 736, (8, 9)),
        Card("rtx3090", "RTX 3090 24 GB", 24 * _GIB, 71.2, 936, (8, 6)),
        Card("rtx4090", "RTX 4090 24 GB", 24 * _GIB, 165.2, 1008, (8, 9)),
        Card("rtx5090", "RTX 5090 32 GB", 32 * _GIB, 209.5, 1792, (12, 0)),
        Card("dual4090", "2 x RTX 4090 24 GB", 24 * _GIB, 165.2, 1008, (8, 9), count=2),
        Card("h100", "H100 80 GB", 81_559 * _MIB, 989.4, 3350, (9, 0), efficiency=0.55),
        Card("h200", "H200 141 GB", 143_771 * _MIB, 989.4, 4800, (9, 0), efficiency=0.55),
    )
}


def find_card(name: str) -> Card:
    """A card by its short name.

    Raises:
        ResourceError: there is none of that name; the message lists those that are.
    """
    wanted = name.lower().replace(" ", "").replace("-", "").replace("_", "").removeprefix("geforce")
    if wanted in CARDS:
        return CARDS[wanted]
    begun = [card for card in CARDS if wanted and card.startswith(wanted)]
    near = begun or difflib.get_close_matches(wanted, CARDS, n=1, cutoff=0.4)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    raise ResourceError(f"the card must be one of {', '.join(CARDS)}, got '{name}'.{hint}")


def match_card(label: str) -> Card | None:
    """The card that a driver's name stands for (`NVIDIA GeForce RTX 4090`); None if no plan was made for it.

    Another word makes another chip: Ti, D, Laptop GPU, PCIe. Memory and socket do not.
    """
    name = re.sub(r"nvidia|geforce|\b\d+ ?gb\b|hbm\w*|sxm\d*|\s", "", label.lower())
    return next((card for card in CARDS.values() if card.is_runnable and card.name == name), None)
