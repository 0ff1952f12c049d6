"""docs/quantization-types.md, written from the table of types."""

from __future__ import annotations

from collections.abc import Iterator

from ft_pipeline.quantization.types import BLOCKS, TENSOR_TYPES, TYPES, QuantizationType

_HEAD = """\
# Quantization types

Written from `ft_pipeline/quantization/types.py`; a test holds the two together. A recipe names the types in
`quantization.types`; the first one is gated and published. All are made from the same 16-bit GGUF.

- **bits per weight** are of a whole file in the shape of Llama-3-8B (8.03e9 weights), as llama.cpp's quantizer computes
  them: some tensors (embedding, output, attn_v, ffn_down) get more bits than the block. In a small model these are a
  larger share, so its files are larger than the figure says. The run writes the predicted and the actual size.
- **importance matrix**: `required`: llama.cpp refuses the type without one. `gains`: other values are chosen with one,
  with less error where the inputs are large. `none`: the file is the same with or without. With
  `quantization.imatrix: auto` the first two take the one that training made of its own rows.
- **block**: weights that share a scale. A row that is no multiple of it cannot have the type, and takes the
  **fallback**, mostly a larger one; the run says which tensors did. Where the fallback's block of 32 does not fit
  either, the tensor stays F16. The same goes for the tensors of the file that have another type than most.
"""
_TENSORS = """\
## Types of single tensors

`quantization.tensor_types` gives some tensors another type: a regular expression of Python, searched for in the names
of the GGUF (`blk.0.ffn_down.weight`, `token_embd.weight`, `output.weight`, ...; `^output` for the last alone), and one
of the names below. The first expression that is found counts; it takes the place of what the file's type would choose.
One that is found nowhere is an error before training, and that check waits for one that takes for ever, such as
`(.*)*X`. Norms, biases and files that are not quantized (F32, F16, BF16) are left alone. Types with two bits or fewer
and iq3_xxs need an importance matrix (q2_k only in a Q2_K_S file), which the embedding never has.
"""


def render_types() -> str:
    """The table as Markdown."""
    return "\n".join([_HEAD, *_file_types(), "", *_refused(), "", _TENSORS, *_tensor_types()]) + "\n"


def _file_types() -> Iterator[str]:
    yield "| type | bits per weight | importance matrix | block | fallback |"
    yield "| --- | --- | --- | --- | --- |"
    for found in TYPES.values():
        if found.not_offered is None:
            yield (
                f"| `{found.name}` | {found.bits_per_weight:.2f} | {found.imatrix} "
                f"| {_block(found)} | {found.fallback or '-'} |"
            )


def _refused() -> Iterator[str]:
    yield "llama.cpp has these as well, and a recipe that names one does not load:\n"
    yield "| type | bits per weight | why not |"
    yield "| --- | --- | --- |"
    for found in TYPES.values():
        if found.not_offered is not None:
            yield f"| `{found.name}` | {found.bits_per_weight:.2f} | {found.not_offered} |"


def _tensor_types() -> Iterator[str]:
    yield "| type | bits per weight | block |"
    yield "| --- | --- | --- |"
    for name, block in TENSOR_TYPES.items():
        yield f"| `{name}` | {block.bits_per_weight:g} | {block.weights} |"


def _block(found: QuantizationType) -> str:
    return f"{BLOCKS[found.block].weights} of {found.block}" if BLOCKS[found.block].weights > 1 else "-"
