"""Splitting a GGUF, and llama.cpp opening the parts."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.errors import ConversionError, DiskSpaceError
from ft_pipeline.quantization.llama_library import load_fully, open_vocabulary
from ft_pipeline.quantization.quantize import quantize_gguf
from ft_pipeline.quantization.split import split_gguf


@pytest.fixture
def large(f16: Path, tmp_path: Path) -> Path:
    return Path(shutil.copyfile(f16, tmp_path / "demo-v1.2-F16.gguf"))


@pytest.fixture
def limit(f16: Path) -> int:
    """Room for the largest tensor beside the metadata, not for all."""
    reader = _read(f16)
    return max(int(tensor.n_bytes) for tensor in reader.tensors) + 200_000 + int(reader.data_offset)


def test_parts_are_named_and_keyed_as_llama_cpp_does_and_hold_all_tensors(large: Path, limit: int) -> None:
    parameters, whole = load_fully(large), _read(large)
    tensors = {tensor.name: (tensor.tensor_type, tensor.data.tobytes()) for tensor in whole.tensors}
    fields = {name: field.contents() for name, field in whole.fields.items() if not name.startswith("GGUF.")}
    parts = split_gguf(large, limit)
    assert len(parts) > 1
    assert [part.name for part in parts] == [
        f"demo-v1.2-F16-{number:05}-of-{len(parts):05}.gguf" for number in range(1, len(parts) + 1)
    ]
    assert sorted(path.name for path in large.parent.iterdir()) == [part.name for part in parts]
    assert all(part.stat().st_size <= limit for part in parts)
    readers = [_read(part) for part in parts]
    for number, reader in enumerate(readers):
        keys = {name: reader.fields[name].contents() for name in reader.fields if name.startswith("split.")}
        assert keys == {"split.no": number, "split.count": len(parts), "split.tensors.count": len(tensors)}
    assert {t.name: (t.tensor_type, t.data.tobytes()) for reader in readers for t in reader.tensors} == tensors
    assert fields.items() <= {name: field.contents() for name, field in readers[0].fields.items()}.items()
    assert load_fully(parts[0]) == parameters


def test_the_vocabulary_is_that_of_the_first_part(large: Path, limit: int) -> None:
    with open_vocabulary(large) as vocabulary:
        before = (vocabulary.tokenize("the sky is blue"), vocabulary.chat_template, vocabulary.name)
    with open_vocabulary(split_gguf(large, limit)[0]) as vocabulary:
        assert (vocabulary.tokenize("the sky is blue"), vocabulary.chat_template, vocabulary.name) == before


@pytest.mark.parametrize("type_name", ["Q4_K_M", "Q8_0", "BF16", "IQ4_NL"])
def test_quantized_files_are_split_as_well(type_name: str, f16: Path, tmp_path: Path) -> None:
    made = quantize_gguf(f16, tmp_path / "made.gguf", type_name)
    parameters, reader = load_fully(made.path), _read(made.path)
    largest = max(int(tensor.n_bytes) for tensor in reader.tensors)
    parts = split_gguf(made.path, largest + int(reader.data_offset) + 32 * len(reader.tensors))
    assert len(parts) > 1
    assert load_fully(parts[0]) == parameters


def test_a_file_within_the_limit_stays_as_it_is(large: Path) -> None:
    before = large.read_bytes()
    assert split_gguf(large, len(before)) == [large]
    assert large.read_bytes() == before


def test_a_limit_below_the_largest_tensor_is_refused_and_nothing_is_written(large: Path) -> None:
    with pytest.raises(ConversionError, match=r"has \S+\.weight with [\d,]+ bytes, the limit leaves .* of 100,000"):
        split_gguf(large, 100_000)
    assert list(large.parent.iterdir()) == [large]


def test_a_disk_that_takes_no_more_leaves_only_the_whole_file(large: Path, limit: int) -> None:
    before, allowed = large.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, allowed[1]))
    try:
        with pytest.raises(DiskSpaceError, match=r"the parts of demo-v1.2-F16.gguf must"):
            split_gguf(large, limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert list(large.parent.iterdir()) == [large]
    assert large.read_bytes() == before


def test_a_disk_without_room_is_found_before_anything_is_written(
    large: Path, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(large.parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskSpaceError, match=r"splitting demo-v1\.2-F16\.gguf needs .* GiB are free"):
        split_gguf(large, limit)


def _read(path: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(path)
