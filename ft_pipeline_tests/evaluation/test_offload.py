from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ft_pipeline.errors import EvaluationError
from ft_pipeline.evaluation.gguf_facts import GgufFacts, Layer, read_gguf_facts
from ft_pipeline.evaluation.llama_decoder import Decoder
from ft_pipeline.evaluation.llama_log import Buffer, count_buffers
from ft_pipeline.evaluation.llama_model import LlamaModel
from ft_pipeline.evaluation.llama_runner import LlamaRunner
from ft_pipeline.evaluation.offload import Offload, ScoringDevice, open_scoring_device, plan_offload
from ft_pipeline.evaluation.vram import RESERVED_BYTES, choose_micro_batch, count_vram
from ft_pipeline.finetuning.cards import CARDS
from ft_pipeline.finetuning.device import GpuSettings
from ft_pipeline.finetuning.torch_build import TorchBuild
from ft_pipeline.quantization.split import split_gguf
from ft_pipeline_tests.evaluation.scored import make_row
from ft_pipeline_tests.evaluation.shapes import LLAMA_8B_F16, LLAMA_8B_Q4_K_M
from ft_pipeline_tests.evaluation.tiny_gguf import CONTEXT_TOKENS, make_random_weights, write_gguf
from ft_pipeline_tests.finetuning.fake_driver import RTX_4090, UUID, FakeDriver, make_driver

_GIB = 2**30
SMALL_CARD_BYTES = CARDS["rtx3080"].usable_bytes

layers = st.builds(
    Layer,
    weight_bytes=st.integers(0, _GIB),
    largest_bytes=st.integers(0, _GIB // 4),
    cache_bytes_per_token=st.sampled_from([0, 512, 4096, 65_536]),
    state_bytes=st.sampled_from([0, 2**20]),
)
shapes = st.builds(
    GgufFacts,
    size_bytes=st.integers(0, 2**36),
    layers=st.lists(layers, max_size=40).map(tuple),
    output_bytes=st.integers(0, _GIB),
    vocabulary=st.integers(0, 300_000),
    hidden=st.integers(0, 8192),
    heads=st.integers(0, 64),
    intermediate=st.integers(0, 65_536),
    context_tokens=st.integers(0, 200_000),
)
lengths = st.integers(1, 40_000)
rooms = st.integers(0, 64 * _GIB)


def plan(facts: GgufFacts, free_bytes: int, tokens: int = 512, sequences: int = 64) -> Offload:
    return plan_offload(
        facts, free_vram_bytes=free_bytes, sequences=sequences, tokens_per_sequence=tokens, batch_tokens=2048
    )


def test_an_8b_in_four_bits_fits_a_card_of_10_gb_whole_with_many_sequences() -> None:
    found = plan(LLAMA_8B_Q4_K_M, SMALL_CARD_BYTES)
    assert found.n_gpu_layers == 33
    assert found.sequences >= 32


def test_an_8b_in_sixteen_bits_fits_a_card_of_10_gb_in_part() -> None:
    found = plan(LLAMA_8B_F16, SMALL_CARD_BYTES)
    assert 12 <= found.n_gpu_layers < 33
    assert found.sequences >= 8


def test_long_conversations_leave_fewer_sequences_and_not_fewer_layers() -> None:
    short, long = (plan(LLAMA_8B_Q4_K_M, SMALL_CARD_BYTES, tokens) for tokens in (512, 16_384))
    assert short.n_gpu_layers == long.n_gpu_layers == 33
    assert long.sequences == 1


@given(shapes, rooms, lengths, st.integers(1, 64))
def test_never_takes_more_than_there_is(facts: GgufFacts, free_bytes: int, tokens: int, sequences: int) -> None:
    found = plan(facts, free_bytes, tokens, sequences)
    assert found.vram_bytes <= free_bytes
    assert 1 <= found.sequences <= sequences
    assert 0 <= found.n_gpu_layers <= len(facts.layers) + 1


@given(shapes, rooms, rooms, lengths)
def test_more_memory_never_means_fewer_layers(facts: GgufFacts, one: int, other: int, tokens: int) -> None:
    less, more = sorted((one, other))
    assert plan(facts, less, tokens).n_gpu_layers <= plan(facts, more, tokens).n_gpu_layers


@given(shapes, st.integers(0, RESERVED_BYTES - 1))
def test_no_layer_goes_where_not_even_the_reserve_fits(facts: GgufFacts, free_bytes: int) -> None:
    assert plan(facts, free_bytes).n_gpu_layers == 0


def test_a_large_vocabulary_makes_smaller_micro_batches(random_gguf: Path) -> None:
    assert choose_micro_batch(LLAMA_8B_Q4_K_M, 2048) == 512
    assert choose_micro_batch(read_gguf_facts(random_gguf), 64) == 64
    assert choose_micro_batch(make_shape(vocabulary=262_144), 2048) == 256


def make_shape(**changes: Any) -> GgufFacts:
    values: dict[str, Any] = {
        "size_bytes": 0,
        "layers": (),
        "output_bytes": 0,
        "vocabulary": 1,
        "hidden": 1,
        "heads": 1,
        "intermediate": 1,
        "context_tokens": 1,
    }
    return GgufFacts(**(values | changes))


def test_cache_weights_and_compute_buffer_are_llama_cpps_own(random_gguf: Path) -> None:
    facts = read_gguf_facts(random_gguf)
    with LlamaModel(random_gguf) as model:
        weights = int(model._llama.llama_model_size(model.handle))
        taken = len(model.log.buffers)
        with Decoder(model, sequences=4, tokens_per_sequence=CONTEXT_TOKENS, threads=1):
            buffers = {buffer.kind: buffer.bytes for buffer in model.log.buffers[taken:]}
    assert sum(layer.cache_bytes_per_token for layer in facts.layers) * 4 * CONTEXT_TOKENS == buffers["KV"]
    counted = count_vram(facts, 3, 4, CONTEXT_TOKENS, 512) - RESERVED_BYTES
    embeddings = facts.vocabulary * facts.hidden * 4
    assert counted - buffers["KV"] - (weights - embeddings) == pytest.approx(buffers["compute"], rel=0.25)
    assert counted >= buffers["KV"] + weights - embeddings + buffers["compute"]


def test_tied_embeddings_are_an_output_layer_of_their_own(tmp_path: Path) -> None:
    weights = make_random_weights(seed=0)
    untied = read_gguf_facts(write_gguf(tmp_path / "untied.gguf", weights))
    del weights["output.weight"]
    tied = read_gguf_facts(write_gguf(tmp_path / "tied.gguf", weights))
    assert tied.output_bytes == untied.output_bytes
    assert tied.size_bytes < untied.size_bytes


def test_a_model_without_layers_has_an_output_layer_alone(tmp_path: Path) -> None:
    weights = {name: tensor for name, tensor in make_random_weights(seed=0).items() if not name.startswith("blk.")}
    facts = read_gguf_facts(write_gguf(tmp_path / "flat.gguf", weights))
    assert facts.layers == ()
    assert plan(facts, 2 * _GIB).n_gpu_layers == 1


def test_a_split_file_has_the_layers_and_the_size_of_all_its_parts(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "model.gguf", make_random_weights(seed=0, layers=3))
    whole = read_gguf_facts(path)
    parts = split_gguf(path, 2**21)
    facts = read_gguf_facts(parts[0])
    assert len(parts) > 1
    assert facts.layers == whole.layers
    assert facts.size_bytes == sum(part.stat().st_size for part in parts)
    parts[1].unlink()
    with pytest.raises(EvaluationError, match=r"all parts of a GGUF must be there; .*model-00002-of-\d+\.gguf is not"):
        read_gguf_facts(parts[0])


def test_says_which_file_is_no_gguf(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.gguf").write_bytes(b"no GGUF at all, but long enough for a header")
    with pytest.raises(EvaluationError, match=r"must read a GGUF's header; it refuses .*no\.gguf: .*magic"):
        read_gguf_facts(tmp_path / "no.gguf")
    assert capfd.readouterr().err == ""


# -- the device ------------------------------------------------------------------------------------------------------


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    monkeypatch.setattr("ft_pipeline.finetuning.device._SETTLE_SECONDS", 0.0)
    return make_driver(tmp_path / "bin", monkeypatch)


def use_torch_with_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    build = TorchBuild("2.13.0+cu130", (13, 0), is_rocm=False)
    monkeypatch.setattr("ft_pipeline.finetuning.device.read_torch_build", lambda: build)


def open_device(tmp_path: Path, said: list[str], wanted: str = "auto", limit: int | None = None) -> Any:
    gpu = GpuSettings(wanted, tmp_path / "locks", limit)
    return open_scoring_device(gpu, holder="a test", tell=said.append)


@pytest.mark.parametrize("wanted", ["auto", "cpu"])
def test_the_cpu_is_held_by_nobody_and_sees_no_gpu(driver: FakeDriver, tmp_path: Path, wanted: str) -> None:
    said: list[str] = []
    if wanted == "cpu":
        driver.show(RTX_4090)
    with open_device(tmp_path, said, wanted) as device:
        assert not device.is_gpu
        assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert not (tmp_path / "locks").exists()
    assert said == []


def test_a_torch_for_the_cpu_alone_means_the_cpu_and_says_so(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.show(RTX_4090)
    build = TorchBuild("2.13.0+cpu", None, is_rocm=False)
    monkeypatch.setattr("ft_pipeline.finetuning.device.read_torch_build", lambda: build)
    said: list[str] = []
    with open_device(tmp_path, said) as device:
        assert not device.is_gpu
    assert len(said) == 1
    assert said[0].startswith("scoring runs on the CPU: torch must be a CUDA build")


def test_a_llama_cpp_without_gpu_support_means_the_cpu_and_says_what_to_do(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.show(RTX_4090)
    use_torch_with_cuda(monkeypatch)
    monkeypatch.setattr("ft_pipeline.evaluation.offload._supports_gpu", lambda: False)
    said: list[str] = []
    with open_device(tmp_path, said) as device:
        assert not device.is_gpu
        assert not (tmp_path / "locks").exists()
    assert len(said) == 1
    assert "cannot use NVIDIA GeForce RTX 4090. Install the CUDA toolkit (nvcc) and run make clean setup" in said[0]


def test_a_gpu_is_held_alone_visible_and_limited(
    driver: FakeDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.show(RTX_4090)
    use_torch_with_cuda(monkeypatch)
    monkeypatch.setattr("ft_pipeline.evaluation.offload._supports_gpu", lambda: True)
    with open_device(tmp_path, []) as device:
        assert (device.name, device.label, device.free_bytes) == (UUID, "NVIDIA GeForce RTX 4090", 23_000 * 2**20)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == UUID
        assert (tmp_path / "locks" / f"{UUID}.lock").exists()
    with open_device(tmp_path, [], limit=8 * _GIB) as device:
        assert device.free_bytes == 8 * _GIB


# -- no room on the GPU ----------------------------------------------------------------------------------------------


def leave_room_for(monkeypatch: pytest.MonkeyPatch, at: Any, most: int) -> None:
    """Let a model or a decoder fail where more layers are asked for."""
    enter = at.__enter__

    def fail(entered: Any) -> Any:
        model = entered if isinstance(entered, LlamaModel) else entered._model
        if model.n_gpu_layers > most:
            raise EvaluationError("CUDA error: out of memory")
        return enter(entered)

    monkeypatch.setattr(at, "__enter__", fail)


@pytest.mark.parametrize("at", [LlamaModel, Decoder])
@pytest.mark.parametrize(("most", "tried"), [(9, [9]), (6, [9, 6]), (4, [9, 6, 4]), (0, [9, 6, 4, 0])])
def test_where_there_is_no_room_fewer_layers_are_tried_and_the_scores_are_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: Any, most: int, tried: list[int]
) -> None:
    path = write_gguf(tmp_path / "deep.gguf", make_random_weights(seed=1, layers=8))
    rows = [make_row("what is the colour", "blue"), make_row("ok", "sky")]
    with LlamaRunner(path, cores=1) as runner:
        expected = runner.score(rows, 8)
    leave_room_for(monkeypatch, at, most)
    said: list[str] = []
    card = ScoringDevice("GPU-1", "a card", 4 * _GIB)
    with LlamaRunner(path, cores=1, device=card, tell=said.append) as runner:
        found = runner.score(rows, 8)
        assert runner.model.n_gpu_layers == tried[-1]
    assert said[0] == "deep.gguf: 9 of 9 layers go onto a card"
    assert len(said) == len(tried)
    assert all("out of memory" in sentence for sentence in said[1:])
    assert [row.prediction for row in found] == [row.prediction for row in expected]


def test_a_damaged_file_is_an_error_on_a_gpu_too(tmp_path: Path, random_gguf: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(random_gguf.read_bytes()[:200_000])
    device = ScoringDevice("GPU-1", "a card", 4 * _GIB)
    with pytest.raises(EvaluationError, match=r"damaged\.gguf"), LlamaRunner(damaged, device=device):
        pass


def test_memory_on_the_host_is_told_from_memory_on_the_gpu() -> None:
    buffers = [
        Buffer("CPU_Mapped", "model", 1),
        Buffer("CUDA0", "model", 10),
        Buffer("CUDA0", "KV", 20),
        Buffer("CUDA0", "compute", 99),
        Buffer("CUDA0", "compute", 30),
        Buffer("CUDA_Host", "output", 2),
    ]
    assert count_buffers(buffers, on_gpu=True) == 60
    assert count_buffers(buffers, on_gpu=False) == 3
