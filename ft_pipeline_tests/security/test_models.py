"""An untrusted base: safetensors only, and none of its code runs."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.base_model import open_base
from ft_pipeline.errors import BaseModelError, ConversionError
from ft_pipeline.quantization.convert import Conversion, default_converter
from ft_pipeline.recipe import BaseModelSection

# A module that only unpickles when it is asked to is no danger, but nobody here asks.
_FORBIDDEN = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "torch.load", "torch.save", "joblib.load", "marshal.load",
    "marshal.loads", "shelve.open", "yaml.load", "yaml.unsafe_load", "os.system", "eval", "exec", "__import__",
}  # fmt: skip


class _Bomb:
    def __init__(self, mark: Path) -> None:
        self._mark = mark

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self._mark),)


@pytest.fixture
def base(tmp_path: Path, tiny_base: Path) -> Path:
    """A base that a test may change."""
    return Path(shutil.copytree(tiny_base, tmp_path / "base"))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """What is there once code of the base has run."""
    return tmp_path / "canary"


def test_no_line_of_ours_unpickles_evaluates_or_trusts_remote_code(project: Path) -> None:
    found = [
        f"{path.relative_to(project)}:{line}"
        for folder in ("ft_pipeline", "scripts")
        for path in (project / folder).rglob("*.py")
        for line in _find_forbidden(path.read_text(encoding="utf-8"))
    ]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle; pickle.loads(data)",
        "from pickle import loads; loads(data)",
        "from pickle import loads as read; read(data)",
        "import pickle; pickle.Unpickler(file).load()",
        "import pickle; read = pickle.loads",
        "import torch; torch.load(path)",
        "import torch as t; t.load(path)",
        "AutoModel.from_pretrained(x, trust_remote_code=True)",
        "numpy.load(path, allow_pickle=True)",
        "subprocess.run(words, shell=True)",
        "eval(text)",
    ],
)
def test_the_scan_finds_what_it_is_for(line: str) -> None:
    assert _find_forbidden(line)


@pytest.mark.parametrize("line", ["import json; json.loads(x)", "from json import loads; loads(x)", "model.eval()"])
def test_the_scan_finds_nothing_else(line: str) -> None:
    assert _find_forbidden(line) == []


def test_a_pickle_that_calls_itself_safetensors_is_not_unpickled(base: Path, canary: Path) -> None:
    (base / "model.safetensors").write_bytes(pickle.dumps(_Bomb(canary)))
    with pytest.raises(BaseModelError, match="is damaged or truncated"):
        _open(base)
    assert not canary.exists()
    pickle.loads((base / "model.safetensors").read_bytes())  # noqa: S301 - it is armed
    assert canary.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt"])
def test_pickled_weights_beside_safetensors_are_no_part_of_the_base(base: Path, canary: Path, name: str) -> None:
    before = _open(base)
    (base / name).write_bytes(pickle.dumps(_Bomb(canary)))
    assert _open(base) == before
    assert not canary.exists()


def _header(length: int, text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", length) + text + data


def _overlapping() -> bytes:
    tensors = {name: {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]} for name in ("a", "b")}
    text = json.dumps(tensors).encode()
    return _header(len(text), text, bytes(16))


def _beyond_the_end() -> bytes:
    text = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}).encode()
    return _header(len(text), text, bytes(16))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(_header(1 << 62, b"{}"), id="a header of exabytes"),
        pytest.param(_header((1 << 64) - 1, b"{}"), id="a header of the largest number"),
        pytest.param(_header(200_000_000, b"{}"), id="a header longer than the file"),
        pytest.param(_header(100_000, b"[" * 100_000), id="a header nested without end"),
        pytest.param(_header(2, b"\xff\xfe"), id="a header that is no text"),
        pytest.param(_overlapping(), id="tensors that overlap"),
        pytest.param(_beyond_the_end(), id="a tensor of terabytes"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_malicious_header_is_an_error_and_takes_no_memory(base: Path, content: bytes) -> None:
    (base / "model.safetensors").write_bytes(content)
    with pytest.raises(BaseModelError, match=r"is damaged or truncated|not be those|must be those"):
        _open(base)


def test_an_adapter_in_the_folder_cannot_name_another_base(base: Path) -> None:
    (base / "adapter_config.json").write_text('{"base_model_name_or_path": "somebody/else"}')
    with pytest.raises(BaseModelError, match=r"holds adapter_config\.json, by which the libraries would load another"):
        _open(base)


@pytest.mark.parametrize("field", ["attn_implementation", "_attn_implementation", "experts_implementation"])
def test_a_config_cannot_name_a_kernel_of_the_hub(base: Path, field: str) -> None:
    _edit(base / "config.json", {field: "somebody/kernel"})
    with pytest.raises(BaseModelError, match=rf"names the package 'somebody/kernel' \({field}\)"):
        _open(base)


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json", "config.json"])
def test_a_link_to_a_file_elsewhere_is_not_copied_into_what_is_published(base: Path, tmp_path: Path, name: str) -> None:
    secret = tmp_path / "id_rsa"
    shutil.copy(base / name, secret) if (base / name).exists() else secret.write_text("key")
    (base / name).unlink(missing_ok=True)
    (base / name).symlink_to(secret)
    with pytest.raises(BaseModelError, match=rf"{name} is a link to a file elsewhere"):
        _open(base)


def test_weights_on_another_disk_and_the_hubs_cache_are_taken(base: Path, tmp_path: Path) -> None:
    (base / "model.safetensors").rename(tmp_path / "weights")
    (base / "model.safetensors").symlink_to(tmp_path / "weights")
    blobs, snapshot = tmp_path / "cache/blobs", tmp_path / "cache/snapshots/0123"
    shutil.copytree(base, snapshot)
    blobs.mkdir()
    (snapshot / "config.json").rename(blobs / "abc")
    (snapshot / "config.json").symlink_to("../../blobs/abc")
    assert _open(snapshot).identity == _open(base).identity


# Architectures whose tokenizer llama.cpp's converter loads with trust_remote_code=True.
@pytest.mark.parametrize("architecture", ["QWenLMHeadModel", "ChatGLMModel", "LLaDAModelLM"])
def test_the_converter_runs_no_code_of_a_base_that_calls_itself_another_architecture(
    base: Path, tmp_path: Path, canary: Path, architecture: str
) -> None:
    (base / "evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Evil: pass\n")
    _edit(base / "config.json", {"architectures": [architecture], "auto_map": {"AutoConfig": "evil.Evil"}})
    _edit(base / "tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}})
    with (
        Conversion(base, tmp_path / "out.gguf", "demo", default_converter(), vocab_only=True) as conversion,
        pytest.raises(ConversionError, match="no code of a model is run"),
    ):
        conversion.wait()
    assert not canary.exists()
    assert not (tmp_path / "out.gguf").exists()


def _open(base: Path) -> Any:
    return open_base(BaseModelSection(source=str(base)), base.parent)


def _edit(path: Path, fields: dict[str, Any]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def _find_forbidden(source: str) -> list[int]:
    """The lines that name something forbidden, under whatever name it was imported, or say yes to what is."""
    nodes = list(ast.walk(ast.parse(source)))
    imported: dict[str, str] = {}
    for node in nodes:
        if isinstance(node, ast.Import):
            imported |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            imported |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return [
        node.lineno
        for node in nodes
        if (isinstance(node, ast.Name | ast.Attribute) and _name(node, imported) in _FORBIDDEN)
        or (isinstance(node, ast.Call) and any(map(_says_yes, node.keywords)))
    ]


def _name(node: ast.expr, imported: dict[str, str]) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value, imported)}.{node.attr}"
    return imported.get(node.id, node.id) if isinstance(node, ast.Name) else "?"


def _says_yes(word: ast.keyword) -> bool:
    is_no = isinstance(word.value, ast.Constant) and word.value.value is False
    return word.arg in {"trust_remote_code", "allow_pickle", "shell"} and not is_no
