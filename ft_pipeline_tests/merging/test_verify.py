"""What is read back is not what it should be: nothing passes, and nothing is left."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging.shards import Shards
from ft_pipeline.merging.writer import LayoutWriter
from ft_pipeline_tests.merging.conftest import Merge
from ft_pipeline_tests.merging.tiny_adapter import make_adapter


@pytest.mark.parametrize(
    ("name", "lora", "message"),
    [
        ("model.norm.weight", {}, r"model\.norm\.weight is not changed by the adapter and differs from the base"),
        ("model.layers.1.mlp.up_proj.weight", {}, r"layers\.1\.mlp\.up_proj\.weight is not what was written"),
        ("model.norm.weight", {"modules_to_save": ["norm"]}, r"model\.norm\.weight differs from the adapter's"),
    ],
    ids=["untouched", "touched", "replaced"],
)
def test_names_a_tensor_that_the_disk_has_changed(
    name: str,
    lora: dict[str, list[str]],
    message: str,
    base: Path,
    tmp_path: Path,
    merge: Merge,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = make_adapter(tmp_path / "adapter", base, **lora)  # type: ignore[arg-type]
    _flip_a_bit(monkeypatch, lambda written: written.places[name].offset + 1)
    with pytest.raises(ConversionError, match=message):
        merge(base, adapter)
    assert not list((tmp_path / "merged").iterdir())


def test_names_a_file_whose_header_the_disk_has_changed(
    base: Path, adapter: Path, merge: Merge, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A space for a space's neighbour: still a valid header.
    _flip_a_bit(monkeypatch, lambda written: min(place.offset for place in written.places.values()) - 1, bit=0x29)
    with pytest.raises(ConversionError, match=r"model\.safetensors has another header than was written"):
        merge(base, adapter)


def test_an_update_that_is_lost_in_rounding_is_an_error(base: Path, tmp_path: Path, merge: Merge) -> None:
    adapter = make_adapter(tmp_path / "adapter", base, lora_alpha=1e-9)
    with pytest.raises(
        ConversionError, match=r"down_proj\.weight is targeted by the adapter and unchanged; .* and 9 more"
    ):
        merge(base, adapter)


@pytest.mark.parametrize("count", [0, 3, 64, 1001])
def test_the_sum_of_a_tensor_does_not_hang_on_how_it_is_cut(count: int) -> None:
    import torch

    from ft_pipeline.merging.verify import add_words

    tensor = torch.randn(count).half()
    parts = [tensor[start : start + 64].clone() for start in range(0, count, 64)]
    assert sum(add_words(part) for part in parts) % 2**64 == add_words(tensor)
    if count:
        assert add_words(tensor) != add_words(tensor + 1)


def _flip_a_bit(monkeypatch: pytest.MonkeyPatch, find_offset: Callable[[Shards], int], bit: int = 0x10) -> None:
    """Have the disk change a bit of the first file once it is complete."""
    complete = LayoutWriter.complete

    def spoil(writer: LayoutWriter, file: str) -> None:
        written: Shards = writer._layout.weights
        offset = find_offset(written)
        path = written.folder / file
        with path.open("r+b") as stream:
            byte = os.pread(stream.fileno(), 1, offset)[0]
            os.pwrite(stream.fileno(), bytes([byte ^ bit]), offset)
        complete(writer, file)

    monkeypatch.setattr(LayoutWriter, "complete", spoil)
