"""llama.cpp's quantizer, through the installed library."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ft_pipeline.errors import ConversionError, DiskSpaceError
from ft_pipeline.quantization.llama_library import call_llama, load_fully, open_vocabulary
from ft_pipeline.quantization.plan import make_plan, run_quantizer
from ft_pipeline.quantization.quantize import predict_size, quantize_gguf
from ft_pipeline.quantization.quantizer_parameters import QuantizerParameters
from ft_pipeline.quantization.types import TYPES
from ft_pipeline_tests.quantization.gguf_files import Shape, make_importance, write_llama

SHAPE = Shape()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GGUF of some blocks, without a vocabulary."""
    return write_llama(tmp_path_factory.mktemp("quantize") / "f16.gguf", SHAPE)


@pytest.mark.parametrize("type_name", [name for name, found in TYPES.items() if found.not_offered is None])
def test_every_type_of_the_table_can_be_made_in_the_size_foreseen(type_name: str, f16: Path, tmp_path: Path) -> None:
    from gguf import GGUFReader

    importance = _importance_of(f16)
    predicted = predict_size(f16, type_name, importance)
    made = quantize_gguf(f16, tmp_path / "made.gguf", type_name, importance=importance)
    assert made.size_bytes == made.path.stat().st_size == pytest.approx(predicted, rel=0.001)
    assert made.predicted_bytes == predicted
    file_type = GGUFReader(made.path).fields["general.file_type"]
    assert file_type.parts[file_type.data[0]][0] == TYPES[type_name].ftype
    assert load_fully(made.path) > 0


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=st.integers(1, 24).map(lambda blocks: 32 * blocks))
def test_rows_that_are_no_multiple_of_256_are_reported(columns: int, tmp_path: Path) -> None:
    made = quantize_gguf(_write_matrix(tmp_path / "f16.gguf", columns), tmp_path / "made.gguf", "Q4_K_M")
    found = [(fallback.tensor, fallback.columns, fallback.wanted) for fallback in made.fallbacks]
    assert found == ([("blk.0.ffn_up.weight", columns, "q4_K")] if columns % 256 else [])
    assert made.fallbacks == make_plan(tmp_path / "f16.gguf", "Q4_K_M", None, {}).fallbacks


def test_a_file_that_is_no_gguf_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    source, target = tmp_path / "f16.gguf", tmp_path / "made.gguf"
    source.write_bytes(b"not a GGUF")
    with pytest.raises(ConversionError, match=r"could not quantize .*f16\.gguf to Q8_0 \(status 1\)"):
        quantize_gguf(source, target, "Q8_0")
    assert not target.exists()


def test_progress_is_told_tensor_by_tensor(small: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    quantize_gguf(small, tmp_path / "made.gguf", "Q4_K_M", progress=lambda *step: told.append(step))
    assert [(done, total) for done, total, _ in told] == [(done, 16) for done in range(1, 17)]
    assert {name for _, _, name in told} == set(SHAPE.matrices)


def test_what_progress_raises_comes_out_and_no_file_stays(small: Path, tmp_path: Path) -> None:
    def stop(*_: object) -> None:
        raise BrokenPipeError("nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        quantize_gguf(small, tmp_path / "made.gguf", "Q8_0", progress=stop)
    assert not (tmp_path / "made.gguf").exists()


def test_metadata_is_written_besides_the_sources(f16: Path, tmp_path: Path) -> None:
    metadata: dict[str, str | int | float | bool] = {
        "general.url": "☃" * 42,
        "ft.steps": 4_000_000_000,
        "ft.loss": 0.5,
        "ft.merged": True,
    }
    made = quantize_gguf(f16, tmp_path / "made.gguf", "Q8_0", metadata=metadata)
    fields = _read(made.path).fields
    assert {key: fields[key].contents() for key in metadata} == metadata
    with open_vocabulary(made.path) as vocabulary:
        assert vocabulary.name == "demo"


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"general.url": "x" * 128}, "at most 127 bytes .* general.url has one of 128"),
        ({"k" * 128: 1}, "at most 127 bytes"),
        ({"general.url": "a\0b"}, "no zero byte"),
        ({"ft.steps": -1}, r"must be in 0\.\.4294967295; ft.steps is -1"),
        ({"ft.steps": 2**32}, "ft.steps is 4294967296"),
    ],
)
def test_metadata_that_llama_cpp_would_cut_is_refused(
    metadata: dict[str, str | int], message: str, small: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match=message):
        quantize_gguf(small, tmp_path / "made.gguf", "Q8_0", metadata=metadata)
    assert not (tmp_path / "made.gguf").exists()


def test_an_entry_of_another_length_is_named(small: Path, tmp_path: Path) -> None:
    importance = make_importance(SHAPE)
    importance["blk.1.ffn_up.weight"] = importance["blk.1.ffn_up.weight"][:-1]
    with pytest.raises(ConversionError, match=r"for blk\.1\.ffn_up\.weight with 256 it has 255"):
        quantize_gguf(small, tmp_path / "made.gguf", "Q4_K_M", importance=importance)


def test_an_entry_that_is_not_finite_is_named(small: Path, tmp_path: Path) -> None:
    importance = make_importance(SHAPE)
    importance["blk.1.ffn_up.weight"][3] = float("nan")
    with pytest.raises(ConversionError, match=r"must be finite; blk\.1\.ffn_up\.weight"):
        quantize_gguf(small, tmp_path / "made.gguf", "Q4_K_M", importance=importance)


def test_a_matrix_of_another_models_names_is_refused(small: Path, tmp_path: Path) -> None:
    importance = {f"model.{name}": values for name, values in make_importance(SHAPE).items()}
    with pytest.raises(ConversionError, match=r"none of model\.blk\.0\.attn_q\.weight, .* is in f16\.gguf"):
        quantize_gguf(small, tmp_path / "made.gguf", "Q4_K_M", importance=importance)


@pytest.mark.parametrize("type_name", ["IQ2_XXS", "IQ1_S", "Q2_K_S"])
def test_a_tensor_without_an_entry_is_found_before_the_work(type_name: str, small: Path, tmp_path: Path) -> None:
    importance = make_importance(SHAPE)
    del importance["blk.1.ffn_up.weight"]
    told: list[int] = []
    with pytest.raises(ConversionError, match=rf"{type_name} needs .*; 1 of 16 .*\(blk\.1\.ffn_up\.weight as "):
        quantize_gguf(
            small, tmp_path / "made.gguf", type_name, importance=importance, progress=lambda *_: told.append(1)
        )
    assert told == []


def test_a_type_of_a_tensor_that_needs_an_entry_does_not_end_the_process(small: Path, tmp_path: Path) -> None:
    importance = make_importance(SHAPE)
    with pytest.raises(ConversionError, match=r"token_embd\.weight as iq2_xs"):
        quantize_gguf(
            small, tmp_path / "made.gguf", "Q4_K_M", importance=importance, tensor_types={"token_embd": "iq2_xs"}
        )


@pytest.mark.parametrize("missing_bytes", [5, 3000, 200_000])
def test_a_disk_that_takes_no_more_is_an_error_and_no_file_stays(missing_bytes: int, f16: Path, tmp_path: Path) -> None:
    limit, allowed = predict_size(f16, "Q8_0") - missing_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, allowed[1]))
    try:
        with pytest.raises(
            DiskSpaceError, match=rf"made\.gguf needs [\d,]+ bytes in .* ended at {limit:,} with [\d,]+ "
        ):
            quantize_gguf(f16, tmp_path / "made.gguf", "Q8_0")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_without_room_is_found_before_the_work(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(DiskSpaceError, match=r"made\.gguf in Q8_0 needs .* GiB are free"):
        quantize_gguf(small, tmp_path / "made.gguf", "Q8_0")


def test_a_folder_that_is_not_there_is_not_called_a_full_disk(small: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        quantize_gguf(small, tmp_path / "missing" / "made.gguf", "Q8_0")


def test_a_stop_during_the_work_leaves_no_file(tmp_path: Path) -> None:
    class StopRequested(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopRequested

    def ask_to_stop(done: int, _total: int, _name: str) -> None:
        if done == 1:  # a second signal could come when nobody handles it any more
            os.kill(os.getpid(), signal.SIGUSR1)

    source = write_llama(tmp_path / "f16.gguf", Shape(blocks=8, hidden=1024, feed_forward=2048))
    target = tmp_path / "made.gguf"
    before = signal.signal(signal.SIGUSR1, stop)
    try:
        with pytest.raises(StopRequested):
            quantize_gguf(source, target, "Q4_K_M", progress=ask_to_stop)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not target.exists()
    # llama.cpp goes on with that call; what it logs does not get into the next one.
    assert predict_size(source, "Q8_0") == pytest.approx(source.stat().st_size * 8.5 / 16, rel=0.01)


def test_a_stop_before_llama_cpp_has_opened_the_file_leaves_none_later(
    small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class StopRequested(Exception):
        pass

    given: list[Path] = []

    def stop(_source: Path, target: Path, *_: object) -> None:
        given.append(target)
        raise StopRequested

    monkeypatch.setattr("ft_pipeline.quantization.quantize.run_quantizer", stop)
    with pytest.raises(StopRequested):
        quantize_gguf(small, tmp_path / "made.gguf", "Q8_0")
    monkeypatch.undo()
    # What llama.cpp's thread does now.
    with pytest.raises(ConversionError, match="could not quantize"):
        run_quantizer(small, given[0], "Q8_0", QuantizerParameters("Q8_0"))
    assert list(tmp_path.iterdir()) == []


def test_lines_of_the_log_are_told_whole(small: Path) -> None:
    told: list[str] = []
    _, log = call_llama(lambda: _dry_run(small), told.append)
    assert [line for line in log if "blk.0" in line] == [line for line in told if "blk.0" in line] != []


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


def _dry_run(source: Path) -> None:
    """A dry run, as `predict_size` asks llama.cpp for it."""
    import llama_cpp

    parameters = QuantizerParameters("Q8_0", importance=None, tensor_types={}, metadata={}, dry_run=True)
    path = str(source).encode()
    assert llama_cpp.llama_model_quantize(path, path, parameters.pointer) == 0


def _read(path: Path) -> Any:
    from gguf import GGUFReader

    return GGUFReader(path)


def _importance_of(path: Path) -> dict[str, Any]:
    import numpy as np

    tensors = [tensor for tensor in _read(path).tensors if tensor.name.startswith("blk.") and len(tensor.shape) == 2]
    return {tensor.name: np.ones(int(tensor.shape[0]), np.float32) for tensor in tensors}


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
