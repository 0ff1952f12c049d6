"""The adapter alone as a GGUF, by llama.cpp's own converter: programs load it on top of the base's GGUF.

llama.cpp scales an adapter by alpha / rank, one alpha for all (llama-adapter.h, `get_scale`), and its converter copies
`lora_alpha` whatever the configuration makes of it. What this cannot say is refused here, never written wrongly.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

from ft_pipeline.base_model import read_config
from ft_pipeline.errors import ConversionError, PipelineError
from ft_pipeline.merging.adapter import WEIGHTS_FILE, Adapter, Update, open_adapter
from ft_pipeline.merging.adapter_config import CONFIG_FILE
from ft_pipeline.merging.shards import open_shards
from ft_pipeline.merging.tied import find_tied_head
from ft_pipeline.quantization.convert import ConverterProcess, find_line
from ft_pipeline.quantization.metadata import Provenance, adapter_card

_SCRIPT = "convert_lora_to_gguf.py"
_SAME = 1e-6
# How the converter says that it does not take an adapter; NotImplementedError: a product that it would have to reshape.
_REFUSALS = (
    r"Model \S+ is not supported|NotImplementedError|Unexpected name|Can not map tensor|lm_head is present in adapter"
)


class LoraNotExpressible(ConversionError):
    """A LoRA GGUF cannot hold this adapter."""


def convert_adapter(
    adapter_folder: Path, base: Path, outfile: Path, tree: Path, provenance: Provenance | None = None
) -> None:
    """Write an adapter as a LoRA GGUF in f16. Of the base its configuration is read, and no weights.

    Args:
        adapter_folder: PEFT adapter folder.
        base: Folder of the base.
        outfile: The file to write; its general.name is the stem.
        tree: llama.cpp's converter, see `convert.check_converter`.
        provenance: What the file's metadata says of where it comes from; None: nothing.

    Raises:
        LoraNotExpressible: it holds more than low-rank products of one alpha, or llama.cpp's converter refuses it.
        ConversionError: llama.cpp's converter was killed or failed for another reason.
        DiskSpaceError: the disk became full.
    """
    adapter = _open(adapter_folder, base)
    alpha = _find_alpha(adapter)
    with tempfile.TemporaryDirectory(prefix="lora-", dir=outfile.parent) as scratch:
        folder = Path(scratch) / "adapter"  # the converter makes metadata of the name
        folder.mkdir()
        _write_folder(folder, adapter_folder, alpha, adapter_card(outfile.stem, provenance))
        with _AdapterConversion(adapter, folder, base, outfile, tree) as conversion:
            conversion.wait()


class _AdapterConversion(ConverterProcess):
    """A run of the converter of adapters."""

    def __init__(self, adapter: Adapter, folder: Path, base: Path, outfile: Path, tree: Path) -> None:
        command = [str(tree / _SCRIPT), str(folder), "--base", str(base), "--outtype", "f16", "--outfile", str(outfile)]
        super().__init__(command, outfile, adapter.folder)
        self._adapter = adapter

    def _finish(self) -> None:
        """See that every product is in the file: the converter leaves out what it does not know of some families.

        It may split products, join them and reorder their rows: the number of values in all B stays.
        """
        import numpy as np
        from gguf import GGUFReader

        tensors = GGUFReader(self.outfile).tensors
        written = sum(int(tensor.n_elements) for tensor in tensors if tensor.name.endswith(".lora_b"))
        wanted = sum(math.prod(_shape(self._adapter, update.b)) for update in self._adapter.updates.values())
        if written != wanted:
            raise LoraNotExpressible(
                f"a LoRA GGUF must hold all of an adapter; llama.cpp's converter took {written:,} of the {wanted:,} "
                f"values in LoRA's B of {self._adapter.folder}."
            )
        overflown = [tensor.name for tensor in tensors if not np.isfinite(tensor.data).all()]
        if overflown:
            raise LoraNotExpressible(
                f"a LoRA GGUF is in float16; {overflown[0]} of {self._adapter.folder} has values over 65,504."
            )

    def _explain(self, status: int, output: str) -> PipelineError:
        if status == 1 and (reason := find_line(_REFUSALS, output)):
            return LoraNotExpressible(
                f"a LoRA GGUF holds what llama.cpp's converter takes; it refuses {self._adapter.folder}: {reason}"
            )
        return super()._explain(status, output)


def _open(adapter_folder: Path, base: Path) -> Adapter:
    shards = open_shards(base)
    tied = find_tied_head(shards, read_config(base))
    adapter = open_adapter(adapter_folder, tied.base if tied else shards)
    if tied and not tied.differs and tied.head in adapter.updates:
        raise LoraNotExpressible(
            f"a LoRA GGUF changes tensors that the base's GGUF has; {tied.head} is none, as it is the embedding too "
            "(tie_word_embeddings)."
        )
    return adapter


def _find_alpha(adapter: Adapter) -> float:
    """The alpha by which alpha / rank is the scaling of every product."""
    for name, update in adapter.updates.items():
        if reason := _find_obstacle(update):
            raise LoraNotExpressible(f"a LoRA GGUF holds low-rank products of linear layers only; {name} {reason}.")
    alphas = {name: update.scaling * _shape(adapter, update.a)[0] for name, update in adapter.updates.items()}
    lowest, highest = min(alphas, key=alphas.__getitem__), max(alphas, key=alphas.__getitem__)
    if alphas[highest] - alphas[lowest] > _SAME * alphas[highest]:
        raise LoraNotExpressible(
            f"a LoRA GGUF has one alpha for all tensors; {lowest} would need {alphas[lowest]:g} and {highest} "
            f"{alphas[highest]:g}."
        )
    return alphas[highest]


def _find_obstacle(update: Update) -> str:
    if update.whole:
        return "is trained whole (modules_to_save)"
    if update.magnitude:
        return "has a magnitude of its own (DoRA)"
    if update.added:
        return "has a bias in LoRA's B"
    if update.is_embedding:
        return "is an embedding"
    if update.transposed:
        return "is stored transposed (fan_in_fan_out)"
    return "" if update.scaling else "has an alpha of 0, which llama.cpp takes for none"


def _shape(adapter: Adapter, key: str | None) -> list[int]:
    assert key is not None  # noqa: S101 - nothing else got past `_find_obstacle`
    return [int(size) for size in adapter.slice(key).get_shape()]


def _write_folder(folder: Path, adapter_folder: Path, alpha: float, card: str) -> None:
    config = json.loads((adapter_folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config |= {"lora_alpha": alpha, "use_rslora": False}
    (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    (folder / "README.md").write_text(card, encoding="utf-8")
    (folder / WEIGHTS_FILE).symlink_to((adapter_folder / WEIGHTS_FILE).absolute())
