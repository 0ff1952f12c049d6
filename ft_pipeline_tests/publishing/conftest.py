from __future__ import annotations

from pathlib import Path

import pytest

from ft_pipeline_tests.publishing.small_models import Publishing


@pytest.fixture
def publishing(tmp_path: Path) -> Publishing:
    """A store in which nothing was published yet."""
    return Publishing(tmp_path)
