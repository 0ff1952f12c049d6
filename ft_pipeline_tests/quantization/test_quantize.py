"""llama.cpp's quantizer, through the installed library."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ft_pipeline.errors import ConversionError
from ft_pipeline.quantization.llama_library import call_llama, load_fully
from ft_pipeline.quantization.quantize import quantize_gguf
from ft_pipeline.quantization.types import TYPES


@pytest.mark.parametrize("type_name", [name for name in TYPES if name != "F16"])
def test_every_type_of_the_table_can_be_made(type_name: str, f16: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    made = quantize_gguf(f16, tmp_path / "made.gguf", type_name)
    assert made.size_bytes == made.path.stat().st_size < f16.stat().st_size
    file_type = GGUFReader(made.path).fields["general.file_type"]
    assert file_type.parts[file_type.data[0]][0] == TYPES[type_name].ftype
    assert load_fully(made.path) > 0


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=st.integers(1, 24).map(lambda blocks: 32 * blocks))
def test_rows_that_are_no_multiple_of_256_are_reported(columns: int, tmp_path: Path) -> None:
    made = quantize_gguf(_write_matrix(tmp_path / "f16.gguf", columns), tmp_path / "made.gguf", "Q4_K_M")
    found = [(fallback.tensor, fallback.columns, fallback.wanted) for fallback in made.fallbacks]
    assert found == ([("blk.0.ffn_up.weight", columns, "q4_K")] if columns % 256 else [])


def test_a_file_that_is_no_gguf_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source, target = tmp_path / "f16.gguf", tmp_path / "made.gguf"
    source.write_bytes(b"not a GGUF")
    with pytest.raises(ConversionError, match=r"could not quantize .*f16\.gguf to Q8_0 \(status 1\)"):
        quantize_gguf(source, target, "Q8_0")
    assert not target.exists()


def test_a_truncated_file_does_not_load(f16: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(f16.read_bytes()[:-1000])
    with pytest.raises(ConversionError, match=r"refuses .*broken\.gguf: .*not within the file bounds"):
        load_fully(broken)


def test_a_signal_gets_through_during_a_long_call() -> None:
    class StopRequested(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopRequested

    before = signal.signal(signal.SIGUSR1, stop)
    started = time.monotonic()
    try:
        threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        with pytest.raises(StopRequested):
            call_llama(lambda: time.sleep(3))
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert time.monotonic() - started < 2


def _write_matrix(path: Path, columns: int) -> Path:
    """A Llama GGUF with one f16 matrix of 8 rows, enough for the quantizer."""
    import numpy as np
    from gguf import GGUFWriter

    writer: Any = GGUFWriter(path, "llama")
    writer.add_context_length(32)
    writer.add_embedding_length(columns)
    writer.add_block_count(1)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tensor("blk.0.ffn_up.weight", np.ones((8, columns), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
