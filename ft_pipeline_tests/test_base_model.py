from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.base_model import BaseModel, copy_tokenizer, open_base, published_hashes, require_vocabulary
from ft_pipeline.errors import BaseModelError
from ft_pipeline.fingerprint import hash_file
from ft_pipeline.recipe import BaseModelSection
from ft_pipeline_tests.fake_hub import COMMIT, GATED, MODEL, HubContent, serve_hub


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
    base = _copy(tiny_base, tmp_path)
    (base / "model.safetensors").unlink()
    (base / "model.safetensors.index.json").write_text(index)
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


@pytest.fixture
def hub(tmp_path: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubContent]:
    content = HubContent(files={path.name: path.read_bytes() for path in tiny_base.iterdir() if path.is_file()})
    with serve_hub(content, str(tmp_path / "cache"), monkeypatch):
        yield content


def test_a_base_of_the_hub_is_fetched_once_at_its_commit(tmp_path: Path, tiny_base: Path, hub: HubContent) -> None:
    found = open_base(_section(MODEL, COMMIT), tmp_path)
    assert found.identity == f"{MODEL}@{COMMIT}"
    assert (found.path / "model.safetensors").read_bytes() == (tiny_base / "model.safetensors").read_bytes()
    hub.asked.clear()
    assert open_base(_section(MODEL, COMMIT), tmp_path) == found
    assert hub.asked == []


@pytest.mark.usefixtures("hub")
def test_the_hubs_cache_tells_the_hashes_of_the_weights(tmp_path: Path, tiny_base: Path) -> None:
    found = open_base(_section(MODEL, COMMIT), tmp_path)
    assert published_hashes(found.path) == {"model.safetensors": hash_file(tiny_base / "model.safetensors")}
    assert published_hashes(tiny_base) == {}


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (GATED, COMMIT, "org/gated is gated and this account was not let in. .*HF_TOKEN"),
        ("no/such", COMMIT, "no/such must be a repository of the Hub that this account may see: there is none"),
        (MODEL, "f" * 40, f"org/model has no commit {'f' * 40}. .*make pin"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_the_hub_refuses_is_an_error_of_its_own(tmp_path: Path, name: str, revision: str, message: str) -> None:
    with pytest.raises(BaseModelError, match=message):
        open_base(_section(name, revision), tmp_path)


def test_a_hub_that_cannot_be_reached_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(BaseModelError, match=r"org/model at 0{40} is neither in the cache .*Connection refused"):
        open_base(_section(MODEL, "0" * 40), tmp_path)


def _with_tokenizer(tiny_base: Path, root: Path, **changes: Any) -> BaseModel:
    """The tiny base with another vocab_size, added tokens or model."""
    folder = _copy(tiny_base, root)
    config = json.loads((folder / "config.json").read_text())
    config["vocab_size"] = changes.pop("vocab_size", config["vocab_size"])
    (folder / "config.json").write_text(json.dumps({"text_config": config} if changes.pop("nested", 0) else config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    tokenizer["added_tokens"] += changes.pop("added_tokens", [])
    (folder / "tokenizer.json").write_text(json.dumps({**tokenizer, **changes}))
    return BaseModel("base", folder, "")


def test_a_tokenizer_that_fits_the_embedding_is_taken(tiny_base: Path) -> None:
    require_vocabulary(BaseModel("base", tiny_base, ""))


@pytest.mark.parametrize("nested", [0, 1])
def test_a_vocabulary_beyond_the_embedding_is_an_error(tmp_path: Path, tiny_base: Path, nested: int) -> None:
    base = _with_tokenizer(tiny_base, tmp_path, vocab_size=100, nested=nested)
    with pytest.raises(
        BaseModelError, match=r"must be below the rows of the embedding, 100 .*base has \d+ above, up to \d+ \('"
    ):
        require_vocabulary(base)


def test_a_unigram_vocabulary_is_counted_by_its_entries(tmp_path: Path, tiny_base: Path) -> None:
    model = {"type": "Unigram", "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0]]}
    base = _with_tokenizer(tiny_base, tmp_path, vocab_size=2, model=model)
    with pytest.raises(BaseModelError, match=r"up to .*Take the tokenizer that belongs to the base"):
        require_vocabulary(base)


def test_an_added_token_beyond_the_embedding_is_an_error_if_rows_can_hold_it(tmp_path: Path, tiny_base: Path) -> None:
    added = {"id": 10**6, "content": "<image>", "special": False}
    with pytest.raises(BaseModelError, match=r"has 1 above, up to 1000000 \('<image>'\)"):
        require_vocabulary(_with_tokenizer(tiny_base, tmp_path, added_tokens=[added]))


def test_a_special_token_that_nothing_uses_may_lie_beyond_the_embedding(tmp_path: Path, tiny_base: Path) -> None:
    added = {"id": 10**6, "content": "<image>", "special": True}
    base = _with_tokenizer(tiny_base, tmp_path, added_tokens=[added])
    require_vocabulary(base)
    (base.path / "chat_template.jinja").write_text("{{ '<image>' }}")
    with pytest.raises(BaseModelError, match="<image>"):
        require_vocabulary(base)


@pytest.mark.parametrize("text", ["no json", "[]", '{"model": {}}', '{"model": {"vocab": {"a": "b"}}}'])
def test_a_tokenizer_that_does_not_read_is_an_error(tmp_path: Path, tiny_base: Path, text: str) -> None:
    folder = _copy(tiny_base, tmp_path)
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(BaseModelError, match=r"tokenizer.json must be a tokenizer as the tokenizers library writes it"):
        require_vocabulary(BaseModel("base", folder, ""))


def test_a_tokenizer_is_copied_byte_by_byte(tmp_path: Path, tiny_base: Path) -> None:
    copy_tokenizer(tiny_base, tmp_path)
    copied = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"} <= copied.keys()
    assert all((tiny_base / name).read_bytes() == text for name, text in copied.items())


def test_templates_in_a_folder_beside_the_one_that_ships_are_refused(tmp_path: Path, tiny_base: Path) -> None:
    _copy(tiny_base, tmp_path)
    more = tmp_path / "base/additional_chat_templates"
    more.mkdir()
    (more / "default.jinja").write_text("{{ messages }}")
    with pytest.raises(BaseModelError, match=r"a base must have one chat template.*additional_chat_templates"):
        open_base(_section("base"), tmp_path)
