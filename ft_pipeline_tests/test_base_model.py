from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from ft_pipeline.base_model import copy_tokenizer, open_base
from ft_pipeline.errors import BaseModelError
from ft_pipeline.recipe import BaseModelSection


def _section(source: str, revision: str | None = None) -> BaseModelSection:
    return BaseModelSection(source=source, revision=revision)


def _copy(tiny_base: Path, root: Path) -> Path:
    shutil.copytree(tiny_base, root / "base")
    return root / "base"


def test_the_identity_is_that_of_the_bytes(tmp_path: Path, tiny_base: Path) -> None:
    folder = _copy(tiny_base, tmp_path)
    before = open_base(_section("base"), tmp_path).identity
    assert open_base(_section(str(tiny_base)), tmp_path).identity == before
    (folder / "README.md").write_text("a card says nothing about the weights")
    assert open_base(_section("base"), tmp_path).identity == before
    (folder / "chat_template.jinja").write_text("another template")
    assert open_base(_section("base"), tmp_path).identity != before


def test_a_base_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"got './models/mine': there is no folder"):
        open_base(_section("./models/mine"), tmp_path)


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json"])
def test_a_base_that_is_not_whole_is_an_error(tmp_path: Path, tiny_base: Path, name: str) -> None:
    (_copy(tiny_base, tmp_path) / name).unlink()
    with pytest.raises(BaseModelError, match=f"is not whole; it lacks: {name}"):
        open_base(_section("base"), tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path, tiny_base: Path) -> None:
    index = '{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'
    (_copy(tiny_base, tmp_path) / "model.safetensors.index.json").write_text(index)
    with pytest.raises(BaseModelError, match=r"it lacks: model-00001-of-00002.safetensors"):
        open_base(_section("base"), tmp_path)


def test_pickled_weights_are_not_loaded(tmp_path: Path, tiny_base: Path) -> None:
    folder = _copy(tiny_base, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(BaseModelError, match="pickled weights are not loaded"):
        open_base(_section("base"), tmp_path)


def test_a_hub_name_without_a_revision_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match=r"must be pinned: set base_model.revision to the commit"):
        open_base(_section("org/model"), tmp_path)


def test_a_hub_model_that_cannot_be_had_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseModelError, match="is neither in the cache nor to be had from the Hub"):
        open_base(_section("org/model", "0" * 40), tmp_path)


def test_a_tokenizer_is_copied_byte_by_byte(tmp_path: Path, tiny_base: Path) -> None:
    copy_tokenizer(tiny_base, tmp_path)
    copied = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= copied.keys()
    assert all((tiny_base / name).read_bytes() == text for name, text in copied.items())
