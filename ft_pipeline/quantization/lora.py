"""The adapter alone as a GGUF, by llama.cpp's own converter: programs load it on top of the base's GGUF.

llama.cpp scales an adapter by alpha / rank, one alpha for all (llama-adapter.h, `get_scale`), and its converter copies
`lora_alpha` whatever the configuration makes of it. What this cannot say is refused here, never written wrongly.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from ft_pipeline.errors import ConversionError
from ft_pipeline.merging.adapter import WEIGHTS_FILE, Adapter, Update, open_adapter
from ft_pipeline.merging.adapter_config import CONFIG_FILE
from ft_pipeline.merging.shards import open_shards
from ft_pipeline.quantization.convert import ConverterProcess

_SCRIPT = "convert_lora_to_gguf.py"
_SAME = 1e-6


class LoraNotExpressible(ConversionError):
    """A LoRA GGUF cannot hold this adapter."""


def convert_adapter(adapter_folder: Path, base: Path, outfile: Path, tree: Path) -> None:
    """Write an adapter as a LoRA GGUF in f16.

    Args:
        adapter_folder: PEFT adapter folder.
        base: Folder of the base.
        outfile: The file to write.
        tree: llama.cpp's converter, see `convert.check_converter`.

    Raises:
        LoraNotExpressible: it holds more than low-rank products of one alpha.
        ConversionError: llama.cpp's converter does not take it.
        DiskSpaceError: the disk became full.
    """
    alpha = _find_alpha(open_adapter(adapter_folder, open_shards(base)))
    with tempfile.TemporaryDirectory(prefix="lora-", dir=outfile.parent) as folder:
        _write_folder(Path(folder), adapter_folder, alpha)
        command = [str(tree / _SCRIPT), folder, "--base", str(base), "--outtype", "f16", "--outfile", str(outfile)]
        with ConverterProcess(command, outfile, adapter_folder) as conversion:
            conversion.wait()


def _find_alpha(adapter: Adapter) -> float:
    """The alpha by which alpha / rank is the scaling of every product."""
    for name, update in adapter.updates.items():
        if reason := _find_obstacle(update):
            raise LoraNotExpressible(f"a LoRA GGUF holds low-rank products of linear layers only; {name} {reason}.")
    alphas = {name: update.scaling * _rank(adapter, update) for name, update in adapter.updates.items()}
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
    return "is stored transposed (fan_in_fan_out)" if update.transposed else ""


def _rank(adapter: Adapter, update: Update) -> int:
    assert update.a is not None  # noqa: S101 - nothing else got past `_find_obstacle`
    return int(adapter.slice(update.a).get_shape()[0])


def _write_folder(folder: Path, adapter_folder: Path, alpha: float) -> None:
    config = json.loads((adapter_folder / CONFIG_FILE).read_text(encoding="utf-8"))
    config |= {"lora_alpha": alpha, "use_rslora": False}
    (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")
    (folder / WEIGHTS_FILE).symlink_to((adapter_folder / WEIGHTS_FILE).absolute())
