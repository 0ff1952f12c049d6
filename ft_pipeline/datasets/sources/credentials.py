"""A recipe's sources without the credentials that a URL may carry, for what is written down."""

from __future__ import annotations

from collections.abc import Sequence

from ft_pipeline.datasets.sources.urls import is_url, split_url
from ft_pipeline.recipe import DatasetSection, SourceSection


def without_credentials(section: DatasetSection) -> DatasetSection:
    """The section as it may be kept: users and the values of queries are `***`."""
    return section.model_copy(
        update={
            "sources": _clean(section.sources),
            "test_sets": {name: _clean(sources) for name, sources in section.test_sets.items()},
            "allowed_roots": tuple(_clean_path(root) for root in section.allowed_roots),
        }
    )


def _clean(sources: Sequence[str | SourceSection]) -> tuple[str | SourceSection, ...]:
    return tuple(
        _clean_path(source) if isinstance(source, str) else source.model_copy(update={"path": _clean_path(source.path)})
        for source in sources
    )


def _clean_path(path: str) -> str:
    return split_url(path).shown if is_url(path) else path
