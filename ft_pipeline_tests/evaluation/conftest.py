"""Tiny GGUF files, written once for all tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline_tests.evaluation.tiny_gguf import Say, make_random_weights, make_scripted_weights, write_gguf


@pytest.fixture(scope="session")
def random_gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every answer depends on the whole prompt."""
    return write_gguf(tmp_path_factory.mktemp("gguf") / "random.gguf", make_random_weights(seed=0))


@pytest.fixture(scope="session")
def saying(tmp_path_factory: pytest.TempPathFactory) -> Say:
    """Makes a model that says what it is told to, and then stops or never does."""
    folder = tmp_path_factory.mktemp("gguf")
    made: dict[tuple[bytes, bool], Path] = {}

    def say(script: bytes, *, stops: bool = True) -> Path:
        if (script, stops) not in made:
            weights = make_scripted_weights(script, stops=stops)
            made[script, stops] = write_gguf(folder / f"{len(made)}.gguf", weights)
        return made[script, stops]

    return say
