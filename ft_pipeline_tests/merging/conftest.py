"""Fixtures of the merge's tests."""

from __future__ import annotations

import logging
import multiprocessing
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ft_pipeline.merging import beside
from ft_pipeline.merging.merge import MergeRequest, merge_adapter
from ft_pipeline.processes.reporter import LogReporter
from ft_pipeline.summary import Summary
from ft_pipeline_tests.merging.tiny_adapter import make_adapter, make_base

Merge = Callable[..., tuple[Path, Summary]]


@pytest.fixture(scope="session", autouse=True)
def _libraries() -> None:
    """Import what the tests use; what third parties warn of while they are imported is not ours to fail on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import peft
        import transformers

        # Loaded on first use otherwise.
        assert peft.LoraConfig
        assert transformers.LlamaForCausalLM
        assert transformers.Qwen2ForCausalLM


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with tied embeddings, in several files."""
    return make_base(tmp_path_factory.mktemp("llama") / "base", tie_word_embeddings=True, max_shard_size="60KB")


@pytest.fixture(scope="session")
def adapter(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """LoRA on all of its linear layers."""
    return make_adapter(tmp_path_factory.mktemp("llama") / "adapter", base)


@pytest.fixture
def merge_as_shipped(tmp_path: Path) -> Merge:
    """The merge, into a folder of the test."""

    def run(base: Path, adapter: Path, **settings: Any) -> tuple[Path, Summary]:
        out_dir = tmp_path / "merged"
        out_dir.mkdir()
        request = MergeRequest(base=base, adapter=adapter, out_dir=out_dir, **settings)
        return out_dir, merge_adapter(request, LogReporter(logging.getLogger("merge")))

    return run


@pytest.fixture
def merge(merge_as_shipped: Merge, monkeypatch: pytest.MonkeyPatch) -> Merge:
    """The same with the comparison of logits in a thread: a process takes seconds to import what is here already."""
    monkeypatch.setattr("ft_pipeline.merging.merge.running_beside", _running_in_a_thread)
    return merge_as_shipped


@contextmanager
def _running_in_a_thread(prepare: Callable[[], None], work: beside.Work) -> Iterator[beside.Beside]:
    here, there = multiprocessing.Pipe()
    thread = threading.Thread(target=beside._serve, args=(there, prepare, work))
    thread.start()
    try:
        yield beside.Beside(thread, here, work.__name__)
    finally:
        here.send(("end", None))  # where the merge has failed, the thread still waits for files
        thread.join(60)
        here.close()
        assert not thread.is_alive()
