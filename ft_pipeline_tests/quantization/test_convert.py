"""llama.cpp's converter: what it takes, what it refuses, and what it leaves to be mended."""

from __future__ import annotations

import json
import re
import shutil
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from ft_pipeline.errors import ConversionError, DiskSpaceError, EnvironmentMismatch
from ft_pipeline.quantization.convert import Conversion, check_converter, default_converter
from ft_pipeline.quantization.gguf_header import count_bytes
from ft_pipeline.quantization.llama_library import open_vocabulary
from ft_pipeline.quantization.parity import compare_tokens
from ft_pipeline.quantization.references import build_references
from ft_pipeline.quantization.trained_tokenizer import TrainedTokenizer
from ft_pipeline.quantization.vocabulary import repair_vocabulary
from ft_pipeline_tests.quantization.conftest import copy_model, make_converter
from ft_pipeline_tests.quantization.file_limit import file_limit
from ft_pipeline_tests.quantization.model_folders import make_unknown_tokenizer

# A converter's beginning: half a file.
_HALF = "import os, pathlib, signal, sys, time\npathlib.Path(sys.argv[sys.argv.index('--outfile') + 1]).touch()\n"


@pytest.fixture(scope="module")
def refusals(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What becomes of models that the real converter refuses; its runs go side by side."""
    folder = tmp_path_factory.mktemp("refused")
    unknown_tokenizer = copy_model(model, folder / "unknown-tokenizer")
    make_unknown_tokenizer(unknown_tokenizer)
    unknown_architecture = copy_model(model, folder / "unknown-architecture")
    _edit(unknown_architecture / "config.json", architectures=["TinyForCausalLM"])
    messages = {}
    with ExitStack() as stack:
        runs = {
            path.name: stack.enter_context(Conversion(path, folder / f"{path.name}.gguf", "demo", default_converter()))
            for path in (unknown_tokenizer, unknown_architecture)
        }
        for name, run in runs.items():
            with pytest.raises(ConversionError) as refusal:
                run.wait()
            messages[name] = str(refusal.value)
    return messages


def test_explains_a_tokenizer_that_llama_cpp_does_not_know(refusals: dict[str, str]) -> None:
    assert "knows byte-level BPE tokenizers by a hash, and not this one" in refusals["unknown-tokenizer"]
    assert "BPE pre-tokenizer was not recognized" in refusals["unknown-tokenizer"]


def test_explains_an_architecture_that_llama_cpp_does_not_know(refusals: dict[str, str]) -> None:
    assert "does not know the architecture" in refusals["unknown-architecture"]
    assert "Model TinyForCausalLM is not supported" in refusals["unknown-architecture"]


def test_shows_the_last_lines_of_an_unforeseen_failure(model: Path, tmp_path: Path) -> None:
    tree = make_converter(tmp_path / "tree", "import sys\nsys.exit('on fire')\n")
    with (
        Conversion(model, tmp_path / "out.gguf", "demo", tree) as conversion,
        pytest.raises(ConversionError, match=r"exit status 1\. Its last lines:\non fire"),
    ):
        conversion.wait()


def test_does_not_take_another_refusal_for_an_unknown_architecture(model: Path, tmp_path: Path) -> None:
    said = "The rope scaling type linear is not supported yet"
    tree = make_converter(tmp_path / "tree", f"raise NotImplementedError({said!r})\n")
    with (
        Conversion(model, tmp_path / "out.gguf", "demo", tree) as conversion,
        pytest.raises(ConversionError, match=rf"(?s)exit status 1\. Its last lines:\n.*{said}"),
    ):
        conversion.wait()


def test_ends_the_converter_when_the_caller_is_stopped(model: Path, tmp_path: Path) -> None:
    tree = make_converter(tmp_path / "tree", "import time\ntime.sleep(60)\n")
    conversion = Conversion(model, tmp_path / "out.gguf", "demo", tree)
    with pytest.raises(KeyboardInterrupt), conversion:
        raise KeyboardInterrupt
    assert conversion.running is False


@pytest.mark.parametrize(
    ("ending", "error", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL)", ConversionError, "was killed by SIGKILL while it converted .*model"),
        ("sys.exit('on fire')", ConversionError, "failed on .*model with exit status 1"),
        (
            "raise OSError(28, os.strerror(28))",
            DiskSpaceError,
            r"must hold out\.gguf; .* 'OSError: .*'; [0-9,]+ bytes of the",
        ),
    ],
    ids=["killed", "failed", "disk-full"],
)
def test_leaves_no_half_file(ending: str, error: type[Exception], reason: str, model: Path, tmp_path: Path) -> None:
    tree, outfile = make_converter(tmp_path / "tree", _HALF + ending), tmp_path / "out.gguf"
    with pytest.raises(error, match=reason), Conversion(model, outfile, "demo", tree) as conversion:
        conversion.wait()
    assert not outfile.exists()


def test_a_stop_while_the_converter_works_ends_it_and_leaves_no_half_file(model: Path, tmp_path: Path) -> None:
    script = _HALF + "os.kill(os.getppid(), signal.SIGUSR1)\ntime.sleep(60)\n"
    outfile = tmp_path / "out.gguf"
    conversion = Conversion(model, outfile, "demo", make_converter(tmp_path / "tree", script))
    before = signal.signal(signal.SIGUSR1, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), conversion:
            conversion.wait()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert conversion.running is False
    assert not outfile.exists()


@pytest.fixture(scope="module")
def cut_off(model: Path, f16: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, str]:
    """What is told of files that lack so many bytes; the converter's runs go side by side."""
    folder, messages = tmp_path_factory.mktemp("cut"), {}
    with ExitStack() as stack:
        runs = {}
        for missing in (5, 500, 3000, 1_000_000):
            with file_limit(f16.stat().st_size - missing):  # of the same name, so it is as long
                run = Conversion(model, folder / f"{missing}.gguf", "demo", default_converter())
                runs[missing] = stack.enter_context(run)
        for missing, run in runs.items():
            with pytest.raises(DiskSpaceError) as refusal:
                run.wait()
            messages[missing] = str(refusal.value)
    assert not list(folder.iterdir())
    return messages


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (5, r"[0-9,]+ of its [0-9,]+ bytes are there; [0-9,]+ bytes of the disk are free"),
        (500, r"[0-9,]+ of its [0-9,]+ bytes are there"),
        (3000, "the converter says '.* requested and .* written'"),
        (1_000_000, "the converter says '.* requested and .* written'"),
    ],
)
def test_a_file_that_the_disk_cuts_off_is_told_and_not_kept(missing: int, reason: str, cut_off: dict[int, str]) -> None:
    place = rf"the disk must hold {missing}\.gguf; it, or a quota or limit on file sizes \(ulimit -f\), became full"
    assert re.search(rf"{place} .*: {reason}", cut_off[missing])


def test_knows_from_the_header_how_long_a_file_must_be(model: Path, f16: Path, tmp_path: Path) -> None:
    vocabulary, cut = tmp_path / "vocabulary.gguf", tmp_path / "cut.gguf"
    with Conversion(model, vocabulary, "demo", default_converter(), vocab_only=True) as conversion:
        conversion.wait()
    assert count_bytes(vocabulary) == vocabulary.stat().st_size
    assert count_bytes(f16) == f16.stat().st_size
    cut.write_bytes(vocabulary.read_bytes()[:-5])
    with pytest.raises(ConversionError, match=r"cut\.gguf must be a whole GGUF, and ends within its header"):
        count_bytes(cut)


def test_a_model_in_bfloat16_stays_in_it(model: Path, tmp_path: Path) -> None:
    from gguf import GGMLQuantizationType, GGUFReader

    outfile = tmp_path / "out.gguf"
    with Conversion(model, outfile, "demo", default_converter(), outtype="bf16") as conversion:
        conversion.wait()
    types = {tensor.name: tensor.tensor_type for tensor in GGUFReader(outfile).tensors}
    assert types["blk.0.attn_q.weight"] == GGMLQuantizationType.BF16


def test_refuses_a_folder_without_a_tokenizer(model: Path, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(model, tmp_path / "bare", ignore=shutil.ignore_patterns("tokenizer*")))
    with pytest.raises(ConversionError, match=r"carries its tokenizer; .*bare has none of tokenizer\.json"):
        Conversion(bare, tmp_path / "out.gguf", "demo", default_converter())


def test_refuses_a_converter_of_another_version(tmp_path: Path) -> None:
    tree = make_converter(tmp_path / "tree", "", release="0.0.1")
    with pytest.raises(EnvironmentMismatch, match=r"is of llama-cpp-python 0\.0\.1, installed is .*make setup"):
        check_converter(tree)


def test_refuses_a_missing_converter(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMismatch, match="Run: make setup"):
        check_converter(tmp_path)


def test_mends_what_the_converter_leaves_open(
    f16: Path, model: Path, trained: TrainedTokenizer, tmp_path: Path
) -> None:
    references = build_references(trained, [])
    plain = _undo_repair(f16, tmp_path / "plain.gguf")
    assert compare_tokens(plain, trained, references).different > 0
    assert repair_vocabulary(plain, model)
    assert plain.read_bytes() == f16.read_bytes()
    assert compare_tokens(plain, trained, references).different == 0


def test_leaves_a_vocabulary_with_scores_alone(f16: Path, model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copyfile(f16, tmp_path / "copy.gguf"))
    assert not repair_vocabulary(copy, model)


def test_keeps_the_trained_template(f16: Path, trained: TrainedTokenizer) -> None:
    with open_vocabulary(f16) as vocabulary:
        assert vocabulary.chat_template == trained.template


def _undo_repair(source: Path, target: Path) -> Path:
    """The GGUF as llama.cpp's converter wrote it."""
    from gguf import GGUFReader, TokenType

    shutil.copyfile(source, target)
    reader = GGUFReader(target, "r+")
    scores, types = (reader.fields[f"tokenizer.ggml.{name}"] for name in ("scores", "token_type"))
    for index in scores.data:
        scores.parts[index][0] = -1000.0
    types.parts[types.data[3]][0] = TokenType.NORMAL  # <|im_start|>: a special token without a role
    reader.data.flush()
    return target


def _edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | changes), encoding="utf-8")
