"""The table of types against llama.cpp itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.quantize import predict_size, quantize_gguf
from ft_pipeline.quantization.type_reference import render_types
from ft_pipeline.quantization.types import (
    BLOCKS,
    TENSOR_TYPES,
    TYPES,
    check_tensor_types,
    check_types,
    find_need,
    needs_importance,
)
from ft_pipeline_tests.quantization.gguf_files import LLAMA_3_8B, Shape, make_importance, write_llama

OFFERED = [name for name, found in TYPES.items() if found.not_offered is None]
LLAMA_3_8B_PARAMETERS = sum(rows * columns for rows, columns in LLAMA_3_8B.matrices.values())
SMALL = Shape(blocks=1)
# No block but that of Q8_0 and its like divides 288.
ODD = Shape(blocks=1, hidden=288, feed_forward=288, heads=4, kv_heads=2)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("types") / "f16.gguf", SMALL)


@pytest.fixture(scope="module")
def llama_3_8b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("types") / "8b.gguf", LLAMA_3_8B, sparse=True)


def test_the_table_holds_all_file_types_of_the_installed_llama_cpp() -> None:
    import llama_cpp

    prefixes = ("LLAMA_FTYPE_MOSTLY_", "LLAMA_FTYPE_ALL_")
    known = {
        name.removeprefix(prefix): number
        for name, number in vars(llama_cpp).items()
        for prefix in prefixes
        if name.startswith(prefix)
    }
    assert {name: known.get(name, found.ftype) for name, found in TYPES.items()} == {
        name: found.ftype for name, found in TYPES.items()
    }
    assert [name for name in known if name not in TYPES and known[name] in _accepted_numbers()] == []


def test_blocks_are_those_of_the_gguf_package() -> None:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    known = {kind.name.lower(): (kind.value, *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType}
    ours = {name: (block.ggml_type, block.weights, block.bytes) for name, block in BLOCKS.items()}
    assert {name: known.get(name, block) for name, block in ours.items()} == ours
    assert [name for name in ours if name not in known] == ["q2_0"]  # newer than the package


@pytest.mark.parametrize("name", [name for name in TYPES if TYPES[name].block != "nvfp4"])
def test_bits_per_weight_are_those_of_llama_3_8b(name: str, llama_3_8b: Path) -> None:
    importance = make_importance(LLAMA_3_8B) if TYPES[name].imatrix != "none" else None
    bits = 8 * predict_size(llama_3_8b, name, importance) / LLAMA_3_8B_PARAMETERS
    assert TYPES[name].bits_per_weight == pytest.approx(bits, abs=0.0051)


@pytest.mark.parametrize("name", OFFERED)
def test_an_importance_matrix_does_what_the_table_says(name: str, small: Path, tmp_path: Path) -> None:
    importance = make_importance(SMALL)
    with_it = quantize_gguf(small, tmp_path / "with.gguf", name, importance=importance)
    if TYPES[name].imatrix == "required":
        with pytest.raises(ConversionError, match=f"{name} needs an importance matrix"):
            quantize_gguf(small, tmp_path / "without.gguf", name)
        return
    without = quantize_gguf(small, tmp_path / "without.gguf", name)
    if TYPES[name].imatrix == "none":
        assert with_it.path.read_bytes() == without.path.read_bytes()
    else:
        assert _weighted_error(small, with_it.path, importance) < _weighted_error(small, without.path, importance)


@pytest.mark.parametrize("name", [name for name in TYPES if TYPES[name].block not in {"nvfp4", "mxfp4", "q1_0"}])
def test_rows_that_do_not_fit_take_the_fallback_of_the_table(name: str, tmp_path: Path) -> None:
    source = write_llama(tmp_path / "f16.gguf", ODD)
    made = quantize_gguf(source, tmp_path / "made.gguf", name, importance=make_importance(ODD))
    used = {fallback.wanted.lower(): fallback.used.lower() for fallback in made.fallbacks}
    block = BLOCKS[TYPES[name].block]
    assert used.get(TYPES[name].block) == (TYPES[name].fallback if ODD.hidden % block.weights else None)


@pytest.mark.parametrize("name", ["Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "IQ4_NL"])
def test_rows_that_are_no_multiple_of_32_stay_f16(name: str, tmp_path: Path) -> None:
    shape = Shape(blocks=1, hidden=80, feed_forward=80)
    made = quantize_gguf(write_llama(tmp_path / "f16.gguf", shape), tmp_path / "made.gguf", name)
    assert {fallback.used for fallback in made.fallbacks} == {TYPES[name].fallback} == {"f16"}


def test_llama_cpp_cannot_make_nvfp4(small: Path, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="invalid output file type 39"):
        quantize_gguf(small, tmp_path / "made.gguf", "NVFP4")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("Q4_K_M", "Q4"), r"unknown quantization types: Q4 \(known: F16, .*Q4_K_M"),
        (("Q8_0", "Q8_0"), "a quantization type stands twice: Q8_0, Q8_0"),
        (("MXFP4_MOE",), "MXFP4_MOE is not offered: it is for the experts of a mixture"),
        (("NVFP4",), "NVFP4 is not offered: llama.cpp reads it but cannot quantize to it"),
        (("TQ1_0",), "TQ1_0 is not offered: it is for models trained with weights of two or three values"),
    ],
)
def test_types_that_cannot_be_made_are_refused(names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_types(names)


def test_all_offered_types_may_be_chosen_together() -> None:
    check_types(OFFERED)
    assert len(OFFERED) == 30


@pytest.mark.parametrize("name", TENSOR_TYPES)
def test_every_tensor_type_can_be_given_to_a_tensor(name: str, small: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    check_tensor_types({"ffn_down": name})
    made = quantize_gguf(
        small,
        tmp_path / "made.gguf",
        "Q4_K_M",
        importance=make_importance(SMALL),
        tensor_types={r"^blk\.0\.ffn_d": name, "ffn_(down|up)": "q8_0"},
    )
    types = {tensor.name: tensor.tensor_type.name.lower() for tensor in GGUFReader(made.path).tensors}
    assert [types[f"blk.0.ffn_{part}.weight"] for part in ("down", "up", "gate")] == [name, "q8_0", "q4_k"]


@pytest.mark.parametrize(
    ("tensor_types", "message"),
    [
        ({"ffn_down": "Q6_K"}, r"unknown tensor type of 'ffn_down': Q6_K \(known: .*q6_k"),
        ({"ffn_down": "q4_k_m"}, "unknown tensor type of 'ffn_down': q4_k_m"),
        ({"ffn_(down": "q6_k"}, r"the tensor pattern 'ffn_\(down' is no regular expression: missing \)"),
    ],
)
def test_tensor_types_that_do_not_exist_are_refused(tensor_types: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tensor_types(tensor_types)


def test_some_types_need_an_importance_matrix() -> None:
    assert needs_importance(("Q4_K_M", "IQ2_XS"), {})
    assert not needs_importance(("Q4_K_M", "IQ3_S", "F16"), {})
    assert needs_importance(("Q8_0",), {"ffn_up": "iq3_xxs"})
    assert not needs_importance(("F16",), {"ffn_up": "iq3_xxs"})


def test_a_file_gains_from_a_matrix_if_one_of_its_tensors_does() -> None:
    assert find_need("Q8_0", {}) == "none"
    assert find_need("Q8_0", {"ffn_up": "q4_k"}) == "gains"
    assert find_need("Q8_0", {"ffn_up": "q4_k", "ffn_down": "iq2_xs"}) == "required"


def test_the_table_in_docs_is_that_of_the_types(project: Path) -> None:
    assert (project / "docs/quantization-types.md").read_text() == render_types()


def _accepted_numbers() -> set[int]:
    return {found.ftype for found in TYPES.values()}


def _weighted_error(source: Path, made: Path, importance: dict[str, Any]) -> float:
    import numpy as np
    from gguf import GGUFReader, dequantize

    originals = {tensor.name: tensor.data for tensor in GGUFReader(source).tensors}
    error = 0.0
    for tensor in GGUFReader(made).tensors:
        if tensor.name in importance:
            difference = dequantize(tensor.data, tensor.tensor_type) - originals[tensor.name].astype(np.float32)
            error += float((importance[tensor.name] * difference**2).sum())
    return error
