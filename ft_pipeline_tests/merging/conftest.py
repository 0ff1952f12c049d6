"""Fixtures of the merge's tests."""

from __future__ import annotations

import warnings

import pytest


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
